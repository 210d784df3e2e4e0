"""Derivatives against finite differences, to order two, forward and reverse, at 1e-6.

This runs for every cell and engine in the programs of `test_engines`, which are compiled anyway. `check_grads` adds the
other orders of differentiation and compiles about ten functions, so it runs for one cell on the loop, and for another
on the hoisted engine.
"""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from tests import oracles
from tests.registry import (
    CELLS,
    COMBINED,
    FIXED,
    SHORT,
    assert_close,
    compiled,
    cotangents,
    curvature,
    normal,
    on_every_engine,
    sample,
    unroller,
)

STEP = 1e-5


SMOOTH = [name for name in CELLS if name not in FIXED and name != "clockwork"]
"""All but cells with fixed parameters, and one with a clock, whose ticks are not differentiable."""


@on_every_engine(SMOOTH, loop=False)
def test_derivatives_are_finite_differences(name, engine):
    """Central differences along a random direction of params, carry and xs, with masks and resets.

    The JVP is the derivative of the outputs, the Hessian-vector product that of the gradients, and JVP and gradients
    are transposes of each other. (The loop has the same derivatives at 1e-12: `test_engines`.)
    """
    drawn, weights = sample(name), cotangents(name)
    direction = normal(drawn, f"{name} tangents")

    def at(step: float):
        return curvature(name, engine, jax.tree.map(lambda a, v: a + step * v, drawn, direction), COMBINED, weights)

    (here, derivatives), (ahead, _), (behind, _) = at(0), at(STEP), at(-STEP)
    assert_close(derivatives, jax.tree.map(lambda a, b: (a - b) / (2 * STEP), ahead, behind), 1e-6)
    np.testing.assert_allclose(inner(here[1], direction), inner(derivatives[0], weights), rtol=1e-11)


def inner(one, other) -> float:
    return sum(float((a * b).sum()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize(
    ("name", "engine", "reverse"), [("custom", "loop", False), ("elman_tanh", "hoisted", True)], ids=str
)
def test_gradients_to_order_two(name, engine, reverse):
    """Every order of differentiation, with a gap, a reset, a short row and an empty one."""
    drawn = sample(name, steps=3)
    function = compiled(engine, unroller(name, engine, reverse, SHORT))
    check_grads(function, tuple(drawn), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=STEP)


def test_relu_was_checked_away_from_its_kink(monkeypatch):
    """Finite differences fail across the kink, so every pre-activation is at least 100 differences away from it."""
    pre_activations = []

    def watched(z):
        pre_activations.append(z)
        return np.maximum(z, 0)

    monkeypatch.setitem(oracles.ROWS, "elman_relu", oracles.plain(oracles.elman(watched)))
    oracles.unroll("elman_relu", *sample("elman_relu"), **COMBINED._asdict())
    assert np.abs(pre_activations).min() > 1e-3
    assert (np.array(pre_activations) > 0).any() and (np.array(pre_activations) < 0).any()
