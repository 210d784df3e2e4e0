"""Lorenz and Mackey-Glass, against integrations in NumPy, closed forms and known constants."""

import functools
import itertools

import jax
import numpy as np
import pytest

from rnnjax import tasks
from rnnjax.tasks import chaotic

KEY = jax.random.key(0)


def whole(batch, horizon, mean, scale):
    """The series `[T + horizon, *batch, K]` in its own units, from inputs and targets, which must agree."""
    xs, targets = np.asarray(batch.xs), np.asarray(batch.targets)
    np.testing.assert_array_equal(xs[horizon:], targets[:-horizon])
    return np.concatenate([xs, targets[-horizon:]]) * np.array(scale) + np.array(mean)


def lorenz(steps, batch_shape=(), horizon=1, **options):
    batch = jax.jit(lambda key: tasks.lorenz(key, steps, batch_shape, horizon=horizon, **options))(KEY)
    return whole(batch, horizon, chaotic.LORENZ_MEAN, chaotic.LORENZ_SCALE)


def mackey_glass(steps, batch_shape=(), horizon=1, **options):
    batch = jax.jit(lambda key: tasks.mackey_glass(key, steps, batch_shape, horizon=horizon, **options))(KEY)
    return whole(batch, horizon, chaotic.MACKEY_GLASS_MEAN, chaotic.MACKEY_GLASS_SCALE)[..., 0]


def taylor(state, h, order=16):
    """One step of the Lorenz system by its power series: an integrator of another kind, and far more accurate."""
    x, y, z = ([part] for part in np.moveaxis(state, -1, 0))
    for k in range(order):
        xy = sum(x[j] * y[k - j] for j in range(k + 1))
        xz = sum(x[j] * z[k - j] for j in range(k + 1))
        new = 10 * (y[k] - x[k]), 28 * x[k] - xz - y[k], xy - 8 / 3 * z[k]
        for series, value in zip((x, y, z), new, strict=True):
            series.append(value / (k + 1))
    return np.stack([sum(c * h**k for k, c in enumerate(series)) for series in (x, y, z)], axis=-1)


def test_lorenz_solves_its_equations():
    """Each step against the power series; half the substep divides the error by 2⁴."""
    errors = []
    for substeps in (4, 8):
        path = lorenz(30, (4,), 3, substeps=substeps, washout=20)
        errors.append(np.abs(path[1:] - taylor(path[:-1], 0.02)).max())
    assert errors[0] < 1e-5 and 12 < errors[0] / errors[1] < 24
    path = lorenz(5, (4,), substeps=40, washout=20)
    assert np.abs(path[1:] - taylor(path[:-1], 0.02)).max() < 1e-8


def test_what_is_known_of_lorenz():
    """The mean of z, the numbers that standardise, the symmetry, and fixed points at ρ = 14, (±√(β (ρ - 1)), ..)."""
    path = lorenz(1500, (100,))
    assert abs(path[..., 2].mean() - 23.55) < 0.1 and np.abs(path[..., :2].mean((0, 1))).max() < 0.6
    np.testing.assert_allclose(path.std((0, 1)), chaotic.LORENZ_SCALE, rtol=0.02)
    ends = lorenz(2, (20,), rho=14.0, washout=3000)[-1]
    np.testing.assert_allclose(ends[:, 2], 13, rtol=1e-10)
    np.testing.assert_allclose(np.abs(ends[:, :2]), np.sqrt(8 / 3 * 13), rtol=1e-10)
    assert set(np.sign(ends[:, 0])) == {-1, 1}


def test_lorenz_diverges_at_the_known_rate():
    """The mean growth of small differences: the largest Lyapunov exponent, 0.906 per unit of time."""
    path = lorenz(500, (64,))[::25]
    growth, tangent = [], np.random.default_rng(0).normal(size=(64, 3))
    for state in path[:-1]:
        near = state + 1e-7 * tangent / np.linalg.norm(tangent, axis=-1, keepdims=True)
        for _ in range(25):
            state, near = taylor(state, 0.02, 8), taylor(near, 0.02, 8)
        tangent = near - state
        growth.append(np.log(np.linalg.norm(tangent, axis=-1) / 1e-7))
    assert abs(np.mean(growth[4:]) / 0.5 - 0.906) < 0.06


def test_mackey_glass_in_closed_form():
    """For t <= τ the past is constant, c: x is an exponential; for t <= 2τ its integral is one of numbers."""
    x = mackey_glass(33, (5,), washout=0)
    c, t = x[0], np.arange(18.0)[:, None]
    goal = 2 * c / (1 + c**10)
    np.testing.assert_allclose(x[:18], goal + (c - goal) * np.exp(-0.1 * t), atol=1e-8)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    for i in range(18, 34):
        s = (i - 17) * (nodes + 1) / 2
        past = goal + (c - goal) * np.exp(-0.1 * s[:, None])
        drive = 0.2 * past / (1 + past**10) * np.exp(-0.1 * (i - 17 - s[:, None]))
        expected = x[17] * np.exp(-0.1 * (i - 17)) + (weights[:, None] * drive).sum(0) * (i - 17) / 2
        np.testing.assert_allclose(x[i], expected, atol=1e-8)


def test_mackey_glass_is_of_fourth_order():
    """At t = 100, past five delays: half the substep, a sixteenth of the error."""
    ends = [mackey_glass(99, (3,), washout=0, substeps=n)[-1] for n in (2, 4, 8, 32)]
    errors = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert all(11 < coarse / fine < 24 for coarse, fine in itertools.pairwise(errors)) and errors[-1] < 1e-6


def test_what_is_known_of_mackey_glass():
    """The numbers that standardise; below the delay of its Hopf bifurcation, the fixed point (β/γ - 1)^(1/n)."""
    path = mackey_glass(1500, (40,))
    np.testing.assert_allclose([path.mean(), path.std()], [0.930, 0.226], rtol=0.02)
    assert path.min() > 0.2 and path.max() < 1.4
    np.testing.assert_allclose(mackey_glass(3, (4,), tau=2.0, washout=800), 1, rtol=1e-12)
    np.testing.assert_allclose(mackey_glass(3, (), tau=2.0, beta=0.3, n=4, washout=800), 2**0.25, rtol=1e-12)


@pytest.mark.parametrize("task", [tasks.lorenz, tasks.mackey_glass])
def test_rows_and_steps_are_their_own(task):
    """Longer rows begin with the shorter ones, the washout shifts, and half precision is float32 rounded."""
    draw = functools.partial(task, KEY, batch_shape=(2,))
    short, long = draw(steps=5, washout=4, horizon=2), draw(steps=9, washout=0, horizon=2)
    np.testing.assert_allclose(short.xs, long.xs[4:], rtol=1e-10)
    half, single = (draw(steps=5, washout=4, dtype=dtype) for dtype in ("bfloat16", "float32"))
    np.testing.assert_array_equal(half.xs, single.xs.astype("bfloat16"))
    assert half.weights.dtype == "bfloat16" and np.abs(single.xs).max() < 5
    assert (short.xs[:, 0] != short.xs[:, 1]).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tasks.lorenz(KEY, 5, horizon=0), "horizon is 0"),
        (lambda: tasks.lorenz(KEY, 5, substeps=0), "substeps is 0"),
        (lambda: tasks.lorenz(KEY, 5, washout=-1), "washout is -1; it must be 0 or more"),
        (lambda: tasks.lorenz(KEY, 5, dt=0.0), "dt is 0.0; it must be a positive time"),
        (lambda: tasks.mackey_glass(KEY, 0), "steps is 0"),
        (lambda: tasks.mackey_glass(KEY, 5, tau=17.05), r"tau is 17.05; .* multiple of dt / substeps = 0.1"),
        (lambda: tasks.mackey_glass(KEY, 5, tau=-1.0), "tau is -1.0"),
    ],
)
def test_arguments_that_do_not_fit(call, says):
    with pytest.raises(ValueError, match=says):
        call()
