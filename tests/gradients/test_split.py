"""The split of each step's growth, against Jacobians of the step, for products of every kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.measured import CONDITIONS, QUICKLY, weigh, weights
from tests.registry import CELLS, COMBINED, Sample, T, sample


@functools.cache
def program(name, reverse):
    def run(drawn: Sample, times, weights):
        loss = functools.partial(weigh, weights)
        return gradients.adjoint(
            CELLS[name], **drawn._asdict(), loss=loss, split=True, reverse=reverse, **times._asdict()
        )

    return jax.jit(run, compiler_options=QUICKLY)


@functools.cache
def split(name, condition, reverse=False):
    return program(name, reverse)(sample(name), CONDITIONS[condition], weights(name))


@pytest.mark.parametrize(
    "name", ["elman_tanh", "elman_relu", "lstm", "step_cell", "custom", "reset_before", "layer_norm", "stack"]
)
def test_growth_is_that_of_the_transposed_jacobian(name):
    """Growth against `jacobians` and NumPy's norms; the two parts sum to the growth at every step and row."""
    found = split(name, "plain")
    matrices = jax.jit(functools.partial(gradients.jacobians, CELLS[name]), compiler_options=QUICKLY)(
        **sample(name)._asdict()
    )
    flat = [np.asarray(leaf)[1:].reshape(T, 3, -1) for leaf in jax.tree.leaves(found.direction)]
    turned = np.einsum("tbij,tbi->tbj", matrices, np.concatenate(flat, -1))
    with np.errstate(divide="ignore"):
        expected = np.log(np.linalg.norm(turned, axis=-1))
    np.testing.assert_allclose(found.split.growth, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(found.split.saturation + found.split.alignment, found.split.growth)
    assert ((found.split.direct >= 0) & (found.split.direct <= 1 + 1e-12)).all()


def test_an_lstm_splits_into_its_own_slopes():
    """d and s from Jacobians of the step with r as part of the bias and W_h = 0."""
    found = split("lstm", "plain")
    params, carry, xs = sample("lstm")
    cell = CELLS["lstm"]
    after_each = rnnjax.unroll(cell, params, xs, carry=carry, carries=True)[2]
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), carry, after_each)

    def flat(tree):
        return jnp.concatenate(jax.tree.leaves(tree), axis=-1)

    def jacobians(carry, x):
        r = carry.h @ params.w_h

        def of_parts(carry, r):
            return flat(cell.step(params._replace(w_h=jnp.zeros((3, 12)), b=params.b + r), carry, x)[0])

        by_carry, by_r = jax.jacfwd(of_parts, argnums=(0, 1))(carry, r)
        return flat(by_carry), by_r

    matrices = jax.vmap(jax.vmap(jacobians))(before, xs)
    arriving = np.concatenate([np.asarray(leaf)[1:] for leaf in jax.tree.leaves(found.direction)], -1)
    d, s = (np.linalg.norm(np.einsum("tbij,tbi->tbj", matrix, arriving), axis=-1) for matrix in matrices)
    np.testing.assert_allclose(found.split.saturation, np.log(np.hypot(d, s)), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.split.direct, d**2 / (d**2 + s**2), rtol=1e-10)


def test_an_elman_network_splits_into_slopes_and_weights():
    """log ‖φ' ∘ δ‖ and log ‖W2 s‖/‖s‖ in NumPy."""
    found = split("elman_tanh", "plain")
    params, carry, xs = sample("elman_tanh")
    ys = np.asarray(jax.jit(lambda p, h, xs: rnnjax.unroll(CELLS["elman_tanh"], p, xs, carry=h)[1])(params, carry, xs))
    s = (1 - ys**2) * np.asarray(found.direction)[1:]
    np.testing.assert_allclose(found.split.saturation, np.log(np.linalg.norm(s, axis=-1)), rtol=1e-10, atol=1e-12)
    turned = np.linalg.norm(s @ np.asarray(params.w_h).T, axis=-1) / np.linalg.norm(s, axis=-1)
    np.testing.assert_allclose(found.split.alignment, np.log(turned), rtol=1e-10, atol=1e-12)
    assert (found.split.direct == 0).all()


def test_a_gate_without_weights_is_all_saturation():
    """An LSTM with W_h = 0 and a gradient in c: log σ(b_f), entirely by the direct path."""
    params = rnnjax.LSTMParams(jnp.zeros((1, 12)), jnp.zeros((3, 12)), jnp.zeros(12).at[3:6].set(2.0))
    run = jax.jit(lambda p: gradients.adjoint(rnnjax.LSTM(3), p, jnp.zeros((9, 1)), jnp.sum, split=True))
    found = run(params).split
    total = np.asarray(found.growth)
    np.testing.assert_allclose(total[1:-2], np.log(1 / (1 + np.exp(-2.0))), atol=0.2)
    np.testing.assert_array_equal(found.growth, found.saturation + found.alignment)
    assert (np.asarray(found.direct) > 0.3).all()


@pytest.mark.parametrize(("name", "reverse"), [("lstm", True), ("elman_relu", False)])
def test_hidden_steps_pass_everything_on_and_resets_nothing(name, reverse):
    """With lengths, mask and resets, in input order; growth equals that of the adjoint."""
    found = split(name, "together", reverse)
    inside = np.arange(T)[:, None] < COMBINED.lengths
    counts, resets = inside & COMBINED.mask, inside & COMBINED.resets
    held = ~counts & ~resets
    assert held.sum() > 3 and resets.sum() > 2
    for part, there in zip(found.split, (0, 0, 0, 1), strict=True):
        assert (np.asarray(part)[held] == there).all()
    assert (np.asarray(found.split.growth)[resets] == -np.inf).all()
    assert (np.asarray(found.split.saturation)[resets] == -np.inf).all()
    assert (np.asarray(found.split.alignment)[resets] == 0).all()
    assert not np.isnan(np.concatenate([np.ravel(part) for part in found.split])).any()


def test_units_that_are_all_shut_are_minus_infinity_and_no_nan():
    params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.eye(2), jnp.full(2, -5.0))
    run = jax.jit(lambda p: gradients.adjoint(rnnjax.Elman(2, "relu"), p, jnp.zeros((4, 1)), jnp.sum, split=True))
    found = run(params).split
    assert (found.growth == -np.inf).all() and (found.saturation == -np.inf).all() and (found.alignment == 0).all()


def test_a_step_that_does_not_come_apart_does_not_split():
    @jax.custom_vjp
    def halved_back(h):
        return h

    halved_back.defvjp(lambda h: (h, None), lambda _, g: (g / 2,))

    def step(params, h, x):
        return rnnjax.elman_step(params, halved_back(h), x)

    of = sample("elman_tanh")
    cell = rnnjax.StepCell(step, rnnjax.elman_initial_carry)
    with pytest.raises(TypeError, match=r"a step that cannot be split into gates and products: .*custom_vjp"):
        gradients.adjoint(cell, **of._asdict(), loss=lambda ys: ys.sum(), split=True)


def test_without_asking_there_is_no_split():
    run = jax.eval_shape(lambda: gradients.adjoint(CELLS["gru"], **sample("gru")._asdict(), loss=jnp.sum))
    assert run.split is None
