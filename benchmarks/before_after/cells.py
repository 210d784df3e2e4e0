"""The steps that are timed, as a user would write them, and their forward pass and training step.

Runs with either version of rnnjax: `unroll` is called by the names of its arguments, which both have.
"""

# pyright: reportMissingImports=false
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from benchmarks.problems import Problem

Weights = Mapping[str, np.ndarray]


class Form(NamedTuple):
    """A way to compute a problem.

    Attributes:
      forward: `(params, xs)` to `ys`, `[T, B, D]` to `[T, B, H]`.
      params: the problem's weights in the form's own layout.
      read: gradients in this layout to those of `problem.weights`, by name.
    """

    forward: Callable[[Any, Array], Array]
    params: Any
    read: Callable[[Any], Weights]


def train(form: Form) -> Callable[..., Any]:
    """`(params, xs)` to the loss Σ y² and its gradients with respect to both."""
    return jax.value_and_grad(lambda params, xs: (form.forward(params, xs) ** 2).sum(), argnums=(0, 1))


def built_in(problem: Problem) -> Form:
    cell_type, params_type = {
        "lstm": (rnnjax.LSTM, rnnjax.LSTMParams),
        "gru": (rnnjax.GRU, rnnjax.GRUParams),
        "elman": (rnnjax.Elman, rnnjax.ElmanParams),
    }[problem.cell]
    return Form(_unrolled(cell_type(problem.point.H)), params_type(**problem.weights), lambda grads: grads._asdict())


def bare(problem: Problem) -> Form:
    step = {"lstm": lstm_step, "gru": gru_step, "elman": elman_step}[problem.cell]
    return Form(_unrolled(_cell(step, problem)), dict(problem.weights), dict)


def bare_concatenated(problem: Problem) -> Form:
    """The rows of w are those of w_x, then those of w_h; of a GRU for r and z only, its candidate has both apart."""
    D, H, weights = problem.point.D, problem.point.H, problem.weights
    both = np.concatenate([weights["w_x"], weights["w_h"]])
    if problem.cell != "gru":
        step = {"lstm": lstm_step_concatenated, "elman": elman_step_concatenated}[problem.cell]
        params = {"w": both, "b": weights["b"]}
        return Form(
            _unrolled(_cell(step, problem)),
            params,
            lambda grads: {"w_x": grads["w"][:D], "w_h": grads["w"][D:], "b": grads["b"]},
        )

    def read(grads: Any) -> Weights:
        return {
            "w_x": np.concatenate([grads["w"][:D], grads["w_x"]], -1),
            "w_h": np.concatenate([grads["w"][D:], grads["w_h"]], -1),
            "b": np.concatenate([grads["b"], grads["b_n"]]),
            "b_hn": grads["b_hn"],
        }

    params = {
        "w": both[:, : 2 * H],
        "b": weights["b"][: 2 * H],
        "w_x": weights["w_x"][:, 2 * H :],
        "w_h": weights["w_h"][:, 2 * H :],
        "b_n": weights["b"][2 * H :],
        "b_hn": weights["b_hn"],
    }
    return Form(_unrolled(_cell(gru_step_concatenated, problem)), params, read)


def reset_before(problem: Problem) -> Form:
    return _reset_before(problem, _unrolled(_cell(gru_step_reset_before, problem)))


def reset_before_scan(problem: Problem) -> Form:
    """`jax.lax.scan` of the same step: in Haiku's stead where it is not installed."""

    def forward(params: Any, xs: Array) -> Array:
        h = jnp.zeros((xs.shape[1], problem.point.H), xs.dtype)
        return jax.lax.scan(lambda h, x: gru_step_reset_before(params, h, x), h, xs)[1]

    return _reset_before(problem, forward)


def haiku(problem: Problem) -> Form:
    """The reset-before GRU by `hk.dynamic_unroll` over `hk.GRU`; its gates are z, r, n, as those of the step here."""
    import haiku as hk

    def unrolled(xs: Any) -> Any:
        core = hk.GRU(problem.point.H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    weights = problem.weights
    params = {"core": {"w_i": weights["w_x"], "w_h": weights["w_h"], "b": weights["b"]}}

    def read(grads: Any) -> Weights:
        grads = grads["core"]
        return {"w_x": grads["w_i"], "w_h": grads["w_h"], "b": grads["b"]}

    return Form(lambda params, xs: model.apply(params, xs), params, read)


FORMS: dict[str, Callable[[Problem], Form]] = {
    "built-in": built_in,
    "bare": bare,
    "bare, concatenated": bare_concatenated,
    "reset before": reset_before,
    "reset before by lax.scan": reset_before_scan,
    "haiku": haiku,
}


def lstm_step(params: Any, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
    h, c = carry
    return _lstm_gates(c, x @ params["w_x"] + h @ params["w_h"] + params["b"])


def lstm_step_concatenated(params: Any, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
    h, c = carry
    return _lstm_gates(c, jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"])


def _lstm_gates(c: Array, gates: Array) -> tuple[tuple[Array, Array], Array]:
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
    x_r, x_z, x_n = jnp.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"], 3, axis=-1)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params["b_hn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_step_concatenated(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
    gates = jax.nn.sigmoid(jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"])
    r, z = jnp.split(gates, 2, axis=-1)
    n = jnp.tanh(x @ params["w_x"] + params["b_n"] + r * (h @ params["w_h"] + params["b_hn"]))
    h = (1 - z) * n + z * h
    return h, h


def gru_step_reset_before(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
    gates = jax.nn.sigmoid(x @ params["w_zr"] + h @ params["u_zr"] + params["b_zr"])
    z, r = jnp.split(gates, 2, axis=-1)
    n = jnp.tanh(x @ params["w_n"] + (r * h) @ params["u_n"] + params["b_n"])
    h = (1 - z) * h + z * n
    return h, h


def elman_step(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
    h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"] + params["b"])
    return h, h


def elman_step_concatenated(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
    h = jnp.tanh(jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"])
    return h, h


def _cell(step: Callable[..., Any], problem: Problem) -> Any:
    """A bare step as a cell: zeros to begin with, of an LSTM h and c."""

    def initial_carry(params: Any, batch_shape: tuple[int, ...]) -> Any:
        zeros = jnp.zeros((*batch_shape, problem.point.H), jnp.float32)
        return (zeros, zeros) if problem.cell == "lstm" else zeros

    return rnnjax.StepCell(step_function=step, initial_carry_function=initial_carry)


def _unrolled(cell: Any) -> Callable[[Any, Array], Array]:
    unroll: Any = rnnjax.unroll
    return lambda params, xs: unroll(cell=cell, params=params, carry=None, xs=xs)[1]


def _reset_before(problem: Problem, forward: Callable[[Any, Array], Array]) -> Form:
    H, weights = problem.point.H, problem.weights
    names = {"w_x": ("w_zr", "w_n"), "w_h": ("u_zr", "u_n"), "b": ("b_zr", "b_n")}
    params = {}
    for name, (gates, candidate) in names.items():
        params[gates], params[candidate] = weights[name][..., : 2 * H], weights[name][..., 2 * H :]
    return Form(
        forward,
        params,
        lambda grads: {name: np.concatenate([grads[part] for part in parts], -1) for name, parts in names.items()},
    )
