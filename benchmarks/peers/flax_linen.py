"""Flax linen: `nn.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

With `ours` the same model with `rnnjax.flax.linen.RNN` in its place: the one-line change of a user of Flax.
"""

from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.peers.peer import cut, jax_programs, require
from benchmarks.problems import Problem

_GATES = {"lstm": "ifgo", "gru": "rzn"}


def build(problem: Problem, *, ours: bool = False) -> dict[str, harness.Program]:
    require("flax")
    from flax import linen as nn

    import rnnjax.flax

    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    layer = rnnjax.flax.linen.RNN if ours else nn.RNN
    model = layer(cells[problem.cell](problem.point.H), time_major=True)

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        return model.apply({"params": {"cell": params}}, xs, seq_lengths=lengths)

    return jax_programs(problem, forward, _params(problem), lambda grads: _read(problem, grads))


def _params(problem: Problem) -> dict[str, dict[str, np.ndarray]]:
    if problem.cell == "elman":
        w = problem.weights
        return {"i": {"kernel": w["w_x"], "bias": w["b"]}, "h": {"kernel": w["w_h"]}}
    params: dict[str, dict[str, np.ndarray]] = {}
    parts = zip(*(cut(problem, name) for name in ("w_x", "w_h", "b")), strict=True)
    for gate, (w_x, w_h, b) in zip(_GATES[problem.cell], parts, strict=True):
        params |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h}}
        params[f"h{gate}" if problem.cell == "lstm" else f"i{gate}"]["bias"] = b
    if problem.cell == "gru":
        params["hn"]["bias"] = problem.weights["b_hn"]
    return params


def _read(problem: Problem, grads: Any) -> dict[str, np.ndarray]:
    if problem.cell == "elman":
        return {"w_x": grads["i"]["kernel"], "w_h": grads["h"]["kernel"], "b": grads["i"]["bias"]}
    gates, side = _GATES[problem.cell], "h" if problem.cell == "lstm" else "i"

    def joined(side: str, leaf: str) -> np.ndarray:
        return np.concatenate([grads[side + gate][leaf] for gate in gates], axis=-1)

    read = {"w_x": joined("i", "kernel"), "w_h": joined("h", "kernel"), "b": joined(side, "bias")}
    return read | ({"b_hn": grads["hn"]["bias"]} if problem.cell == "gru" else {})
