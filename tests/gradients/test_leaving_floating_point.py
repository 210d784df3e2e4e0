"""Non-finite trajectories give NaN in all of `rnnjax.gradients`, and the number of finite steps.

One input of one row is inf, which makes the carries of most cells non-finite, and saturates others. NumPy determines
the finite steps from `rnnjax.unroll`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients import test_lags
from tests.gradients.measured import CONDITIONS, QUICKLY, measure, program, weights
from tests.registry import CAUSAL, CELLS, Sample, T, Times, sample

CASES = {"plain": ("plain", 2), "before_a_reset": ("together", 0), "after_a_reset": ("together", 3)}
"""The step, by condition, at which the input of row 0 is inf. In "together", its carry is reset before step 2."""

CURVED = [name for name in CAUSAL if name not in ("elman_linear", "lru", "ssm_zoh", "ssm_bilinear")]
every_curved_cell = pytest.mark.parametrize("name", CURVED)
every_case = pytest.mark.parametrize("case", CASES)


def spoilt(name: str, case: str = "plain") -> Sample:
    drawn = sample(name)
    return drawn._replace(xs=drawn.xs.at[CASES[case][1], 0].set(jnp.inf))


@functools.cache
def unrolled(name: str):
    def run(drawn: Sample, times: Times):
        return rnnjax.unroll(CELLS[name], **drawn._asdict(), **times._asdict(), carries=True, engine="scan")

    return jax.jit(run, compiler_options=QUICKLY)


@functools.cache
def finite_steps(name: str, case: str = "plain", outputs: bool = True) -> np.ndarray:
    """`[T]`, of row 0: input, carry before and after, and with `outputs` these; or masked."""
    drawn, times = spoilt(name, case), CONDITIONS[CASES[case][0]]
    _, ys, carries = unrolled(name)(drawn, times)

    def finite(tree) -> np.ndarray:
        return np.all([np.isfinite(leaf[:, 0]).reshape(T, -1).all(1) for leaf in jax.tree.leaves(tree)], axis=0)

    after = finite(carries)
    before = np.append(True, after[:-1]) | times.resets[:, 0]
    counts = (np.arange(T) < times.lengths[0]) & times.mask[:, 0]
    return before & after & (finite(ys) | (not outputs)) & finite(drawn.xs) | ~counts


def unknown_boundaries(name: str, case: str) -> np.ndarray:
    """`[T + 1]`, of row 0: after which something is not finite, up to the next reset."""
    finite, resets = finite_steps(name, case), CONDITIONS[CASES[case][0]].resets[:, 0]
    unknown = np.append(False, ~finite)
    for t in range(T - 1, -1, -1):
        unknown[t] |= unknown[t + 1] & ~resets[t]
    return unknown


@every_case
@every_curved_cell
def test_what_passes_through_a_step_that_is_not_finite_is_nan(name, case):
    """Adjoints, by either way, of that row and episode alone; and what the steps contribute to the sum over rows."""
    condition, bad = CASES[case]
    clean, unknown, finite = measure(name, condition, False), unknown_boundaries(name, case), finite_steps(name, case)
    found = program(name, False)(spoilt(name, case), CONDITIONS[condition], weights(name))
    assert unknown[bad : bad + 2].all() and not finite[bad]
    np.testing.assert_array_equal(found.adjoint.finite_steps, [finite.sum(), T, T])
    assert (clean.adjoint.finite_steps == T).all()
    got, expected = ((each.adjoint._replace(finite_steps=None), each.perturbed) for each in (found, clean))
    for ours, theirs in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        assert np.isnan(ours[unknown, 0]).all()
        np.testing.assert_array_equal(ours[~unknown, 0], theirs[~unknown, 0])
        np.testing.assert_array_equal(ours[:, 1:], theirs[:, 1:])
    for part in jax.tree.leaves(found.parts):
        assert np.isnan(part[unknown[1:]]).all()
        assert case != "after_a_reset" or np.isfinite(part[:2]).all()


@functools.cache
def forwards(name: str):
    """Measurements that follow a trajectory forwards."""
    cell = CELLS[name]

    def run(drawn: Sample):
        given = drawn._asdict()
        return (
            gradients.lyapunov_spectrum(cell, **given, k=2),
            gradients.leading_exponent(cell, **given),
            gradients.finite_time_exponents(cell, **given, k=2),
            gradients.jacobians(cell, **given),
        )

    return jax.jit(run, compiler_options=QUICKLY)


@pytest.mark.parametrize("name", ["elman_relu", "lstm", "custom"])
def test_it_has_no_exponents(name):
    """NaN from the first non-finite step on; other rows are bitwise unchanged."""
    finite = finite_steps(name, outputs=False)
    found, clean = forwards(name)(spoilt(name)), forwards(name)(sample(name))
    spectrum, leading, exponents, jacobians = found
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        rows = got.shape.index(3)
        np.testing.assert_array_equal(np.delete(got, 0, rows), np.delete(expected, 0, rows))
    for count, all_of_them in ((spectrum.finite_steps, clean[0]), (leading.finite_steps, clean[1])):
        assert int(count[0]) == finite.sum() < T and (all_of_them.finite_steps == T).all()
    assert np.isnan(exponents[0]).all() and np.isnan(leading.exponent[0]) and np.isnan(leading.error[0])
    for part in (spectrum.exponents, spectrum.error, spectrum.mean, spectrum.dimension, spectrum.entropy_rate):
        assert np.isnan(part[0]).all()
    assert int(spectrum.survivors[0]) == 0
    for rates in (spectrum.finite_time, leading.finite_time, *jax.tree.leaves(leading.log_norm_by_part)):
        assert not np.isnan(rates[:2, 0]).any() and np.isnan(rates[2:, 0]).all()
    np.testing.assert_array_equal(
        np.isnan(jacobians[:, 0]), np.broadcast_to(~finite[:, None, None], jacobians[:, 0].shape)
    )


@pytest.mark.parametrize("name", ["elman_relu"])
def test_prices_lags_and_splits_say_so_too(name):
    """Sums over rows and lags are NaN entirely; a split is NaN in that row, where the adjoint is."""
    cell = CELLS[name]

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(drawn: Sample):
        given, loss = drawn._asdict(), lambda ys: ys.sum()
        return (
            gradients.omega(cell, **given, loss=loss),
            gradients.norm_ratios(cell, **given, loss=loss, through="step"),
            jax.value_and_grad(lambda p: gradients.flossing(cell, **given | {"params": p}, k=1))(drawn.params),
            gradients.adjoint(cell, **given, loss=loss, split=True),
        )

    price, ratios, flossing, adjoint = run(spoilt(name))
    value, gradient = flossing
    assert np.isnan([price, value]).all() and any(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradient))
    unknown = np.isnan(adjoint.log_norm[:, 0])
    assert unknown[:3].all() and not np.isnan(adjoint.log_norm[:, 1:]).any()
    for part in (ratios.ratio, *adjoint.split):
        np.testing.assert_array_equal(np.isnan(part[:, 0]), unknown[1:])
        assert not np.isnan(part[:, 1:]).any()
    lags = test_lags.program(name, False)(spoilt(name), CONDITIONS["plain"], weights(name))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves((lags.log_norm, lags.direction)))
    np.testing.assert_array_equal(lags.finite_steps, adjoint.finite_steps)


def diagonal(w: float) -> rnnjax.ElmanParams:
    """Two independent units in float32."""
    return rnnjax.ElmanParams(jnp.ones((1, 2), "float32"), w * jnp.eye(2, dtype="float32"), jnp.zeros(2, "float32"))


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_doubling_overflows_float32(activation):
    """h_t = 2 h_{t-1} + 1 overflows at step 128: a linear network's Jacobian is still 2, a ReLU's is unknown."""
    params, cell, xs = diagonal(2), rnnjax.Elman(2, activation), np.ones((400, 1), np.float32)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(params, xs):
        return (
            gradients.lyapunov_spectrum(cell, params, xs),
            gradients.leading_exponent(cell, params, xs),
            gradients.adjoint(cell, params, xs, lambda ys: ys[-1].sum()),
            gradients.attribution_by_lag(cell, params, xs, lambda ys: ys[-1].sum(), lags=2),
            gradients.attribution(cell, params, xs, lambda ys: ys[-1].sum()),
        )

    spectrum, leading, adjoint, lags, parts = run(params, xs)
    finite = 0
    with np.errstate(over="ignore"):
        h = np.float32(0)
        while np.isfinite(h := 2 * h + np.float32(1)):
            finite += 1
    counts = [found.finite_steps for found in (spectrum, leading, adjoint, lags)]
    assert counts == [finite] * 4
    seen = (spectrum.exponents, leading.exponent, np.asarray(adjoint.log_norm[:-1]) / np.arange(400, 0, -1))
    if activation == "relu":
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves((seen, lags.log_norm, parts)))
        assert int(spectrum.survivors) == 0
    else:
        np.testing.assert_allclose(seen[0], np.log(2), rtol=1e-5)
        np.testing.assert_allclose(seen[1], np.log(2), rtol=1e-5)
        np.testing.assert_allclose(lags.log_norm.b, np.log([1, 2]) + np.log(2) / 2, rtol=1e-5)
        np.testing.assert_array_equal(parts.b[-20:, 0], 2.0 ** np.arange(19, -1, -1))
        assert int(spectrum.survivors) == 2
        assert np.isnan(lags.log_norm.w_h).all() and np.isnan(parts.w_h[finite + 1 :]).all()


@pytest.mark.parametrize("w", [0.5, 4.0])
def test_an_interval_longer_than_the_range_of_float32(w):
    """0.5^400 and 4^400 within one interval: all exponents stay finite."""
    run = functools.partial(gradients.lyapunov_spectrum, rnnjax.Elman(2, "linear"), interval=400)
    found = jax.jit(run, compiler_options=QUICKLY)(diagonal(w), np.zeros((1000, 1), np.float32))
    np.testing.assert_allclose(found.exponents, np.log(w), rtol=1e-5)
    assert (int(found.survivors), int(found.finite_steps)) == (2, 1000)


def test_a_singular_jacobian_is_minus_infinity_and_counted():
    """One of two units is always inactive: one direction is annihilated, and all steps are finite."""
    params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.eye(2), jnp.array([0.0, -1e6]))
    cell, xs = rnnjax.Elman(2, "relu"), jnp.ones((10, 1))
    found = jax.jit(functools.partial(gradients.lyapunov_spectrum, cell, transient=2), compiler_options=QUICKLY)(
        params, xs
    )
    np.testing.assert_array_equal(found.exponents, [0.0, -np.inf])
    assert (int(found.survivors), int(found.finite_steps), float(found.mean)) == (1, 10, 0.0)
    statistics = gradients.matrix_statistics(gradients.jacobians(cell, params, xs))
    assert (statistics.rank == 1).all() and (statistics.log_abs_det == -np.inf).all()
