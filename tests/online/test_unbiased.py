"""Rules that are exact on average: the mean over all draws of their signs is RTRL's gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import online
from tests.custom_cells import Leaky
from tests.registry import D, assert_close, normal

STEPS = 4


def all_draws(rule, cell, params, xs, signs):
    """The gradients of all steps, leaves `[draws, T, *leaf]`; `signs` `[draws, T, n]`, or None for RTRL."""
    ws = normal(
        jax.ShapeDtypeStruct((STEPS, *cell.step(params, cell.initial_carry(params), xs[0])[1].shape), "float64"), "w"
    )

    def step(state, now):
        x, w, signs = now
        found = rule.step(cell, params, *state, x, lambda y: w * jnp.cos(y), key=signs)
        return (found.carry, found.trace), found.gradient

    def run(signs):
        start = cell.initial_carry(params), rule.init(cell, params, input_size=D)
        return jax.lax.scan(step, start, (xs, ws, signs))[1]

    return jax.jit(run if signs is None else jax.vmap(run))(signs)


SMALL = [rnnjax.LSTM(1), rnnjax.LearnedCarry(Leaky(2)), rnnjax.Readout(rnnjax.Elman(2), 1)]


@pytest.mark.parametrize("cell", SMALL, ids=repr)
@pytest.mark.parametrize("rule", [online.UORO(), online.KFRTRL()], ids=repr)
def test_the_mean_over_all_signs_is_exact(rule, cell):
    """Two signs a step, over all 2^8 draws. At the first step there is no variance, at the last there is."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, "float64"))
    params, xs = normal(shapes, "params"), normal(jax.ShapeDtypeStruct((STEPS, D), "float64"), "xs")
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=2 * STEPS))).reshape(-1, STEPS, 2)
    found = all_draws(rule, cell, params, xs, signs)
    exact = all_draws(online.RTRL(), cell, params, xs, None)
    assert_close(jax.tree.map(lambda leaf: leaf.mean(0), found), exact)
    spread = np.max([np.asarray(leaf.std(0)).reshape(STEPS, -1).max(1) for leaf in jax.tree.leaves(found)], axis=0)
    assert spread[0] < 1e-15 and spread[-1] > 0.05, spread
