"""The best step, patience, moving averages, accumulation, mixed precision and the bar, each against a loop by hand."""

import builtins
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training.steps import data_key
from tests.training import toy

RATES = {"rate": jnp.array([0.1, 0.4], jnp.float32), "key": jnp.stack([jax.random.key(7)] * 2)}


def curve(params, batch):
    """A held-out measure that is lowest for |w| = 1.5, on the way to `toy.TRUE`."""
    return {"loss": (jnp.linalg.norm(params["w"]) - 1.5) ** 2}


def held_out(key, index):
    return toy.data(key, index)


def by_hand(rule=toy.RULE, steps=40):
    """Parameters after each step."""
    params, key = [toy.start().params], jax.random.key(7)
    state = rule.init(params[0])
    gradient = jax.jit(jax.grad(toy.loss))
    for t in range(steps):
        with jax.numpy_dtype_promotion("standard"):
            change, state = rule.update(gradient(params[-1], toy.data(data_key(key, t), t)), state, params[-1])
        params.append(optax.apply_updates(params[-1], change))
    return params


def close(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


def best_by_hand(params, every, patience, measure=curve):
    """`(step of the best evaluation, step of the last)`."""
    best, stale, at = np.inf, 0, -1
    for t in range(every, len(params), every):
        value = float(measure(params[t], None)["loss"])
        best, stale, at = (value, 0, t) if value < best else (best, stale + 1, at)
        if stale == patience:
            return at, t
    return at, len(params) - 1


def options(**more):
    return training.FitOptions(**{"steps": 40, "chunk": 2, **more})


def test_the_best_step_is_given_back_and_patience_stops():
    """Every second step evaluated; nothing is lost by evaluation, and `state` goes on from the last step."""
    params = by_hand()
    at, last = best_by_hand(params, 4, 3)
    assert 0 < at < last < 40
    fitted = toy.run(options(best="loss", patience=3, evaluate_every=4), held_out=held_out, measure=curve)
    assert [line["step"] for line in fitted.history if "held_out_loss" in line] == list(range(4, last + 1, 4))
    assert int(fitted.state.step) == last and bool(fitted.state.done) and fitted.state.best is not None
    assert int(fitted.state.best.step) == at
    close(fitted.params, params[at])
    close(fitted.state.params, params[last])
    highest = toy.run(
        options(best="loss", higher_is_better=True, steps=20),
        held_out=held_out, measure=lambda p, batch: -curve(p, batch)["loss"],
    )  # fmt: skip
    close(highest.params, params[best_by_hand(params[:21], 2, 99)[0]])


def test_nothing_better_than_nan_but_what_is_finite():
    """Held-out NaN is never the best step; without any finite one, the last is given back."""
    fitted = toy.run(
        options(best="loss", patience=2), held_out=held_out, measure=lambda p, batch: curve(p, batch)["loss"] * jnp.nan
    )
    assert int(fitted.state.step) == 4
    toy.same_bits(fitted.params, fitted.state.params)


def test_best_and_average_resume_to_the_bit(tmp_path):
    asked: dict[str, Any] = {"best": "loss", "average": 0.8, "patience": 30}
    whole = toy.run(options(**asked), held_out=held_out, measure=curve)
    for steps in (16, 40):
        part = toy.run(
            options(steps=steps, **asked), held_out=held_out, measure=curve,
            checkpoints=training.Checkpoints(folder=tmp_path, every=8),
        )  # fmt: skip
    toy.same_bits(part.state, whole.state)
    toy.same_bits(part.params, whole.params)


def average_by_hand(params, decay):
    average = params[0]
    for t, each in enumerate(params[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, b, d=d: np.float32(d) * a + np.float32(1 - d) * b, average, each)
    return average


def test_the_average_is_evaluated_and_given_back():
    fitted = toy.run(options(average=0.9), held_out=held_out, measure=curve)
    expected = average_by_hand(by_hand(), 0.9)
    close(fitted.params, expected)
    np.testing.assert_allclose(fitted.history[-1]["held_out_loss"], curve(expected, None)["loss"], rtol=1e-4)
    close(fitted.state.params, by_hand()[40])


def test_accumulation_is_one_update_of_the_mean_gradient():
    """Under `fit`, for a data function and a loader, against a loop over means of four gradients."""
    rule, params, key = optax.MultiSteps(toy.RULE, 4), toy.start().params, jax.random.key(7)
    batches = [toy.data(data_key(key, t), t) for t in range(20)]
    state = toy.RULE.init(params)
    for i in range(0, 20, 4):
        gradients = [jax.grad(toy.loss)(params, batch) for batch in batches[i : i + 4]]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / np.float32(4), *gradients)
        change, state = toy.RULE.update(mean, state, params)
        params = optax.apply_updates(params, change)
    for data in (toy.data, batches):
        fitted = training.fit(toy.loss, toy.start(rule), rule, data, options(steps=20))
        close(fitted.params, params)


def test_mixed_precision():
    """The loss computes in bfloat16, while parameters and gradient norm are float32."""
    seen = set()

    def loss(params, batch):
        seen.update(leaf.dtype.name for leaf in jax.tree.leaves((params, batch)))
        return toy.loss(params, batch)

    fitted = training.fit(loss, toy.start(), toy.RULE, toy.data, options(steps=2, compute_dtype="bfloat16"))
    assert seen == {"bfloat16"} and fitted.params["w"].dtype == jnp.float32
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), toy.start().params)
    batches = [toy.data(data_key(jax.random.key(7), t), t) for t in range(2)]
    first = jax.tree.map(lambda a: a.astype(jnp.bfloat16), batches[0])
    expected = jax.tree.map(lambda g: g.astype(jnp.float32), jax.grad(toy.loss)(low, first))
    change, _ = toy.RULE.update(expected, toy.RULE.init(toy.start().params))
    one = training.fit(loss, toy.start(), toy.RULE, toy.data, options(steps=1, compute_dtype="bfloat16"))
    close(one.params, optax.apply_updates(toy.start().params, change), 1e-2)  # fused, with fewer roundings


def rule_of(setting):
    return optax.chain(training.clip_by_global_norm(0.5), optax.sgd(setting["rate"], momentum=0.5))


@pytest.mark.parametrize("multi", [1, 4])
def test_fit_many_has_them_too(multi):
    """Each run stops alone, with its own best step and average, as `fit` does with its rate; also accumulating."""

    def rule(setting):
        return optax.MultiSteps(rule_of(setting), multi)

    asked = options(best="loss", patience=3, average=0.7, evaluate_every=4, compute_dtype="float32")
    many = training.fit_many(
        toy.loss, lambda key, setting: toy.start().params, rule, toy.data, RATES, asked, key=jax.random.key(0),
        held_out=held_out, measure=curve,
    )  # fmt: skip
    for run in range(2):
        own = rule({"rate": RATES["rate"][run]})
        one = training.fit(toy.loss, toy.start(own), own, toy.data, asked, held_out=held_out, measure=curve)
        assert one.state.best is not None and many.state.best is not None
        assert int(many.state.step[run]) == int(one.state.step)
        assert int(many.state.best.step[run]) == int(one.state.best.step)
        close(jax.tree.map(lambda leaf, run=run: leaf[run], many.params), one.params, 1e-4)


def test_every_clip_is_counted():
    rule = optax.chain(training.counted(optax.clip(0.1)), training.clip_by_global_norm(10.0), optax.sgd(0.1))
    fitted = training.fit(toy.loss, toy.start(rule), rule, toy.data, options(steps=2))
    assert fitted.history[0]["clipped"] == 1.0 and fitted.history[0]["clipped_2"] == 0.0
    assert fitted.history[0]["gradient_norm_clipped_2"] == fitted.history[0]["gradient_norm_clipped"] <= 0.2


def test_the_bar(capsys, monkeypatch):
    """It shows the updates and the loss; without rich, the error says what to install, before training."""
    fitted = toy.run(options(steps=4), bar=True)
    out = capsys.readouterr().out
    assert "4/4" in out and f"loss {fitted.history[-1]['loss']:.4g}" in out
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"bar=True needs rich: pip install 'rnnjax\[experiments\]'"):
        toy.run(options(steps=4), bar=True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"patience": 3}, "name it, such as best='loss'"),
        ({"best": "loss", "patience": 0}, "patience is 0"),
        ({"evaluate_every": 3}, "evaluate_every is 3, not a multiple of chunk = 2"),
        ({"average": 1.0}, "between 0 and 1"),
        ({"best": "loss"}, "pass `held_out`"),
    ],
)
def test_what_does_not_fit_is_refused(asked, says):
    with pytest.raises(ValueError, match=says):
        toy.run(options(**asked))


def test_a_measure_that_there_is_not():
    with pytest.raises(ValueError, match="best is 'accuracy', but the held-out measures are loss"):
        toy.run(options(best="accuracy"), held_out=held_out)
    with pytest.raises(ValueError, match="has_setting names los, measure"):
        training.fit_many(
            toy.loss, lambda key, setting: toy.start().params, toy.RULE, toy.data, RATES, options(),
            key=jax.random.key(0), has_setting=("los", "measure"),
        )  # fmt: skip
