"""One version of rnnjax in a process of its own: `python -m benchmarks.before_after_worker DEVICES`, from its folder.

It reads requests from its input and writes answers to its output, both pickled:

    {"do": "build", "form": "bare", "task": "train", "cell": "lstm", "point": "8,200,32,64", "seed": 0}   {"cost": ...}
    {"do": "time", "form": "bare", "task": "train", "calls": 5}                                   {"seconds": 0.018}
    {"do": "results", "form": "bare", "task": "train"}                                   {"w_x": array, ...}

An answer is `{"error": "..."}` where the request failed. The process ends when its input does.

The steps that are timed are written as a user would write them. They run with either version of rnnjax: `unroll` is
called by the names of its arguments, which both have. A form is `forward(weights, xs, lengths) -> ys`. Weights are cut
or joined as the step needs them once per call, before the loop, so that gradients come back in the problem's layout.
"""

# pyright: reportMissingImports=false
import contextlib
import gc
import os
import pickle
import signal
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import contest, problems
from benchmarks.problems import Point, Problem, make_problem


def form(name: str, problem: Problem) -> problems.Run:
    """The forward pass of "built-in", "bare", "bare, concatenated", "reset before", "... by lax.scan" or "haiku"."""
    cell, H = problem.cell, problem.point.H
    if name == "built-in":
        built_in, params_type = {
            "lstm": (rnnjax.LSTM, rnnjax.LSTMParams),
            "gru": (rnnjax.GRU, rnnjax.GRUParams),
            "elman": (rnnjax.Elman, rnnjax.ElmanParams),
        }[cell]
        return lambda weights, xs, lengths: _unrolled(built_in(H), params_type(**weights), xs)
    if name == "haiku":
        return haiku(H)

    def plain(weights: Any) -> Any:
        return {key: weights[key] for key in ("w_x", "w_h", "b")}

    def joined(weights: Any) -> Any:
        return {"w": jnp.concatenate([weights["w_x"], weights["w_h"]]), "b": weights["b"]}

    def cut(gates: Any, candidate: Any) -> Any:
        """Of a GRU, r and z, or z and r, and n apart."""
        first = {key: array[..., : 2 * H] for key, array in gates.items()}
        return {"gates": first, "candidate": {key: array[..., 2 * H :] for key, array in candidate.items()}}

    step, layout = {"lstm": lstm_step, "gru": gru_step, "elman": elman_step}[cell], dict
    if name == "bare, concatenated":
        layout = joined
        if cell == "gru":
            step, layout = gru_step_concatenated, lambda w: {**cut(joined(w), plain(w)), "b_hn": w["b_hn"]}
    if name.startswith("reset before"):
        step, layout = gru_step_reset_before, lambda w: cut(plain(w), plain(w))

    def initial_carry(params: Any, batch_shape: tuple[int, ...]) -> Any:
        zeros = jnp.zeros((*batch_shape, H), jnp.float32)
        return (zeros, zeros) if cell == "lstm" else zeros

    def forward(weights: Any, xs: Any, lengths: Any) -> Any:
        params = layout(weights)
        if name == "reset before by lax.scan":  # where Haiku, whose GRU it is, is not installed
            return jax.lax.scan(lambda h, x: step(params, h, x), initial_carry(params, xs.shape[1:2]), xs)[1]
        return _unrolled(rnnjax.StepCell(step_function=step, initial_carry_function=initial_carry), params, xs)

    return forward


def _unrolled(cell: Any, params: Any, xs: Any) -> Any:
    unroll: Any = rnnjax.unroll
    return unroll(cell=cell, params=params, carry=None, xs=xs)[1]


def haiku(H: int) -> problems.Run:
    """The reset-before GRU by `hk.dynamic_unroll` over `hk.GRU`; its gates are z, r, n, as those of the step here."""
    import haiku as hk

    def unrolled(xs: Any) -> Any:
        core = hk.GRU(H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    return lambda w, xs, lengths: model.apply({"core": {"w_i": w["w_x"], "w_h": w["w_h"], "b": w["b"]}}, xs)


def _products(params: Any, h: Any, x: Any) -> Any:
    """x W_x + h W_h + b, or [x, h] W + b; the rows of W are those of W_x, then those of W_h."""
    if "w" in params:
        return jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"]
    return x @ params["w_x"] + h @ params["w_h"] + params["b"]


def lstm_step(params: Any, carry: Any, x: Any) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(_products(params, h, x), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params: Any, h: Any, x: Any) -> Any:
    x_r, x_z, x_n = jnp.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"], 3, axis=-1)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params["b_hn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_step_concatenated(params: Any, h: Any, x: Any) -> Any:
    candidate = params["candidate"]
    r, z = jnp.split(jax.nn.sigmoid(_products(params["gates"], h, x)), 2, axis=-1)
    n = jnp.tanh(x @ candidate["w_x"] + candidate["b"] + r * (h @ candidate["w_h"] + params["b_hn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_step_reset_before(params: Any, h: Any, x: Any) -> Any:
    z, r = jnp.split(jax.nn.sigmoid(_products(params["gates"], h, x)), 2, axis=-1)
    n = jnp.tanh(_products(params["candidate"], r * h, x))
    h = (1 - z) * h + z * n
    return h, h


def elman_step(params: Any, h: Any, x: Any) -> Any:
    h = jnp.tanh(_products(params, h, x))
    return h, h


def answer(programs: dict[tuple[str, str], contest.Program], request: dict[str, Any]) -> dict[str, Any]:
    key = request["form"], request["task"]
    if request["do"] == "build":
        problem = make_problem(request["cell"], Point.parse(request["point"]), seed=request["seed"])
        programs[key] = problems.programs(problem, form(request["form"], problem), tasks=key[1:])[request["task"]]
        return {"cost": programs[key].cost}
    if request["do"] == "time":
        gc.disable()
        try:
            return {"seconds": programs[key].seconds(request["calls"])}
        finally:
            gc.enable()
    results = programs[key].shared(programs[key].call())
    return {name: np.asarray(values) for name, values in results.items()}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends its workers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def say(answer: dict[str, Any]) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    say({"process": contest.prepare(int(sys.argv[1])), "rnnjax": rnnjax.__file__})
    programs: dict[tuple[str, str], contest.Program] = {}
    with contest.float32(), contextlib.suppress(EOFError):
        while request := pickle.load(sys.stdin.buffer):
            try:
                say(answer(programs, request))
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
