"""Haiku: `hk.dynamic_unroll` over `hk.LSTM`, `hk.GRU` or `hk.VanillaRNN`, time-major."""

# pyright: reportMissingImports=false
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.peers.peer import back, jax_programs, reordered, require
from benchmarks.problems import Problem

UNCHECKED = {
    "gru": "Haiku's GRU resets before the product with the carry, another function",
    "elman": "Haiku's VanillaRNN has a ReLU in place of tanh",
}

_LSTM, _GRU = (0, 2, 1, 3), (1, 0, 2)  # i, g, f, o and z, r, a


def build(problem: Problem) -> dict[str, harness.Program]:
    require("haiku")
    if problem.lengths is not None:
        raise harness.LeftOut("Haiku has neither lengths nor a mask")
    import haiku as hk

    def unrolled(xs: Any) -> Any:
        core = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}[problem.cell](problem.point.H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    return jax_programs(
        problem,
        lambda params, xs, lengths: model.apply(params, xs),
        _params(problem),
        lambda grads: _read(problem, grads),
    )


def _params(problem: Problem) -> dict[str, dict[str, np.ndarray]]:
    H, w = problem.point.H, problem.weights
    if problem.cell == "lstm":
        b = reordered(problem, "b", _LSTM)
        b[2 * H : 3 * H] -= 1.0  # its step adds one to the forget gate
        both = [reordered(problem, name, _LSTM) for name in ("w_x", "w_h")]
        return {"core/linear": {"w": np.concatenate(both), "b": b}}
    if problem.cell == "gru":
        w_i, w_h, b = (reordered(problem, name, _GRU) for name in ("w_x", "w_h", "b"))
        return {"core": {"w_i": w_i, "w_h": w_h, "b": b}}
    return {
        "core/linear": {"w": w["w_x"], "b": w["b"]},
        "core/linear_1": {"w": w["w_h"], "b": np.zeros_like(w["b"])},
    }


def _read(problem: Problem, grads: Any) -> dict[str, np.ndarray]:
    linear = grads["core/linear"]
    w = back(linear["w"], _LSTM)
    D = problem.point.D
    return {"w_x": w[:D], "w_h": w[D:], "b": back(linear["b"], _LSTM)}
