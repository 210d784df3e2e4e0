"""Branches and bifurcations against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.dynamics import continue_in, fixed_points

X = jnp.zeros(1)


def scaled(w_h):
    """`params_of` for w_h times the parameter."""
    w_h = jnp.asarray(w_h, float)
    return lambda p: rnnjax.ElmanParams(jnp.zeros((1, len(w_h))), p * w_h, jnp.zeros(len(w_h)))


def kinds(branch):
    return [found.kind for found in branch.bifurcations]


def places(branch):
    return [found.value for found in branch.bifurcations]


def test_folds_of_one_unit():
    """h = tanh(2 h + b) turns where 2 (1 - h²) = 1, at b = ±(2 h - artanh h), h = 1/√2: hysteresis on one S."""

    def params_of(b):
        return rnnjax.ElmanParams(jnp.zeros((1, 1)), 2 * jnp.ones((1, 1)), b[None])

    (branch,) = continue_in(rnnjax.Elman(1), params_of, X, -jnp.ones((1, 1)), -1.0, between=(-1.0, 1.0))
    at = 2 * 0.5**0.5 - np.arctanh(0.5**0.5)
    assert kinds(branch) == ["fold", "fold"]
    np.testing.assert_allclose(places(branch), [at, -at], atol=1e-12)
    np.testing.assert_allclose([found.carry[0] for found in branch.bifurcations], [-(0.5**0.5), 0.5**0.5], atol=1e-10)
    h = branch.carry[:, 0]
    np.testing.assert_allclose(np.tanh(2 * h + branch.values), h, atol=1e-14)
    assert (branch.stable == (np.abs(h) > 0.5**0.5)).all() and not branch.closed
    assert branch.values[0] == -1.0 and branch.values[-1] == 1.0


def test_pitchforks_of_a_symmetric_network():
    """The origin of tanh(s W h) branches at s = 1/λ and flips at -1/λ; on a branch of ±v, h = tanh(s λ h)."""
    basis = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0
    w_h = basis.T * np.array([1.0, 0.6, -0.8, 0.2]) @ basis
    branches = continue_in(rnnjax.Elman(4), scaled(w_h), X, jnp.zeros((1, 4)), 0.5, between=(0.5, 2.0))
    origin, first = branches[:2]
    assert kinds(origin) == ["branching", "flip", "branching"]
    np.testing.assert_allclose(places(origin), [1, 1 / 0.8, 1 / 0.6], atol=1e-10)
    assert (origin.stable == (origin.values < 1)).all()
    h = first.carry[:, 0]
    np.testing.assert_allclose(h, np.tanh(first.values * h), atol=1e-13)
    np.testing.assert_allclose(np.abs(first.carry), np.abs(h)[:, None] + np.zeros(4), atol=1e-12)
    assert h[0] * h[-1] < 0 and first.values[0] == 2.0 == first.values[-1]  # both halves of it
    slopes = first.values * (1 - h**2)  # times λ are the eigenvalues along it
    largest = np.array([1.0, 0.8, 0.6, 0.2]) * slopes[:, None]
    np.testing.assert_allclose(np.abs(first.eigenvalues), largest, atol=1e-10)


def test_a_flip_begins_a_cycle_of_two():
    """tanh(-s h) flips at s = 1; in F² that is a branching, and the cycle h = tanh(s h) leaves it."""
    (once,) = continue_in(rnnjax.Elman(1), scaled([[-1.0]]), X, jnp.zeros((1, 1)), 0.5, between=(0.5, 2.0))
    twice = continue_in(rnnjax.Elman(1), scaled([[-1.0]]), X, jnp.zeros((1, 1)), 0.5, between=(0.5, 2.0), cycle=2)
    assert kinds(once) == ["flip"] and kinds(twice[0]) == ["branching"] and len(twice) == 2
    np.testing.assert_allclose([*places(once), *places(twice[0])], 1, atol=1e-10)
    h = twice[1].carry[:, 0]
    np.testing.assert_allclose(np.tanh(twice[1].values * h), h, atol=1e-13)


@pytest.mark.parametrize("angle", [0.5, 2.0])
def test_a_rotation_loses_its_stability_to_a_closed_curve(angle):
    w_h = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    (branch,) = continue_in(rnnjax.Elman(2), scaled(w_h), X, jnp.zeros((1, 2)), 0.4, between=(0.4, 1.7))
    assert kinds(branch) == ["neimark-sacker"]
    np.testing.assert_allclose(places(branch), [1], atol=1e-10)
    np.testing.assert_allclose(np.abs(np.angle(branch.bifurcations[0].eigenvalues)), angle, atol=1e-10)


def test_a_closed_branch_ends_where_it_began():
    """h² + p² = 1 as the fixed points of one unit, with a fold at each end."""

    def step(p, h, x):
        h = h - 0.1 * (h**2 + p**2 - 1)
        return h, h

    cell = rnnjax.StepCell(step, lambda p, batch: jnp.zeros((*batch, 1)))
    (branch,) = continue_in(cell, lambda p: p, X, jnp.ones((1, 1)), 0.0, between=(-2.0, 2.0))
    assert branch.closed and kinds(branch) == ["fold", "fold"]
    np.testing.assert_allclose(np.abs(places(branch)), 1, atol=1e-10)
    np.testing.assert_allclose(branch.carry[:, 0] ** 2 + branch.values**2, 1, atol=1e-12)


def test_eigenvalues_that_meet_outside_of_the_circle_are_no_bifurcation():
    """For p > 0 the two eigenvalues 2 ± √p are real, for p < 0 complex, and always outside."""

    def step(p, h, x):
        first = 2.0 * h[..., :1] + p * h[..., 1:]
        h = jnp.concatenate([first, h[..., :1] + 2.0 * h[..., 1:]], axis=-1)
        return h, h

    cell = rnnjax.StepCell(step, lambda p, batch: jnp.zeros((*batch, 2)))
    (branch,) = continue_in(cell, lambda p: p, X, jnp.zeros((1, 2)), -0.5, between=(-0.5, 0.5))
    assert kinds(branch) == [] and not branch.stable.any()


def test_starts_on_one_branch_are_one_branch():
    """The three points at s = 2 are on two branches, and the LSTM's own point is corrected first."""
    starts = fixed_points(rnnjax.Elman(1), scaled([[1.0]])(jnp.asarray(2.0)), X, jnp.array([[-1.0], [0.0], [1.0]]))
    assert len(starts.kind) == 3
    branches = continue_in(rnnjax.Elman(1), scaled([[1.0]]), X, starts.carry, 2.0, between=(0.5, 2.5))
    assert len(branches) == 2 and sorted(len(b.bifurcations) for b in branches) == [0, 1]

    cell = rnnjax.LSTM(2)
    zero = rnnjax.LSTMParams(jnp.zeros((1, 8)), jnp.zeros((2, 8)), jnp.zeros(8))
    (branch,) = continue_in(
        cell, lambda p: zero._replace(b=zero.b + p), X, cell.initial_carry(zero, (1,)), 0.0, between=(-1.0, 1.0)
    )
    gate = 1 / (1 + np.exp(-branch.values))
    c = gate * np.tanh(branch.values) / (1 - gate)
    np.testing.assert_allclose(branch.carry.c, np.stack([c, c], -1), atol=1e-12)


def test_a_branching_of_a_branch_that_branched():
    """On ±v with λ = 0.6, (1 - m²) s passes 1 from above, where two more points leave each: located as well."""
    basis = np.array([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    w_h = basis * np.array([1.0, 0.6]) @ basis
    branches = continue_in(rnnjax.Elman(2), scaled(w_h), X, jnp.zeros((1, 2)), 1.5, between=(1.5, 2.3))
    second = [branch for branch in branches[1:] if len(branch.bifurcations) == 2]
    assert len(second) == 1 and kinds(second[0]) == ["branching", "branching"]
    for found in second[0].bifurcations:
        m = 1.0
        for _ in range(500):
            m = np.tanh(0.6 * found.value * m)
        assert abs((1 - m**2) * found.value - 1) < 1e-10
        np.testing.assert_allclose(np.abs(found.carry), m, atol=1e-6)
    h = np.sort(np.abs(np.concatenate([branch.carry[[0, -1]] for branch in branches])), axis=-1)
    assert len(np.unique(np.round(h, 6), axis=0)) == 3  # at the last scale: 0, ±v, and the four that left it
