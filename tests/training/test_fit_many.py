"""`fit_many`: R runs in one program, each equal to `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from tests.training import toy

RATES = jnp.array([0.1, 0.05, 1e37, 0.02], jnp.float32)
OPTIONS = toy.steps(20)


def rule(setting):
    return optax.chain(training.clip_by_global_norm(0.5), optax.sgd(setting["rate"], momentum=0.5))


def init(key, setting):
    return toy.start().params


def test_each_run_is_what_fit_makes_of_it():
    """Shared keys, to compare runs with `fit`; one run with a far too large rate stops alone, and is reported."""
    keys = jnp.stack([jax.random.key(7)] * 4)
    seen = []
    many = training.fit_many(
        toy.loss, init, rule, toy.data, {"rate": RATES, "key": keys}, OPTIONS, key=jax.random.key(0), report=seen.append
    )
    one = toy.run(OPTIONS)
    for name in ("w", "b"):
        np.testing.assert_allclose(many.state.params[name][0], one.state.params[name], rtol=1e-5)
    losses = many.history["loss"]
    np.testing.assert_allclose(losses[:, 0], [line["loss"] for line in one.history], rtol=1e-4)
    assert many.history["step"].tolist() == [5, 10, 15, 20] and losses.shape == (4, 4)
    assert losses[-1, 0] < losses[-1, 1] < losses[-1, 3]
    assert many.faults[:2] == [None, None] and many.faults[3] is None
    assert many.faults[2] is not None
    step, leaves = many.faults[2]
    assert step == int(many.state.stopped[2]) == int(many.state.step[2]) < 5 and "loss" in leaves
    assert np.isnan(losses[1:, 2]).all() and np.isfinite(many.state.params["w"]).all()
    assert many.state.step.tolist() == [20, 20, step, 20]
    assert [line["loss"][0] for line in seen] == losses[:, 0].tolist()


def test_runs_differ_by_key_and_by_setting():
    """Separate initial states and data; a loss, an `init` and a criterion with an argument `setting`."""

    def scaled(params, batch, setting):
        return setting["scale"] * toy.loss(params, batch)

    def start(key, setting):
        return {"w": setting["scale"] * jax.random.normal(key, (3,), jnp.float32), "b": jnp.zeros((), jnp.float32)}

    many = training.fit_many(
        scaled,
        start,
        toy.RULE,
        toy.data,
        {"scale": jnp.array([1.0, 1.0, 0.0], jnp.float32)},
        training.FitOptions(steps=30, chunk=5),
        key=jax.random.key(0),
        has_setting=("loss",),
        held_out=lambda key, index: toy.data(key, index),
        until=lambda held: held["loss"] == 0,
    )
    assert many.state.done.tolist() == [False, False, True] and many.state.step.tolist() == [30, 30, 5]
    assert many.history["loss"][0, 0] != many.history["loss"][0, 1]
    assert many.state.params["w"][2].tolist() == [0, 0, 0] and many.history["held_out_loss"].shape == (6, 3)


@pytest.mark.parametrize("settings", [{}, {"a": jnp.ones(3), "b": jnp.ones(2)}, {"a": jnp.ones(())}])
def test_settings_that_do_not_fit(settings):
    with pytest.raises(ValueError, match="same leading axis"):
        training.fit_many(toy.loss, init, toy.RULE, toy.data, settings, OPTIONS, key=jax.random.key(0))
