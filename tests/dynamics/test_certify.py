"""Certificates: true where closed forms and other methods know the points, and refused in words elsewhere."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnnjax
from rnnjax.dynamics.certify import certifier, certify
from tests.bounds.test_bounds import LOOSE, NO_BOUND
from tests.dynamics.certificates import tally
from tests.registry import CAUSAL, CELLS, sample

NO_POINT = ["lstm_original", "unitary"]
"""Cells that add up without forgetting, or keep the norm of their state."""

SCALES = {"antisymmetric": 0.1, "antisymmetric_gated": 0.1}
"""Of parameters. These cells are marginal for large ones: their damping is weak."""


def scalar(g: float, activation: Any = "tanh", b: float = 0.0):
    """`certifier` of h = φ(g h + b)."""
    params = rnnjax.ElmanParams(jnp.zeros((1, 1)), jnp.full((1, 1), g), jnp.full(1, b))
    return certifier(rnnjax.Elman(1, activation), params, jnp.zeros(1))


def bisected(g: float) -> float:
    """The positive solution of h = tanh(g h) for g > 1."""
    low, high = 1e-3, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.tanh(g * middle) > middle else (low, middle)
    return low


@pytest.mark.parametrize("g", [1.2, 2.0, 4.0])
def test_the_three_points_of_a_tanh_unit(g):
    """Every ball has one of the three points: no radius reaches the next, and errors cover the true distance."""
    prove, star = scalar(g), bisected(g)
    for true, others in ((0.0, (star, -star)), (star, (0.0, -star)), (-star, (0.0, star))):
        for off in (0.0, 1e-9, -1e-4):
            found = prove(jnp.array([true + off]))
            assert found.certified and not found.why
            assert (
                abs(off) <= found.error + 2e-16
                and found.error <= 1.1 * abs(off) + 1e-13
                and found.error <= found.radius
            )
            assert all(abs(other - true - off) > found.radius for other in others)
    assert not prove(jnp.array([star / 2])).certified


def test_critical_units_are_not_certified():
    assert "singular" in scalar(1.0)(jnp.zeros(1)).why
    assert "singular" in scalar(1.0, "linear")(jnp.ones(1)).why  # a line of points
    assert "singular" in scalar(1.0 + 1e-17)(jnp.zeros(1)).why
    near = scalar(1.0 + 1e-6)(jnp.zeros(1))
    assert near.certified and near.radius < bisected(1.0 + 1e-6)


def test_kinks():
    """A ReLU unit is certified up to its kink, not at it, and not across it."""
    prove = scalar(0.5, "relu", 1.0)  # fixed point 2, kink at -2
    assert prove(jnp.array([2.0])).certified and 2 < prove(jnp.array([2.0])).radius < 4
    assert not prove(jnp.array([-2.0])).certified
    at_kink = scalar(0.5, "relu")(jnp.zeros(1))
    assert not at_kink.certified and "kink" in at_kink.why and "`max`" in at_kink.why
    assert at_kink.error == np.inf and at_kink.radius == 0


def test_uncoupled_units_have_all_their_points():
    """3^H points for H units, each alone in its ball, and the balls are disjoint."""
    star, size = bisected(2.0), 3
    params = rnnjax.ElmanParams(jnp.zeros((1, size)), 2 * jnp.eye(size), jnp.zeros(size))
    prove = certifier(rnnjax.Elman(size), params, jnp.zeros(1))
    found = [prove(jnp.array(h)) for h in itertools.product((-star, 0.0, star), repeat=size)]
    assert all(f.certified and f.error < 1e-13 and f.radius < star for f in found)


def test_gates_without_recurrent_weights_have_closed_forms():
    """GRU h* = n, LSTM c* = i g / (1 - f), from the biases alone."""
    rng, sigmoid = np.random.default_rng(0), lambda z: 1 / (1 + np.exp(-z))
    b = rng.normal(size=12)
    i, f, g, o = b.reshape(4, 3)
    c = sigmoid(i) * np.tanh(g) / (1 - sigmoid(f))
    lstm = rnnjax.LSTMParams(jnp.zeros((2, 12)), jnp.zeros((3, 12)), jnp.asarray(b))
    exact = rnnjax.LSTMCarry(h=jnp.asarray(sigmoid(o) * np.tanh(c)), c=jnp.asarray(c))
    found = certify(rnnjax.LSTM(3), lstm, jnp.zeros(2), exact)
    assert found.certified and found.error < 1e-13
    off = certify(rnnjax.LSTM(3), lstm, jnp.zeros(2), exact._replace(c=exact.c + 1e-3))
    assert off.certified and 1e-3 <= off.error < 2e-2


@pytest.mark.parametrize("name", CAUSAL)
def test_cells_are_certified_where_newton_ends(name):
    """And Newton's method from other points of the ball ends at the same one, or leaves."""
    drawn = sample(name, batch_shape=())
    cell, x = CELLS[name], drawn.xs[0]
    params = jax.tree.map(lambda a: SCALES.get(name, 0.4) * a, drawn.params)
    flat, unravel = ravel_pytree(drawn.carry)
    step = lambda h: ravel_pytree(cell.step(params, unravel(h), x)[0])[0]  # noqa: E731
    pair = jax.jit(lambda h: (h - step(h), jnp.eye(h.size) - jax.jacfwd(step)(h)))

    def newton(h: Any):
        for _ in range(50):
            residual, slope = map(np.asarray, pair(h))
            if np.abs(residual).max() < 1e-13 or not np.isfinite(slope).all():
                break
            h = h - np.linalg.lstsq(slope, residual, rcond=1e-12)[0]
        return h, np.abs(residual).max()

    h, residual = newton(np.asarray(jax.lax.fori_loop(0, 500, lambda _, h: step(h), jnp.asarray(flat))))
    found = certifier(cell, params, x)(unravel(h))
    if name in NO_BOUND or name in LOOSE or name in NO_POINT:
        assert not found.certified and found.why
        return
    assert residual < 1e-12 and found.certified, found
    rng = np.random.default_rng(0)
    for _ in range(3):
        other, residual = newton(h + found.radius * rng.uniform(-1, 1, h.size))
        if residual < 1e-12 and np.abs(other - h).max() <= found.radius:
            np.testing.assert_allclose(other, h, atol=1e-8)


def test_random_networks_are_not_contradicted():
    found = tally(40)
    assert found.contradicted == 0 and found.certified > 20


def test_float32_without_x64():
    """The proof is about the same numbers in exact arithmetic, whatever JAX computes in."""
    drawn = sample("gru", "float32", batch_shape=())
    params, carry, x = drawn.params, drawn.carry, drawn.xs[0].astype("float32")
    wide = certify(CELLS["gru"], *jax.tree.map(lambda a: a.astype("float64"), (params, x, carry)))
    with jax.enable_x64(False):
        assert certify(CELLS["gru"], params, x, carry) == wide


def test_far_from_a_point_it_says_so():
    found = scalar(2.0)(jnp.array([0.5]))
    assert not found.certified and "too far" in found.why
    assert "not finite" in scalar(2.0)(jnp.array([np.nan])).why


def test_what_is_no_carry_of_one_row_is_refused():
    params = rnnjax.ElmanParams(jnp.zeros((2, 3)), jnp.eye(3), jnp.zeros(3))
    with pytest.raises(ValueError, match="batch axes"):
        certifier(rnnjax.Elman(3), params, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"\[4, 3\].*\[3\]"):
        certify(rnnjax.Elman(3), params, jnp.zeros(2), jnp.zeros((4, 3)))
    with pytest.raises(TypeError, match="initial_carry"):
        certify(rnnjax.Elman(3), params, jnp.zeros(2), (jnp.zeros(3),))
    for dtype in ("complex128", "int32"):
        cell = rnnjax.StepCell(lambda p, h, x: (h, h), lambda p, batch, dtype=dtype: jnp.zeros(3, dtype))
        with pytest.raises(TypeError, match=rf"{dtype}.*real"):
            certifier(cell, params, jnp.zeros(2))
