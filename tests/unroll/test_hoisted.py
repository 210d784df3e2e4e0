"""What the `hoisted` engine reads from a cell, on gates written in the many ways that people write them.

That its numbers are those of the other engines, for every cell, mask and derivative, is tested in `test_engines`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import LSTMCarry
from rnnjax._unroll import hoisted
from rnnjax._unroll.pointwise import Block, NotHoistable, read_gate
from rnnjax._unroll.tracing import flat_jaxpr
from tests.registry import assert_close

H, T, B, D = 3, 4, 2, 2


def mix(params, carry):
    return carry.h @ params.w_h


@dataclasses.dataclass(frozen=True)
class FourGates:
    """An LSTM whose gate and mix are given."""

    gate_function: Callable[..., Any]
    mix_function: Callable[..., Any] = mix

    def init(self, key, input_size, dtype=None):
        return rnnjax.LSTM(H).init(key, input_size, dtype)

    def initial_carry(self, params, batch_shape=()):
        return rnnjax.lstm_initial_carry(params, batch_shape)

    def project(self, params, xs):
        return rnnjax.lstm_project(params, xs)

    def mix(self, params, carry):
        return self.mix_function(params, carry)

    def gate(self, params, carry, u, r):
        return self.gate_function(params, carry, u, r)

    def step(self, params, carry, x):
        return self.gate(params, carry, self.project(params, x), self.mix(params, carry))


def finish(carry, i, f, g, o):
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h=h, c=c), h


def by_slices(params, carry, u, r):
    z = u + r
    return finish(carry, *(z[..., k * H : (k + 1) * H] for k in range(4)))


def by_axis(params, carry, u, r):
    z = jnp.moveaxis((u + r).reshape(*u.shape[:-1], 4, H), -2, 0)
    return finish(carry, z[0], z[1], z[2], z[3])


def by_parts(params, carry, u, r):
    return finish(carry, *(a + b for a, b in zip(jnp.split(u, 4, -1), r, strict=True)))


def one_block_unused(params, carry, u, r):
    i, f, g, _ = jnp.split(u + r, 4, axis=-1)
    return finish(carry, i, f, g, jnp.zeros_like(i))


def own_activations(params, carry, u, r):
    i, f, g, o = jnp.split(u + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.relu(i) * jax.nn.silu(g)
    h = jnp.where(o > 0, o, jnp.expm1(o)) * jax.nn.softplus(c)
    return LSTMCarry(h=h, c=c), h


def shared_blocks(params, carry, u, r):
    """Two outputs read the same blocks, y has a tree of its own, and h is no function of c."""
    i, f, g, o = jnp.split(u + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + (1 - jax.nn.sigmoid(f)) * jnp.tanh(g) + params.b[:H]
    y = jax.nn.sigmoid(o + carry.c) * jnp.tanh(c) * jax.nn.sigmoid(i)
    return LSTMCarry(h=y / 2 + carry.h / 8, c=c), {"y": y, "c": c}


def jitted(params, carry, u, r):
    return jax.jit(by_slices)(params, carry, u, r)


def mix_in_parts(params, carry):
    return tuple(carry.h @ w for w in jnp.split(params.w_h, 4, axis=-1))


def mix_affine(params, carry):
    return carry.h @ params.w_h * 2 + params.b * 3 + carry.c @ params.w_h


SERVED = {
    "slices": FourGates(by_slices),
    "an axis of blocks": FourGates(by_axis),
    "r in parts": FourGates(by_parts, mix_in_parts),
    "an unused block": FourGates(one_block_unused),
    "other activations": FourGates(own_activations),
    "shared blocks": FourGates(shared_blocks),
    "a jitted gate": FourGates(jitted),
    "an affine mix": FourGates(by_slices, mix_affine),
}


PLAIN_LSTM = ("slices", "an axis of blocks", "r in parts", "a jitted gate", "lstm")


@functools.cache
def expected(gate, cell, features, kind):
    """By `scan`; those that are an LSTM in other words are held to the same numbers, which are computed once."""
    if gate in PLAIN_LSTM and gate != "lstm":
        return expected("lstm", rnnjax.LSTM(H), features, kind)
    return derivatives(cell, features, "scan", TIMINGS[kind])


def derivatives(cell, features, engine, timing):
    """Outputs, gradients, and their derivative along the parameters and inputs."""
    params = cell.init(jax.random.key(0), features)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, features)))

    def loss(params, xs):
        outputs = rnnjax.unroll(cell, params, xs, engine=engine, **timing)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs))

    first = jax.value_and_grad(loss, argnums=(0, 1))
    return jax.jit(lambda params, xs: (first(params, xs), jax.jvp(first, (params, xs), (params, xs))[1]))(params, xs)


MASK = jnp.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
RESETS = jnp.array([[0, 0], [0, 1], [1, 1], [0, 0]], bool)
TIMINGS = {"plain": {}, "masked": {"mask": MASK}, "timed": {"mask": MASK, "resets": RESETS, "reverse": True}}


@pytest.mark.parametrize("gate", SERVED)
def test_any_pointwise_gate_is_served(gate):
    cell = SERVED[gate]
    assert_close(derivatives(cell, D, "hoisted", TIMINGS["masked"]), expected(gate, cell, D, "masked"), 1e-10)


LARGE = {
    "lstm": (rnnjax.LSTM(H), D),
    "lstm, one feature": (rnnjax.LSTM(H), 1),
    "gru": (rnnjax.GRU(H), D),
    "gru, one feature": (rnnjax.GRU(H), 1),
    "slices": (FourGates(by_slices), D),
    "r in parts": (FourGates(by_parts, mix_in_parts), D),
    "other activations": (FourGates(own_activations), D),
    "shared blocks": (FourGates(lambda p, *of: shared_blocks(p._replace(b=jnp.zeros(4 * H)), *of)), D),
}


@pytest.mark.parametrize(
    ("gate", "kind"), [(gate, "timed") for gate in LARGE] + [(gate, "plain") for gate in ("lstm", "gru, one feature")]
)
def test_slopes_in_the_loop_are_those_after_it(gate, kind, monkeypatch):
    """A large step's slopes are computed in the loop; here every step counts as large. Untimed has fewer parts."""
    monkeypatch.setattr(hoisted, "_LARGE_STEP", 0)
    cell, features = LARGE[gate]
    assert_close(derivatives(cell, features, "hoisted", TIMINGS[kind]), expected(gate, cell, features, kind), 1e-10)


def mlp(params, xs):
    """Two matmuls one after the other, a bias that is computed from others, and a nonlinearity at the end."""
    return jnp.tanh(jnp.tanh(xs @ params.w_x) @ params.w_h.T @ params.w_h + params.b * 2)


def with_the_input(params, xs):
    """The input is read again after the matmul."""
    return xs @ params.w_x * xs[..., :1]


@pytest.mark.parametrize("features", [1, D])
@pytest.mark.parametrize("project", [mlp, with_the_input], ids=lambda project: project.__name__)
def test_any_projection_is_served(project, features):
    """Wherever its matmuls end, and whatever comes after them."""

    @dataclasses.dataclass(frozen=True)
    class Projected(FourGates):
        def project(self, params, xs):
            return project(params, xs)

    cell = Projected(by_slices)
    assert_close(derivatives(cell, features, "hoisted", {}), derivatives(cell, features, "scan", {}), 1e-10)


def read_with(change: Callable[..., Any]) -> FourGates:
    return FourGates(lambda params, carry, u, r: by_slices(params, carry, change(u + r), jnp.zeros_like(r)))


REFUSED = {
    "reduce_sum": read_with(lambda z: z - z.sum(-1, keepdims=True)),
    "different hidden units": read_with(lambda z: jnp.roll(z, 1, axis=-1)),
    "rev": read_with(lambda z: z[..., ::-1]),
    "dot_general": FourGates(lambda p, carry, u, r: by_slices(p, carry._replace(c=carry.c @ p.w_h[:, :H]), u, r)),
    "not affine": FourGates(by_slices, lambda params, carry: jnp.tanh(carry.h) @ params.w_h),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(reason):
    cell = REFUSED[reason]
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(NotHoistable, match=reason):
        rnnjax.unroll(cell, params, jnp.ones((T, B, D)), engine="hoisted")


def test_the_lstm_needs_seven_diagonals():
    """c reads its own past and three blocks of r, and h reads one block of r and c: so much for what a step needs."""
    cell = rnnjax.LSTM(H)
    params = cell.init(jax.random.key(0), D)
    carry = cell.initial_carry(params)
    structure = read_gate(cell, params, carry, jnp.zeros(4 * H), jnp.zeros(4 * H))
    c, h = ({block for block in needed if block.kind != "u"} for needed in structure.needs)
    assert c == {Block("carry", 1, 0), Block("r", 0, 0), Block("r", 0, 1), Block("r", 0, 2)}
    assert h == {Block("cut", 0, 0), Block("r", 0, 3)}
    assert structure.carry_outs == (1, 0) and structure.y_outs == (1,) and not structure.shared


@pytest.mark.parametrize(
    "cell",
    [rnnjax.LSTM(H), rnnjax.GRU(H), rnnjax.Elman(H), FourGates(by_slices)],
    ids=["lstm", "gru", "elman", "custom"],
)
def test_one_matmul_a_step_each_way(cell):
    """One in the forward loop and one in the backward loop; all others are over all of time."""
    params = cell.init(jax.random.key(0), D)

    def loss(xs):
        return rnnjax.unroll(cell, params, xs, engine="hoisted")[1].sum()

    closed = flat_jaxpr(jax.grad(loss), jnp.ones((T, B, D)))
    loops = [eqn.params["jaxpr"] for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [str(body).count("dot_general") for body in loops] == [1, 1]
