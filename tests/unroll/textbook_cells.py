"""Cells as in textbooks and papers, each with its step, initial carry and parameters.

None of them separates the input projection by hand. They cover common forms: products in stages, a diagonal recurrence,
a product of relu(h), concatenated inputs, and a module of another library.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

import rnnjax

H, PROJECTED, DEPTH = 5, 2, 3

Params = dict[str, Array]


def shaped(shapes: dict[str, tuple[int, ...]]):
    """`init` of a cell whose parameters have these shapes, D standing for the input's width as 0."""

    def init(key: Array, input_size: int, dtype: DTypeLike | None = None) -> Params:
        keys = jax.random.split(key, len(shapes))
        return {
            name: 0.5 * jax.random.normal(key, tuple(size or input_size for size in shape), dtype)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    return init


def hidden(params: Params, batch_shape: tuple[int, ...] = ()) -> Array:
    return jnp.zeros((*batch_shape, H), jax.tree.leaves(params)[0].dtype)


def gru_reset_before(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    """r gates h before the product, as in Cho et al. (2014)."""
    r = jax.nn.sigmoid(x @ params["w_r"] + h @ params["u_r"] + params["b_r"])
    z = jax.nn.sigmoid(x @ params["w_z"] + h @ params["u_z"] + params["b_z"])
    n = jnp.tanh(x @ params["w_n"] + (r * h) @ params["u_n"] + params["b_n"])
    h = (1 - z) * h + z * n
    return h, h


def minimal_gated_unit(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    """One gate that both forgets and resets: Zhou et al. (2016)."""
    f = jax.nn.sigmoid(x @ params["w_f"] + h @ params["u_f"] + params["b_f"])
    n = jnp.tanh(x @ params["w_n"] + (f * h) @ params["u_n"] + params["b_n"])
    h = (1 - f) * h + f * n
    return h, h


def recurrent_highway(params: Params, s: Array, x: Array) -> tuple[Array, Array]:
    """Three highway layers in each step, with the input at the first: Zilly et al. (2017), with coupled gates."""
    for layer in range(DEPTH):
        a, t = s @ params["r_h"][layer] + params["b_h"][layer], s @ params["r_t"][layer] + params["b_t"][layer]
        if layer == 0:
            a, t = a + x @ params["w_h"], t + x @ params["w_t"]
        t = jax.nn.sigmoid(t)
        s = jnp.tanh(a) * t + s * (1 - t)
    return s, s


class Projected(NamedTuple):
    h: Array  # [*batch, PROJECTED]
    c: Array  # [*batch, H]


def lstm_with_projection(params: Params, carry: Projected, x: Array) -> tuple[Projected, Array]:
    """The hidden state is a projection of the gated cell state: Sak et al. (2014)."""
    i, f, g, o = jnp.split(x @ params["w_x"] + carry.h @ params["w_h"] + params["b"], 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = (jax.nn.sigmoid(o) * jnp.tanh(c)) @ params["w_p"]
    return Projected(h, c), h


def projected_start(params: Params, batch_shape: tuple[int, ...] = ()) -> Projected:
    dtype = params["b"].dtype
    return Projected(jnp.zeros((*batch_shape, PROJECTED), dtype), jnp.zeros((*batch_shape, H), dtype))


def independent(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    """IndRNN: every unit depends only on its own past, Li et al. (2018)."""
    h = jax.nn.relu(x @ params["w"] + params["u"] * h + params["b"])
    return h, h


def rates(params: Params, v: Array, x: Array) -> tuple[Array, Array]:
    """A leaky rate network with W relu(v), another form of an Elman network in theory papers."""
    v = 0.8 * v + 0.2 * (jax.nn.relu(v) @ params["w"] + x @ params["w_x"] + params["b"])
    return v, jax.nn.relu(v)


def lstm_of_concatenation(params: Params, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
    """W [x, h], as most textbooks write the LSTM."""
    h, c = carry
    z = jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"]
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def two_states(params: Params, batch_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
    return hidden(params, batch_shape), hidden(params, batch_shape)


def lstm_with_layer_norm(params: Params, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
    """Both products and the cell state normalised over units: Ba et al. (2016)."""

    def norm(z: Array) -> Array:
        z = z - z.mean(-1, keepdims=True)
        return z * jax.lax.rsqrt((z * z).mean(-1, keepdims=True) + 1e-5)

    h, c = carry
    z = params["g_x"] * norm(x @ params["w_x"]) + params["g_h"] * norm(h @ params["w_h"]) + params["b"]
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(params["g_c"] * norm(c) + params["b_c"])
    return (h, c), h


@dataclasses.dataclass(frozen=True)
class LeakyTanh:
    """A user's class: hyperparameters in the fields, and the three methods."""

    hidden_size: int
    leak: float = 0.1

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> Any:
        return rnnjax.elman_init(key, input_size, self.hidden_size, dtype=dtype)

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Array:
        return rnnjax.elman_initial_carry(params, batch_shape)

    def step(self, params: Any, h: Array, x: Array) -> tuple[Array, Array]:
        h = (1 - self.leak) * h + self.leak * jnp.tanh(x @ params.w_x + h @ params.w_h + params.b)
        return h, h


def of_flax(module: Any) -> rnnjax.StepCell:
    """A Flax cell as a plain step: `module.apply` on its parameters."""

    def init(key: Array, input_size: int, dtype: DTypeLike | None = None) -> Any:
        variables = module.init(key, jnp.zeros(H, dtype), jnp.zeros(input_size, dtype))
        return jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])

    def step(params: Any, h: Array, x: Array) -> tuple[Array, Array]:
        return module.apply({"params": params}, h, x)

    return rnnjax.StepCell(step, hidden, init)


def mgu_of_flax(dtype: str = "float64") -> Any:
    return nn.MGUCell(features=H, param_dtype=jnp.dtype(dtype))


def gates(names: str, per_gate: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{part}_{name}": shape for name in names for part, shape in per_gate.items()}


ONE_GATE = {"w": (0, H), "u": (H, H), "b": (H,)}
FOUR_GATES = {"w_x": (0, 4 * H), "b": (4 * H,)}

HOISTED: dict[str, Any] = {
    "gru_reset_before": rnnjax.StepCell(gru_reset_before, hidden, shaped(gates("rzn", ONE_GATE))),
    "minimal_gated_unit": rnnjax.StepCell(minimal_gated_unit, hidden, shaped(gates("fn", ONE_GATE))),
    "recurrent_highway": rnnjax.StepCell(
        recurrent_highway,
        hidden,
        shaped(
            {"w_h": (0, H), "w_t": (0, H)}
            | {"r_h": (DEPTH, H, H), "r_t": (DEPTH, H, H), "b_h": (DEPTH, H), "b_t": (DEPTH, H)}
        ),
    ),
    "lstm_with_projection": rnnjax.StepCell(
        lstm_with_projection,
        projected_start,
        shaped(FOUR_GATES | {"w_h": (PROJECTED, 4 * H), "w_p": (H, PROJECTED)}),
    ),
    "independent": rnnjax.StepCell(independent, hidden, shaped({"w": (0, H), "u": (H,), "b": (H,)})),
    "rates": rnnjax.StepCell(rates, hidden, shaped({"w_x": (0, H), "w": (H, H), "b": (H,)})),
    "users_class": LeakyTanh(H),
    "lstm_of_concatenation": rnnjax.StepCell(
        lstm_of_concatenation,
        two_states,
        lambda key, size, dtype: shaped({"w": (size + H, 4 * H), "b": (4 * H,)})(key, size, dtype),
    ),
    "mgu_of_flax": of_flax(mgu_of_flax()),
}
"""Cells that are hoisted like the built-in cells."""

LAYER_NORM = rnnjax.StepCell(
    lstm_with_layer_norm,
    two_states,
    shaped(FOUR_GATES | {"w_h": (H, 4 * H), "g_x": (4 * H,), "g_h": (4 * H,)} | {"g_c": (H,), "b_c": (H,)}),
)
"""Its gates are not elementwise."""
