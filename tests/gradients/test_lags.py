"""The parameter gradient by lag: its sum, truncated windows, closed forms, and lags beyond floating point."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.measured import CONDITIONS, QUICKLY, measure, weigh, weights
from tests.registry import CELLS, Sample, T, sample


@functools.cache
def program(name, reverse):
    def run(drawn: Sample, times, weights):
        loss = functools.partial(weigh, weights)
        return gradients.attribution_by_lag(
            CELLS[name], **drawn._asdict(), loss=loss, reverse=reverse, **times._asdict()
        )

    return jax.jit(run, compiler_options=QUICKLY)


def plain(by_lag):
    """c_k as plain numbers."""
    return jax.tree.map(
        lambda log, unit: np.exp(log).reshape(-1, *(1,) * (unit.ndim - 1)) * unit, by_lag.log_norm, by_lag.direction
    )


@pytest.mark.parametrize(
    ("name", "reverse"), [("lstm", True), ("custom", False), ("step_cell", False), ("deep_stack", False)]
)
def test_all_lags_add_up_to_the_gradient(name, reverse):
    """Outputs apart from the carry, short rows, gaps and resets: Σ_k c_k = dL/dθ by `jax.grad` of `unroll`."""
    for condition in ("plain", "together") if name != "step_cell" else ("plain",):  # its reset state is learned
        parts = plain(program(name, reverse)(sample(name), CONDITIONS[condition], weights(name)))
        expected = measure(name, condition, reverse).params_gradient
        for part, whole in zip(jax.tree.leaves(parts), jax.tree.leaves(expected), strict=True):
            assert part.shape == (T, *whole.shape)
            np.testing.assert_allclose(part.sum(0), whole, rtol=1e-10, atol=1e-12 * np.abs(part).sum())


@pytest.mark.parametrize("window", [1, 3])
def test_a_truncated_window_sees_the_first_lags(window):
    """Truncated backpropagation: for each output, the gradient of `window` steps from a constant carry."""
    name = "gru"
    params, carry, xs = sample(name)
    loss_weights = weights(name)

    def truncated(params):
        carries, step = [carry], functools.partial(CELLS[name].step, params)
        for x in xs:
            carries.append(jax.lax.stop_gradient(CELLS[name].step(jax.lax.stop_gradient(params), carries[-1], x)[0]))
        total = jnp.zeros(())
        for s in range(T):
            first = max(0, s - window + 1)
            c, y = carries[first], None
            for t in range(first, s + 1):
                c, y = step(c, xs[t])
            total += weigh(loss_weights[s], y)
        return total

    expected = jax.jit(jax.grad(truncated), compiler_options=QUICKLY)(params)
    parts = plain(program(name, False)(sample(name), CONDITIONS["plain"], loss_weights))
    for part, whole in zip(jax.tree.leaves(parts), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(part[:window].sum(0), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("w", [0.25, 4.0])
def test_depths_beyond_floating_point(w):
    """One linear unit, x only at the start, a loss of the last output: c_k for b is w^k, 600 steps back and more."""
    params = rnnjax.ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), w), jnp.zeros(1))
    run = jax.jit(
        lambda p: gradients.attribution_by_lag(
            rnnjax.Elman(1, "linear"), p, jnp.zeros((700, 1)), lambda ys: ys[-1, 0], lags=650
        )
    )
    found = run(params).log_norm
    np.testing.assert_allclose(found.b, np.arange(650) * np.log(w), rtol=1e-12, atol=1e-12)
    assert (found.w_x == -np.inf).all()


@pytest.mark.parametrize("lags", [0, 6, 1.5, True])
def test_lags_that_are_not_there(lags):
    with pytest.raises(ValueError, match=r"`lags` is .*5 steps: give 1 <= lags <= 5"):
        gradients.attribution_by_lag(CELLS["gru"], **sample("gru")._asdict(), loss=lambda ys: ys.sum(), lags=lags)
