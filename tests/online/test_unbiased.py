"""Rules that are exact on average: the mean over all draws of their signs is RTRL's gradient.

The networks are so small that every combination of signs can be run. The mean over all of them is compared with RTRL,
each with the method's equations in NumPy, and the variance with the estimate of `online.bias` from random signs.
"""

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

ALL_SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=2 * STEPS))).reshape(-1, STEPS, 2)
"""Two signs a step, `[draws, T, 2]`."""

SMALL = [rnnjax.LSTM(1), rnnjax.LearnedCarry(Leaky(2)), rnnjax.Readout(rnnjax.Elman(2), 1)]
"""Cells whose carry is two numbers."""

every_rule = pytest.mark.parametrize("rule", [online.UORO(), online.KFRTRL()], ids=repr)


def sample(cell):
    """Parameters, inputs, and the weight of each output in L_t = w_t sin(y_t)."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, "float64"))
    params, xs = normal(shapes, "params"), normal(jax.ShapeDtypeStruct((STEPS, D), "float64"), "xs")
    return params, xs, normal(jax.eval_shape(lambda: rnnjax.unroll(cell, params, xs)[1]), "w")


def all_draws(rule, cell, signs: np.ndarray | None = ALL_SIGNS):
    """The gradients of all steps, leaves `[draws, T, *leaf]`; without draws if there are no signs, as for RTRL."""
    params, xs, ws = sample(cell)

    def step(state, now):
        x, w, signs = now
        found = rule.step(cell, params, *state, x, lambda y: w * jnp.cos(y), key=signs)
        return (found.carry, found.trace), found.gradient

    def run(signs):
        start = cell.initial_carry(params), rule.init(cell, params, input_size=D)
        return jax.lax.scan(step, start, (xs, ws, signs))[1]

    return jax.jit(run if signs is None else jax.vmap(run))(signs)


@pytest.mark.parametrize("cell", SMALL, ids=repr)
@every_rule
def test_the_mean_over_all_signs_is_exact(rule, cell):
    """At the first step there is no variance, at the last there is."""
    found, exact = all_draws(rule, cell), all_draws(online.RTRL(), cell, None)
    assert_close(jax.tree.map(lambda leaf: leaf.mean(0), found), exact)
    spread = np.max([np.asarray(leaf.std(0)).reshape(STEPS, -1).max(1) for leaf in jax.tree.leaves(found)], axis=0)
    assert spread[0] < 1e-15 and spread[-1] > 0.05, spread


@pytest.mark.parametrize("cell", [SMALL[0], SMALL[2]], ids=repr)
@every_rule
def test_the_instrument_measures_the_variance_over_all_signs(rule, cell):
    """To four standard errors of the estimate, which also follow from all draws."""
    (params, xs, ws), rules, seeds = sample(cell), {"rule": rule}, 1000
    found = online.bias(cell, params, xs, ws, lambda y, w: (w * jnp.sin(y)).sum(), rules, lags=1, seeds=seeds)["rule"]

    def flat(gradients, axis):
        leaves = [np.asarray(leaf).sum(axis) for leaf in jax.tree.leaves(gradients)]
        return np.concatenate([leaf.reshape(*leaf.shape[:axis], -1) for leaf in leaves], axis=-1)

    exact, draws = flat(all_draws(online.RTRL(), cell, None), 0), flat(all_draws(rule, cell), 1)
    squared = ((draws - exact) ** 2).sum(-1) / (exact @ exact)
    assert abs(found.deviation**2 - squared.mean()) < 4 * squared.std() / np.sqrt(seeds)


def balanced(a, b):
    return np.sqrt(a / b) if a > 0 and b > 0 else 1.0


def uoro(immediate, recurrent, signs):
    """J_t for each step, as s_t ⊗ w_t."""
    state, weights, norm = np.zeros(len(signs[0])), np.zeros(immediate.shape[-1]), np.linalg.norm
    for now, onward, sign in zip(immediate, recurrent, signs, strict=True):
        yield np.outer(state, weights)
        past, present = balanced(norm(weights), norm(onward @ state)), balanced(norm(sign @ now), norm(sign))
        state, weights = past * onward @ state + present * sign, weights / past + sign @ now / present


def kf_rtrl(immediate, recurrent, signs, inputs):
    """J_t of a matrix W, as u_t ⊗ A_t; `inputs` are the a of each product a W, `immediate` the derivative by it."""
    left, right, norm = np.zeros(inputs.shape[-1]), np.zeros_like(recurrent[0]), np.linalg.norm
    for now, onward, sign, a in zip(immediate, recurrent, signs, inputs, strict=True):
        yield np.einsum("m,sn->smn", left, right).reshape(len(right), -1)
        past, present = balanced(norm(onward @ right), norm(left)), balanced(norm(now), norm(a))
        left = sign[0] * past * left + sign[1] * present * a
        right = sign[0] / past * onward @ right + sign[1] / present * now


def test_each_draw_is_that_of_the_equations():
    """For an Elman network, with its Jacobians written out: recurrent `[T, S, S]`, immediate `[T, S, P]`."""
    cell = rnnjax.Elman(2)
    params, xs, ws = sample(cell)
    w_x, w_h, b = (np.asarray(leaf) for leaf in params)
    h, steps = np.zeros(2), []
    for x, w in zip(np.asarray(xs), np.asarray(ws), strict=True):
        before, h = h, np.tanh(x @ w_x + h @ w_h + b)
        steps.append((x, before, np.diag(1 - h**2), w * np.cos(h)))
    xs, hs, slopes, losses = (np.stack(each) for each in zip(*steps, strict=True))
    recurrent = slopes @ w_h.T
    of_w_x, of_w_h = (np.einsum("tm,tsn->tsmn", a, slopes).reshape(STEPS, 2, -1) for a in (xs, hs))
    immediate = np.concatenate([of_w_x, of_w_h, slopes], axis=-1)
    exact_b = [np.zeros((2, 2))]
    for now, onward in zip(slopes, recurrent, strict=True):
        exact_b.append(onward @ exact_b[-1] + now)

    for rule in (online.UORO(), online.KFRTRL()):
        found = all_draws(rule, cell)
        found = np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in found], axis=-1)
        for draw, signs in zip(found, ALL_SIGNS, strict=True):
            if isinstance(rule, online.UORO):
                influence = list(uoro(immediate, recurrent, signs))
            else:
                of_matrices = (kf_rtrl(slopes, recurrent, signs, a) for a in (xs, hs))
                influence = [np.concatenate(each, axis=-1) for each in zip(*of_matrices, exact_b, strict=False)]
            for t in range(STEPS):
                expected = losses[t] @ (immediate[t] + recurrent[t] @ influence[t])
                np.testing.assert_allclose(draw[t], expected, rtol=1e-12, atol=1e-12)
