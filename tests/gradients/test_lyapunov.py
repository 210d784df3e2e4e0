"""Lyapunov exponents against closed forms and determinants of Jacobians, and with annihilated directions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory
from tests.gradients.measured import QUICKLY
from tests.registry import CELLS, D, Sample, normal, sample


@functools.cache
def spectra(cell, **options):
    """`(params, xs, carry=None) -> LyapunovSpectrum`, compiled."""
    run = functools.partial(gradients.lyapunov_spectrum, cell, **options)
    return jax.jit(run, compiler_options=QUICKLY)


def linear(w_h, inputs=1):
    size = len(w_h)
    return rnnjax.ElmanParams(jnp.ones((inputs, size)), jnp.asarray(w_h), jnp.zeros(size))


def gaussian(size, gain, seed=0):
    return gain * np.random.default_rng(seed).normal(size=(size, size)) / np.sqrt(size)


def zeros(steps):
    return jnp.zeros((steps, 1))


LINEAR = rnnjax.Elman(6, "linear")


def test_a_scalar():
    """log w, exactly, of one unit."""
    found = spectra(rnnjax.Elman(1, "linear"))(linear([[-0.5]]), zeros(40))
    np.testing.assert_allclose(found.exponents, [np.log(0.5)], rtol=1e-14)
    assert (float(found.dimension), float(found.entropy_rate), int(found.survivors)) == (0, 0, 1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_orthogonal(scale):
    """Every exponent is log s from the first step on, with zero error."""
    w_h = scale * np.linalg.qr(gaussian(6, 1))[0]
    found = spectra(LINEAR)(linear(w_h), zeros(40))
    np.testing.assert_allclose(found.exponents, np.log(scale), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.finite_time, np.log(scale), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.error, 0, atol=1e-14)


def test_a_linear_network_has_the_eigenvalues_of_its_matrix():
    """One reused matrix has exponents log|eigenvalues|, unlike independent matrices; to 1e-6."""
    basis = np.eye(6) + 0.3 * gaussian(6, 1)
    w_h = basis @ np.diag([2.0, 1.1, -0.9, 0.5, 0.2, 0.05]) @ np.linalg.inv(basis)
    found = spectra(LINEAR, transient=150)(linear(w_h), zeros(300))
    np.testing.assert_allclose(found.exponents, theory.frozen_exponents(w_h), rtol=0, atol=1e-6)
    assert float(found.entropy_rate) == pytest.approx(np.log(2.2), abs=1e-6)


def test_fresh_gaussian_matrices_have_newmans_exponents():
    """A new W_t at each step, passed in `xs`: twelve exponents within three standard errors."""
    size, steps = 12, 4000

    def step(params, h, x):
        h = h @ x.reshape(size, size)
        return h, h

    cell = rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, size)))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(steps, size * size)) / np.sqrt(size))
    found = spectra(cell, transient=200)(None, xs)
    rates = np.asarray(found.finite_time)
    blocks = rates.reshape(20, -1, size).mean(1)
    standard_error = blocks.std(0, ddof=1) / np.sqrt(20)
    assert (np.abs(found.exponents - theory.ginibre_exponents(size)) < 3.5 * standard_error).all()
    assert standard_error.max() < 0.02
    assert (found.error < 5 * standard_error).all()


def test_an_lstm_without_recurrent_weights_forgets_by_its_gate():
    """log σ(b_f) for each cell state; h has no memory, so n of the 2n directions are annihilated."""
    params = rnnjax.LSTMParams(
        jnp.zeros((1, 12)), jnp.zeros((3, 12)), jnp.zeros(12).at[3:6].set(jnp.array([0.0, 1, 5]))
    )
    found = spectra(rnnjax.LSTM(3), transient=500)(params, zeros(700))
    np.testing.assert_allclose(found.exponents[:3], theory.forget_gate_exponent([5.0, 1.0, 0.0]), rtol=0, atol=1e-6)
    assert (found.exponents[3:] == -np.inf).all() and int(found.survivors) == 3
    assert float(found.mean) == pytest.approx(theory.forget_gate_exponent([5.0, 1.0, 0.0]).mean(), abs=1e-6)
    run = functools.partial(gradients.leading_exponent, rnnjax.LSTM(3), transient=500)
    leading = jax.jit(run, compiler_options=QUICKLY)(params, zeros(700))
    assert float(leading.exponent) == pytest.approx(theory.forget_gate_exponent(5.0), abs=1e-6)
    h, c = (np.exp(2 * np.asarray(part)) for part in leading.log_norm_by_part)
    np.testing.assert_allclose(h + c, 1, rtol=1e-12)
    assert (h > 0).all()


@pytest.mark.parametrize("name", ["elman_tanh", "elman_relu", "lstm", "step_cell", "deep_stack"])
def test_the_sum_of_all_exponents_is_the_mean_log_determinant(name):
    """For every cell and stack, Σ λ_i = mean log|det J_t| to 1e-8.

    There is no transient, so this holds from the first step on, and for each of the three rows.
    """
    drawn = long_sample(name)
    found = spectra(CELLS[name])(**drawn._asdict())
    matrices = jax.jit(functools.partial(gradients.jacobians, CELLS[name]), compiler_options=QUICKLY)(**drawn._asdict())
    expected = np.linalg.slogdet(matrices)[1].mean(0)
    size = matrices.shape[-1]
    assert found.exponents.shape == (3, size)
    if name == "elman_relu":
        assert (np.asarray(found.survivors) < size).all() and (expected == -np.inf).all()
    else:
        assert (np.asarray(found.survivors) == size).all()
    np.testing.assert_allclose(np.asarray(found.exponents).sum(-1), expected, rtol=0, atol=1e-8)


@functools.cache
def long_sample(name) -> Sample:
    drawn = sample(name)
    return drawn._replace(xs=normal(jax.ShapeDtypeStruct((40, 3, D), "float64"), f"{name} long"))


def test_neither_interval_nor_transient_changes_an_exponent():
    """Of 40 steps, 22 are dropped, and the last 18 form six intervals of three steps."""
    cell, drawn = CELLS["gru"], long_sample("gru")
    whole = spectra(cell)(**drawn._asdict())
    coarse = spectra(cell, transient=22, interval=3)(**drawn._asdict())
    by_threes = np.reshape(whole.finite_time[22:], (6, 3, *whole.exponents.shape)).mean(1)
    np.testing.assert_allclose(coarse.finite_time, by_threes, rtol=0, atol=1e-8)
    np.testing.assert_allclose(coarse.exponents, by_threes.mean(0), rtol=0, atol=1e-8)
    np.testing.assert_allclose(coarse.error, np.abs(by_threes[:3].mean(0) - by_threes[3:].mean(0)) / 2, atol=1e-8)


def test_one_perturbation_finds_the_leading_exponent():
    """After the transient, `leading_exponent` equals the first exponent of the spectrum, also at finite times."""
    cell, params = rnnjax.Elman(8), linear(gaussian(8, 2.5), 2)
    xs = normal(jax.ShapeDtypeStruct((300, 2, 2), "float64"), "drive")
    whole = spectra(cell, k=3, transient=150)(params, xs)
    run = functools.partial(gradients.leading_exponent, cell, transient=150)
    one = jax.jit(run, compiler_options=QUICKLY)(params, xs)
    np.testing.assert_allclose(one.exponent, whole.exponents[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(one.finite_time[50:], whole.finite_time[50:, :, 0], rtol=0, atol=1e-6)
    halves = np.asarray(one.finite_time).reshape(2, 75, 2).mean(1)
    np.testing.assert_allclose(one.error, np.abs(halves[0] - halves[1]) / 2, rtol=1e-9)
    np.testing.assert_allclose(whole.error[:, 0], one.error, rtol=0, atol=1e-6)


def test_relu_reports_who_survives():
    """Two of six units are always inactive: two directions are annihilated, and four have the others' exponents."""
    w_h = np.abs(gaussian(6, 0.3, seed=3)) + 0.1 * np.eye(6)
    params = linear(w_h)._replace(b=jnp.array([1.0, 1.0, -1e6, 1.0, -1e6, 1.0]))
    found = spectra(rnnjax.Elman(6, "relu"), transient=20)(params, zeros(120))
    on = [0, 1, 3, 5]
    assert int(found.survivors) == 4
    expected = theory.frozen_exponents(w_h[np.ix_(on, on)])
    assert float(found.mean) == pytest.approx(expected.mean(), abs=1e-6)
    assert (found.exponents[4:] == -np.inf).all() and (np.asarray(found.finite_time)[:, 4:] == -np.inf).all()
    assert np.isfinite(found.finite_time[:, :4]).all() and np.isfinite(found.error).all()


def test_a_unit_that_is_off_once_kills_for_good():
    """With an inactive step in the middle, the rank is that of the whole product, and the mean is NaN."""
    xs = zeros(30).at[12].set(-1e6)
    params = linear(np.abs(gaussian(6, 1.0)))._replace(b=jnp.ones(6))
    found = spectra(rnnjax.Elman(6, "relu"))(params, xs)
    assert int(found.survivors) == 0 and (found.exponents == -np.inf).all()
    assert np.isnan(found.mean) and float(found.dimension) == 0


def test_seeds_scales_and_inputs_in_one_program():
    """Nested vmaps over networks and gains, with a batch of inputs, equal separate runs."""
    cell = rnnjax.Elman(4)
    xs = normal(jax.ShapeDtypeStruct((30, 2, 1), "float64"), "inputs")
    matrices, gains = jnp.stack([gaussian(4, 1.0, seed) for seed in range(2)]), jnp.array([0.5, 2.0, 4.0])

    def one(w_h, gain):
        return gradients.lyapunov_spectrum(cell, linear(gain * w_h), xs, transient=10)

    found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)), compiler_options=QUICKLY)(matrices, gains)
    assert found.exponents.shape == (2, 3, 2, 4)
    alone = spectra(cell, transient=10)
    for i, w_h in enumerate(matrices):
        for j, gain in enumerate(gains):
            expected = alone(linear(gain * w_h), xs)
            np.testing.assert_allclose(found.exponents[i, j], expected.exponents, rtol=0, atol=1e-9)


def test_float32_stays_float32():
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), linear(gaussian(6, 1.0)))
    found = spectra(LINEAR)(params, zeros(40).astype("float32"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32", "int32"}
    expected = np.linalg.slogdet(np.asarray(params.w_h, "float64"))[1]
    assert float(found.exponents.sum()) == pytest.approx(expected, abs=1e-4)
