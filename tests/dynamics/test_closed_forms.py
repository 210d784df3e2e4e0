"""Fixed points against closed forms and enumerations; every certified point is confirmed by a second method."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.dynamics import fixed_points
from tests.dynamics.confirmed import confirm, elman, stacked
from tests.dynamics.corners import check_corners

RNG = np.random.default_rng(0)


def test_a_linear_network_has_one_point():
    w, b = 0.4 * RNG.normal(size=(5, 5)), RNG.normal(size=5)
    cell, params, x = elman(w, b, "linear")
    found = fixed_points(cell, params, x, jnp.asarray(RNG.normal(size=(7, 5))))
    np.testing.assert_allclose(found.carry, np.linalg.solve(np.eye(5) - w.T, b)[None], rtol=1e-12)
    np.testing.assert_allclose(np.poly(found.eigenvalues[0]), np.poly(w), atol=1e-12)
    assert found.found.tolist() == [7] and found.certified.all() and found.kind.tolist() == ["point"]
    assert (found.evaluations >= 1 + 5).all()
    confirm(cell, params, x, found)


def test_a_jacobian_serves_several_steps():
    """F and J at the start, then F once per step: cheaper than four of Newton's steps, which evaluate J each."""
    rng = np.random.default_rng(0)
    cell, params, x = elman(0.9 * rng.normal(size=(20, 20)) / 20**0.5, rng.normal(size=20))
    starts = jnp.asarray(rng.normal(size=(4, 20)))
    for steps in (1, 4):
        found = fixed_points(cell, params, x, starts, iterations=steps, certify=False)
        assert (found.evaluations == 1 + 20 + steps).all() and found.kind.tolist()[0] == "slow"
    found = fixed_points(cell, params, x, starts, iterations=40)
    assert (found.speed < 1e-12).all() and found.evaluations.max() < 4 * (1 + 20)
    found = fixed_points(cell, params, x, starts)
    assert found.found.tolist() == [4] and found.certified.all()
    confirm(cell, params, x, found)


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.001, 1.1, 2.0, 4.0])
def test_one_tanh_unit(gain):
    """One point, or three; h = tanh(g h) has slope g (1 - h²) there."""
    cell, params, x = elman([[gain]])
    found = fixed_points(cell, params, x, jnp.linspace(-1.5, 1.5, 17)[:, None])
    order = found.carry[:, 0].argsort()
    h, slopes = found.carry[order, 0], found.eigenvalues[order, 0]
    positive = 1.0
    for _ in range(200):  # Newton, in the closed form
        positive -= (np.tanh(gain * positive) - positive) / (gain * (1 - np.tanh(gain * positive) ** 2) - 1)
    closed = [0.0] if gain < 1 else [-positive, 0.0, positive]
    np.testing.assert_allclose(h, closed, atol=1e-12)
    np.testing.assert_allclose(slopes, gain * (1 - h**2), rtol=1e-12)
    assert found.stable[order].tolist() == ([True] if gain < 1 else [True, False, True])
    assert found.certified.all() and found.found.sum() == 17
    confirm(cell, params, x, found)


def test_the_triple_root_is_found_and_not_certified():
    """At g = 1 three points are one, of slope 1: nothing there is isolated by its derivative."""
    cell, params, x = elman([[1.0]])
    found = fixed_points(cell, params, x, jnp.linspace(-1.5, 1.5, 9)[:, None])
    assert np.abs(found.carry).max() < 1e-6 and found.found.tolist() == [9]
    assert found.kind.tolist() == ["point"] and not found.certified[0] and not found.stable[0]
    assert found.why[0] and np.isnan(found.radius[0])

    rng = np.random.default_rng(4)  # the same along (1, -1, -1, 1) in a network of four units
    along = np.linalg.qr(np.column_stack([[1.0, -1, -1, 1], rng.normal(size=(4, 3))]))[0]
    cell, params, x = elman(along * [1, 0.7, 0.2, -0.6] @ along.T)
    found = fixed_points(cell, params, x, jnp.asarray(rng.normal(size=(512, 4))))
    assert np.abs(found.carry).max() < 1e-6 and found.found.tolist() == [512] and not found.certified[0]


def test_uncoupled_units_have_all_corners():
    """3^H points, C(H, k) 2^(H - k) of them with k unstable directions; more in `tests.dynamics.corners`."""
    check_corners(3)


def test_a_gru_without_recurrent_weights():
    """h* = tanh(b_n), and the update gate σ(b_z) is the slope."""
    b, b_hn = RNG.normal(size=9), RNG.normal(size=3)
    params = rnnjax.GRUParams(jnp.zeros((2, 9)), jnp.zeros((3, 9)), jnp.asarray(b), jnp.asarray(b_hn))
    cell, x = rnnjax.GRU(3), jnp.zeros(2)
    found = fixed_points(cell, params, x, jnp.asarray(RNG.normal(size=(5, 3))))
    r, z = np.split(1 / (1 + np.exp(-b[:6])), 2)
    np.testing.assert_allclose(found.carry, np.tanh(b[6:] + r * b_hn)[None], rtol=1e-12)
    np.testing.assert_allclose(np.sort(found.eigenvalues[0].real), np.sort(z), rtol=1e-12)
    assert found.stable.all() and found.certified.all()
    confirm(cell, params, x, found)


def test_an_lstm_without_recurrent_weights():
    """c* = i g / (1 - f), h* = o tanh(c*); slopes f, and 0 for h, which is forgotten."""
    b = RNG.normal(size=12)
    cell, x = rnnjax.LSTM(3), jnp.zeros(2)
    params = rnnjax.LSTMParams(jnp.zeros((2, 12)), jnp.zeros((3, 12)), jnp.asarray(b))
    starts = rnnjax.LSTMCarry(jnp.asarray(RNG.normal(size=(5, 3))), jnp.asarray(RNG.normal(size=(5, 3))))
    found = fixed_points(cell, params, x, starts)
    i, f, o = (1 / (1 + np.exp(-b[part])) for part in (slice(0, 3), slice(3, 6), slice(9, 12)))
    c = i * np.tanh(b[6:9]) / (1 - f)
    np.testing.assert_allclose(found.carry.c, c[None], rtol=1e-12)
    np.testing.assert_allclose(found.carry.h, (o * np.tanh(c))[None], rtol=1e-12)
    np.testing.assert_allclose(np.sort(found.eigenvalues[0].real), [0, 0, 0, *np.sort(f)], atol=1e-12)
    confirm(cell, params, x, found)


def test_relu_against_all_its_regions():
    """In each of the 2^H regions the network is linear; a point counts if it lies in its own region."""
    rng, seen = np.random.default_rng(5), 0
    starts = jnp.asarray(3 * np.random.default_rng(1).normal(size=(128, 3)))
    for _ in range(6):
        w, b = 1.5 * rng.normal(size=(3, 3)), rng.normal(size=3)
        expected = []
        for active in itertools.product((0.0, 1.0), repeat=3):
            mask = np.array(active)
            h = np.linalg.solve(np.eye(3) - mask[:, None] * w.T, mask * b)
            if ((h @ w + b > 0) == (mask > 0)).all():
                expected.append(h)
        cell, params, x = elman(w, b, "relu")
        found = fixed_points(cell, params, x, starts)
        points = stacked(found.carry)[found.kind == "point"]
        assert len(points) == len(expected)
        for h in expected:
            assert np.abs(points - h).max(-1).min() < 1e-10
        if found.certified.any():
            confirm(cell, params, x, found)
        seen += len(expected)
    assert seen > 6


def test_a_line_attractor_is_one_line():
    """Eigenvalue 1 along (1, 1): all 30 starts end on one line, along which q = 0."""
    cell, params, x = elman([[0.75, 0.25], [0.25, 0.75]], None, "linear")
    found = fixed_points(cell, params, x, jnp.asarray(RNG.normal(size=(30, 2))))
    assert found.kind.tolist() == ["line"] and found.found.tolist() == [30] and not found.certified[0]
    assert "line" in found.why[0] and found.speed[0] < 1e-30
    (line,) = found.line
    assert line is not None and line.shape == (30, 2)
    np.testing.assert_allclose(line[:, 0], line[:, 1], atol=1e-12)
    assert (np.diff(line[:, 0]) > 0).all() or (np.diff(line[:, 0]) < 0).all()


def test_lines_planes_and_points_are_told_apart():
    """Two halves of the plane h_1 = h_2 = 0 are one surface; a ReLU's line and a point beside it are two things."""
    cell, params, x = elman(np.diag([1.0, 1.0, 0.5]), None, "linear")
    found = fixed_points(cell, params, x, jnp.asarray(RNG.normal(size=(12, 3))), certify=False)
    assert found.kind.tolist() == ["surface"] and found.found.tolist() == [12]

    def step(p, h, x):  # the circle of radius 1, whose centre is a point
        h = h * (1 + p * (1 - (h**2).sum()))
        return h, h

    ring = rnnjax.StepCell(step, lambda p, batch: jnp.zeros((*batch, 2)))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    starts = np.stack([np.cos(angles), np.sin(angles)], -1) * RNG.uniform(0.7, 1.4, size=(24, 1))
    starts = jnp.asarray(np.concatenate([starts, [[1e-3, 0.0]]]))
    found = fixed_points(ring, jnp.asarray(0.3), x, starts, certify=False)
    assert sorted(found.kind.tolist()) == ["line", "point"] and sorted(found.found.tolist()) == [1, 24]


def test_a_slow_point_is_where_two_points_have_met():
    """Past the fold of h' = tanh(2 h + b), at b = 0.5328, a local minimum of q is left."""
    cell, params, x = elman([[2.0]], [0.6])
    found = fixed_points(cell, params, x, jnp.linspace(-2, 2, 9)[:, None])
    assert found.kind.tolist() == ["point", "slow"] and found.certified.tolist() == [True, False]
    assert "local minimum" in found.why[1] and 1e-4 < found.speed[1] < 1e-3 and found.period.tolist() == [1, 0]
    h = -np.sqrt(0.5)  # where F' = 1, up to the shift of the minimum by the fold's own distance
    assert abs(np.tanh(2 * found.carry[1, 0] + 0.6) - h) < 0.02
    np.testing.assert_allclose(found.residual, np.sqrt(2 * found.speed))


def test_no_point_is_where_rounding_hides_what_is_added():
    """h <- h + (2 + tanh h) / 10 never rests; at h = -1e16 it does in floating point, where F(h) rounds to h."""
    drift = rnnjax.StepCell(lambda _, h, x: (h + 0.1 * (2 + jnp.tanh(h)), h), lambda _, batch: jnp.zeros((*batch, 1)))
    found = fixed_points(drift, (), jnp.zeros(1), jnp.linspace(-3.0, 3.0, 9)[:, None])
    assert found.found.sum() == 9 and (found.speed > 0.00499).all() and (np.abs(found.carry) < 1e10).all()


def test_cycles():
    """-tanh(2 h) changes its sign at every step: ±0.9575 is a cycle of two, returned once, and 0 a point."""
    cell, params, x = elman([[-2.0]])
    starts = jnp.linspace(-2, 2, 9)[:, None]
    found = fixed_points(cell, params, x, starts, cycle=2)
    order = np.abs(found.carry[:, 0]).argsort()
    np.testing.assert_allclose(np.abs(found.carry[order, 0]), [0, 0.957504024079], atol=1e-10)
    h = found.carry[order[1], 0]
    np.testing.assert_allclose(found.eigenvalues[order, 0], [4.0, (2 * (1 - h**2)) ** 2], rtol=1e-9)
    assert found.period[order].tolist() == [1, 2] and found.stable[order].tolist() == [False, True]
    assert found.found[order].tolist() == [1, 8] and found.certified.all()
    four = fixed_points(cell, params, x, starts, cycle=4, certify=False)
    assert sorted(four.period.tolist()) == [1, 2]


def test_in_float32_the_tolerance_adapts():
    cell, params, x = elman([[2.0]])
    params, x = rnnjax.ElmanParams(*(leaf.astype("float32") for leaf in params)), x.astype("float32")
    found = fixed_points(cell, params, x, jnp.linspace(-1, 1, 9, dtype="float32")[:, None])
    assert found.carry.dtype == np.float32 and (found.kind == "point").all() and len(found.kind) == 3


def test_progress_and_slices():
    """Slices of one size are one program, and the last is filled up; the result is that of all starts."""
    cell, params, x = elman([[2.0]])
    seen = []
    starts = jnp.asarray(RNG.normal(size=(700, 1)))
    found = fixed_points(cell, params, x, starts, certify=False, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(512, 700), (700, 700)] and found.found.sum() == 700 == len(found.arrived)
    np.testing.assert_array_equal(np.bincount(found.arrived), found.found)
