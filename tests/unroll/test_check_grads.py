"""Derivatives against finite differences, to order two, forward and reverse, at 1e-6.

`check_grads` compiles about ten functions a cell, so it runs on the loop, eagerly, for every cell, and on every other
engine for one; `test_engines` holds all engines' derivatives, second ones too, to the loop's at 1e-12.
"""

import numpy as np
from jax.test_util import check_grads

from tests import oracles
from tests.registry import SHORT, compiled, every_cell, on_every_engine, sample, unroller

STEPS = 3


def check(name: str, engine: str, reverse: bool = False) -> None:
    drawn = sample(name, steps=STEPS)
    function = compiled(engine, unroller(name, engine, reverse, SHORT))
    check_grads(function, tuple(drawn), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-5)


@every_cell
def test_gradients_to_order_two(name):
    """For params, carry and xs at once, with a gap, a reset, a short row and an empty one."""
    check(name, "loop")


@on_every_engine(["elman_tanh"], loop=False)
def test_gradients_to_order_two_on_every_engine(name, engine):
    """In reverse, for a change."""
    check(name, engine, reverse=True)


def test_relu_was_checked_away_from_its_kink():
    """A finite difference across the kink would say nothing: every pre-activation is 100 steps of it away."""
    params, carry, xs = sample("elman_relu", steps=STEPS)
    pre_activations = []

    def watched(z):
        pre_activations.append(z)
        return np.maximum(z, 0)

    for row in range(xs.shape[1]):
        h = np.asarray(carry[row])
        for t in range(STEPS):
            h, _ = oracles.elman(watched)(params, h, np.asarray(xs[t, row]))
    assert np.abs(pre_activations).min() > 1e-3
    assert (np.array(pre_activations) > 0).any() and (np.array(pre_activations) < 0).any()
