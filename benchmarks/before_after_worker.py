"""One version of rnnjax in a process of its own: `python -m benchmarks.before_after_worker DEVICES`, from its folder.

It reads requests from its input and writes answers to its output, each one JSON object on a line:

    {"do": "build", "form": "bare", "task": "train", "cell": "lstm", "point": "8,200,32,64", "seed": 0}   {"cost": ...}
    {"do": "time", "form": "bare", "task": "train", "calls": 5}                                   {"seconds": 0.018}
    {"do": "save", "form": "bare", "task": "train", "path": "result.npz"}                         {"saved": true}

Every answer is `{"error": "..."}` where the request failed. The process ends when its input does.

`FORMS` are the steps that are timed, as a user would write them. They run with either version of rnnjax: `unroll` is
called by the names of its arguments, which both have. A form is `forward(weights, xs) -> ys`; weights are cut or joined
as the step wants them once per call, ahead of the loop, so that gradients come back in the problem's own layout.
"""

# pyright: reportMissingImports=false
import functools
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import contest
from benchmarks.problems import Point, Problem, make_problem

Forward = Callable[[Any, Any], Any]


def built_in(problem: Problem) -> Forward:
    cell_type, params_type = {
        "lstm": (rnnjax.LSTM, rnnjax.LSTMParams),
        "gru": (rnnjax.GRU, rnnjax.GRUParams),
        "elman": (rnnjax.Elman, rnnjax.ElmanParams),
    }[problem.cell]
    forward = _unrolled(cell_type(problem.point.H))
    return lambda weights, xs: forward(params_type(**weights), xs)


def bare(problem: Problem) -> Forward:
    return _of_step({"lstm": lstm_step, "gru": gru_step, "elman": elman_step}[problem.cell], problem)


def bare_concatenated(problem: Problem) -> Forward:
    """The rows of w are those of w_x, then those of w_h; of a GRU for r and z only, its candidate has both apart."""
    steps = {"lstm": lstm_step_concatenated, "gru": gru_step_concatenated, "elman": elman_step_concatenated}
    forward, H = _of_step(steps[problem.cell], problem), problem.point.H

    def of_weights(weights: Any, xs: Any) -> Any:
        both = {"w": jnp.concatenate([weights["w_x"], weights["w_h"]]), "b": weights["b"]}
        if problem.cell != "gru":
            return forward(both, xs)
        gates = {name: array[..., : 2 * H] for name, array in both.items()}
        candidate = {name: array[..., 2 * H :] for name, array in weights.items() if name != "b_hn"}
        return forward({"gates": gates, "candidate": candidate, "b_hn": weights["b_hn"]}, xs)

    return of_weights


def reset_before(problem: Problem, by_scan: bool = False) -> Forward:
    """A GRU whose reset gate acts before the product; `by_scan` where Haiku, whose GRU it is, is not installed."""
    H = problem.point.H

    def scanned(params: Any, xs: Any) -> Any:
        h = jnp.zeros((xs.shape[1], H), xs.dtype)
        return jax.lax.scan(functools.partial(gru_step_reset_before, params), h, xs)[1]

    forward = scanned if by_scan else _of_step(gru_step_reset_before, problem)

    def of_weights(weights: Any, xs: Any) -> Any:
        gates = {name: array[..., : 2 * H] for name, array in weights.items()}
        return forward({"gates": gates, "candidate": {k: array[..., 2 * H :] for k, array in weights.items()}}, xs)

    return of_weights


def haiku(problem: Problem) -> Forward:
    """The reset-before GRU by `hk.dynamic_unroll` over `hk.GRU`; its gates are z, r, n, as those of the step here."""
    import haiku as hk

    def unrolled(xs: Any) -> Any:
        core = hk.GRU(problem.point.H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    return lambda w, xs: model.apply({"core": {"w_i": w["w_x"], "w_h": w["w_h"], "b": w["b"]}}, xs)


FORMS: dict[str, Callable[[Problem], Forward]] = {
    "built-in": built_in,
    "bare": bare,
    "bare, concatenated": bare_concatenated,
    "reset before": reset_before,
    "reset before by lax.scan": functools.partial(reset_before, by_scan=True),
    "haiku": haiku,
}


def lstm_step(params: Any, carry: Any, x: Any) -> Any:
    h, c = carry
    return _lstm_gates(c, x @ params["w_x"] + h @ params["w_h"] + params["b"])


def lstm_step_concatenated(params: Any, carry: Any, x: Any) -> Any:
    h, c = carry
    return _lstm_gates(c, jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"])


def _lstm_gates(c: Any, gates: Any) -> Any:
    i, f, g, o = jnp.split(gates, 4, axis=-1)
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
    gates, candidate = params["gates"], params["candidate"]
    r, z = jnp.split(jax.nn.sigmoid(jnp.concatenate([x, h], axis=-1) @ gates["w"] + gates["b"]), 2, axis=-1)
    n = jnp.tanh(x @ candidate["w_x"] + candidate["b"] + r * (h @ candidate["w_h"] + params["b_hn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_step_reset_before(params: Any, h: Any, x: Any) -> Any:
    gates, candidate = params["gates"], params["candidate"]
    z, r = jnp.split(jax.nn.sigmoid(x @ gates["w_x"] + h @ gates["w_h"] + gates["b"]), 2, axis=-1)
    n = jnp.tanh(x @ candidate["w_x"] + (r * h) @ candidate["w_h"] + candidate["b"])
    h = (1 - z) * h + z * n
    return h, h


def elman_step(params: Any, h: Any, x: Any) -> Any:
    h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"] + params["b"])
    return h, h


def elman_step_concatenated(params: Any, h: Any, x: Any) -> Any:
    h = jnp.tanh(jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"])
    return h, h


def _of_step(step: Callable[..., Any], problem: Problem) -> Callable[[Any, Any], Any]:
    """A bare step as a cell that begins with zeros, of an LSTM h and c."""

    def initial_carry(params: Any, batch_shape: tuple[int, ...]) -> Any:
        zeros = jnp.zeros((*batch_shape, problem.point.H), jnp.float32)
        return (zeros, zeros) if problem.cell == "lstm" else zeros

    return _unrolled(rnnjax.StepCell(step_function=step, initial_carry_function=initial_carry))


def _unrolled(cell: Any) -> Callable[[Any, Any], Any]:
    unroll: Any = rnnjax.unroll
    return lambda params, xs: unroll(cell=cell, params=params, carry=None, xs=xs)[1]


def program(problem: Problem, form: str, task: str) -> contest.Program:
    """`task` is "forward", or "train": the loss Σ y² and its gradients with respect to weights and input."""
    forward = FORMS[form](problem)
    train = jax.value_and_grad(lambda weights, xs: (forward(weights, xs) ** 2).sum(), argnums=(0, 1))
    if task == "forward":
        return contest.compiled(forward, problem.weights, problem.xs, shared=lambda ys: {"ys": ys})

    def shared(result: Any) -> dict[str, Any]:
        loss, (weights, xs) = result
        return {**weights, "xs": xs, "loss": loss}

    return contest.compiled(train, problem.weights, problem.xs, shared=shared)


def answer(programs: dict[tuple[str, str], contest.Program], request: dict[str, Any]) -> dict[str, Any]:
    key = request["form"], request["task"]
    if request["do"] == "build":
        problem = make_problem(request["cell"], Point.parse(request["point"]), seed=request["seed"])
        programs[key] = program(problem, *key)
        return {"cost": programs[key].cost}
    if request["do"] == "time":
        gc.disable()
        try:
            return {"seconds": programs[key].seconds(request["calls"])}
        finally:
            gc.enable()
    results = programs[key].shared(programs[key].call())
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in results.items()}
    np.savez(request["path"], **arrays)
    return {"saved": True}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends its workers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    say({"process": contest.prepare(int(sys.argv[1])), "rnnjax": rnnjax.__file__})
    programs: dict[tuple[str, str], contest.Program] = {}
    with contest.float32():
        for line in sys.stdin:
            try:
                say(answer(programs, json.loads(line)))
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
