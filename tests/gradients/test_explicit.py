"""`rnnjax.gradients` against backpropagation through time in NumPy, and against closed forms of one unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.measured import QUICKLY, measure, weights
from tests.registry import CELLS, COMBINED, B, T, Times, sample, unroller


def through_time(params, carry, xs, weights, times: Times):
    """An Elman network with tanh, row by row and step by step: dL/dh at T + 1 boundaries, and each copy's gradient.

    L = Σ w y + w y² over all steps; y of a masked step is zero, so nothing of its weight counts.
    """
    w_x, w_h, b = (np.asarray(leaf) for leaf in params)
    adjoint = np.zeros((T + 1, B, len(b)))
    parts = [np.zeros((T, *leaf.shape)) for leaf in (w_x, w_h, b)]
    for row in range(B):
        before, after = np.zeros((T, len(b))), np.zeros((T, len(b)))
        h = np.asarray(carry[row])
        for t in range(T):
            inside = t < times.lengths[row]
            if inside and times.resets[t, row]:
                h = np.zeros_like(h)
            before[t] = h
            if inside and times.mask[t, row]:
                h = np.tanh(xs[t, row] @ w_x + h @ w_h + b)
            after[t] = h
        a = np.zeros_like(h)
        for t in reversed(range(T)):
            inside = t < times.lengths[row]
            counts = inside and times.mask[t, row]
            if counts:
                a = a + weights[t, row] * (1 + 2 * after[t])
            adjoint[t + 1, row] = a
            if counts:
                a_z = a * (1 - after[t] ** 2)
                for part, share in zip(parts, (np.outer(xs[t, row], a_z), np.outer(before[t], a_z), a_z), strict=True):
                    part[t] += share
                a = w_h @ a_z
            if inside and times.resets[t, row]:
                a = np.zeros_like(a)
        adjoint[0, row] = a
    return adjoint, parts


def test_an_elman_network_through_time():
    """Every boundary and copy, with a short row, an empty row, gaps and resets."""
    name = "elman_tanh"
    adjoint, parts = through_time(*sample(name), np.asarray(weights(name)), COMBINED)
    measured = measure(name, "together", reverse=False)
    np.testing.assert_allclose(measured.perturbed, adjoint, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.exp(measured.adjoint.log_norm), np.linalg.norm(adjoint, axis=-1), rtol=1e-12)
    for got, expected in zip(measured.parts, parts, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


ONE_UNIT = rnnjax.Elman(1, activation="linear")


def one_unit(w: float) -> rnnjax.ElmanParams:
    return rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.full((1, 1), w), b=jnp.zeros(1))


def last(ys):
    return ys[-1, 0]


@pytest.mark.parametrize("w", [0.5, 2.0])
def test_fifty_steps_of_one_unit_are_a_power(w):
    """The lecture's vanishing and exploding cases: exact by perturbation, and up to rounding in log form."""
    plain = gradients.adjoint_by_perturbation(ONE_UNIT, one_unit(w), jnp.ones((50, 1)), last)
    assert plain[:, 0].tolist() == [w**lag for lag in range(50, -1, -1)]
    assert plain[0, 0] in (1125899906842624.0, 8.881784197001252e-16)
    logs = gradients.adjoint(ONE_UNIT, one_unit(w), jnp.ones((50, 1)), last)
    np.testing.assert_allclose(logs.log_norm[:, None], np.arange(50, -1, -1)[:, None] * np.log(w), rtol=1e-12)


def test_each_copy_of_one_unit_contributes_the_same():
    """h_T = w^T h_0: dL/dw = T w^(T-1) h_0, and by symmetry each of the T copies gives w^(T-1) h_0 of it."""
    w, steps, h_0 = 0.9, 20, 3.0
    parts = gradients.attribution(ONE_UNIT, one_unit(w), jnp.zeros((steps, 1)), last, carry=jnp.array([h_0]))
    np.testing.assert_allclose(parts.w_h[:, 0, 0], np.full(steps, w ** (steps - 1) * h_0), rtol=1e-12)
    np.testing.assert_allclose(parts.b[:, 0], w ** np.arange(steps - 1, -1, -1), rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_learned_initial_carry_counts_with_the_step_that_starts_from_it(reverse):
    """With `carry=None` the initial carry depends on parameters, whose gradient counts at the first step."""
    drawn = sample("step_cell")
    cell, xs, times = CELLS["step_cell"], drawn.xs, Times(resets=COMBINED.resets)
    weighing = weights("step_cell")

    def loss(ys):
        return (ys * weighing).sum()

    def both(params):
        outputs = unroller("step_cell", "scan", reverse, times)
        whole = jax.grad(lambda p: loss(outputs(p, None, xs)[1]))(params)
        return gradients.attribution(cell, params, xs, loss, resets=times.resets, reverse=reverse), whole

    parts, whole = jax.jit(both, compiler_options=QUICKLY)(drawn.params)
    np.testing.assert_allclose(parts["h_0"].sum(axis=0), whole["h_0"], rtol=1e-12)
    np.testing.assert_allclose(parts["w"].sum(axis=0), whole["w"], rtol=1e-12)
    starts = COMBINED.resets.any(axis=1)
    starts[-1 if reverse else 0] = True
    assert (np.abs(parts["h_0"]).max(axis=1) > 0).tolist() == starts.tolist()


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 5.0])
def test_a_cell_state_forgets_at_the_rate_of_its_bias(forget_bias):
    """Without recurrent weights, dL/dc shrinks by σ(b_f) per step, which is 0.5 for b_f = 0, as in the lecture.

    The loss depends on h, so dL/dh is nonzero only at the last step; before it, only dL/dc is.
    """
    cell = rnnjax.LSTM(2, forget_bias=forget_bias)
    params = cell.init(jax.random.key(0), 1)
    params = params._replace(w_h=jnp.zeros_like(params.w_h), w_x=jnp.zeros_like(params.w_x))
    params = params._replace(b=params.b.at[4:6].set(0.3))
    adjoint = jax.jit(lambda p: gradients.adjoint(cell, p, jnp.ones((300, 1)), lambda ys: ys[-1].sum()))(params)
    h, c = adjoint.log_norm_by_part
    assert (h[:-1] == -np.inf).all() and c[-1] == -np.inf
    rate = -np.log1p(np.exp(-forget_bias))
    np.testing.assert_allclose(np.diff(c[:-1]), -rate, rtol=0, atol=1e-12)
    np.testing.assert_allclose(adjoint.log_norm[:-1], c[:-1], rtol=1e-14)
