"""The adjoint's rate as a metric: closed forms, and inside the compiled step."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from rnnjax import tasks, training

CELL = rnnjax.Elman(1, "linear")
HEALTH = training.adjoint_health(CELL, lambda params: params, lambda params, ys, batch: ys[-1].sum())


def params(w_h):
    return rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[w_h]]), b=jnp.zeros(1))


def test_rate_of_a_scalar_network_is_log_w():
    """2^100 and 0.5^100 in the metrics of `fit`, at the parameters before the line's first update."""
    rule = optax.sgd(0.0)
    data = lambda key, step: tasks.latch(key, 100, (2,))  # noqa: E731
    loss = lambda p, batch: jnp.sum(p.w_h) * 0  # noqa: E731
    for w in (2.0, 0.5):
        state = training.init_state(params(w), rule, jax.random.key(0))
        _, history = training.fit(
            loss, state, rule, data, training.FitOptions(steps=4, chunk=4, metrics_every=2), health=HEALTH
        )
        for line in history:
            np.testing.assert_allclose(line["adjoint_rate"], np.log(w), rtol=1e-10)


def test_slopes_over_what_is_reached(monkeypatch):
    """Against `numpy.polyfit`, for rows of different lengths, one with a single entry, one with none."""
    log_norm = np.random.default_rng(0).normal(size=(7, 4))
    log_norm[5:, 1] = log_norm[:6, 2] = log_norm[:, 3] = -np.inf
    found = types.SimpleNamespace(log_norm=jnp.asarray(log_norm))
    monkeypatch.setattr(sys.modules["rnnjax.training.losses"], "adjoint", lambda *given, **named: found)
    measured = HEALTH(params(0.5), tasks.latch(jax.random.key(0), 6, (4,)))
    lag = np.arange(6, -1, -1)
    slopes = [np.polyfit(lag, log_norm[:, 0], 1)[0], np.polyfit(lag[:5], log_norm[:5, 1], 1)[0]]
    np.testing.assert_allclose(measured["adjoint_rate"], np.mean(slopes), rtol=1e-12)


def test_a_shut_network_is_said_to_be_shut():
    """Without any gradient, there is no rate."""
    measured = HEALTH(params(0.0), tasks.latch(jax.random.key(0), 5, (2,)))
    assert np.isnan(measured["adjoint_rate"])


def test_a_row_that_leaves_floating_point_is_in_no_mean():
    """One of two rows overflows (ReLU, 2^t): the metric is NaN."""
    cell = rnnjax.Elman(1, "relu")
    health = training.adjoint_health(cell, lambda params: params, lambda params, ys, batch: ys[-1].sum())
    batch = tasks.latch(jax.random.key(0), 20, (2,))
    batch = batch._replace(xs=jnp.ones_like(batch.xs))
    assert all(np.isfinite(value) for value in health(params(2.0), batch).values())
    left = health(params(2.0), batch._replace(xs=batch.xs.at[5, 0].set(jnp.inf)))
    assert all(np.isnan(value) for value in left.values())
