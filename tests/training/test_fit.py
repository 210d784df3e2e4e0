"""`fit`: equal to a hand-written loop, one program for many steps, and logging without side effects."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training.loop import pieces
from rnnjax.training.optimizers import clip_states
from rnnjax.training.steps import data_key
from tests.training import toy


@functools.cache
def by_hand():
    """A Python loop over jitted steps with JAX and Optax; returns the parameters after each step and the losses."""
    params, losses, key = [toy.start().params], [], jax.random.key(7)
    opt_state = toy.RULE.init(params[0])

    @jax.jit
    def step(params, opt_state, t):
        batch = toy.data(data_key(key, t), t)
        value, gradient = jax.value_and_grad(toy.loss)(params, batch)
        change, opt_state = toy.RULE.update(gradient, opt_state, params)
        return optax.apply_updates(params, change), opt_state, value

    for t in range(40):
        after, opt_state, value = step(params[-1], opt_state, jnp.int32(t))
        params.append(after)
        losses.append(float(value))
    return params, losses


def close(params, others):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), params, others)


def test_equals_a_loop_by_hand():
    state, history = toy.uninterrupted()
    params, losses = by_hand()
    close(state.params, params[40])
    lines = np.mean(np.reshape(losses, (8, 5)), axis=1)
    np.testing.assert_allclose([line["loss"] for line in history], lines, rtol=1e-4)
    assert lines[-1] < lines[0] / 10
    assert [line["step"] for line in history] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert int(state.step) == 40 and int(state.skipped) == 0


def test_one_program_for_all_chunks():
    """The step is traced once: later dispatches, and those of a resumed run, use the same program."""
    traces = []

    def loss(params, batch):
        traces.append(1)
        return toy.loss(params, batch)

    training.fit(loss, toy.start(), toy.RULE, toy.data, training.FitOptions(steps=40, chunk=10))
    assert len(traces) == 1


def test_going_on_is_as_never_having_stopped():
    first = toy.run(toy.steps(20))
    second = toy.run(state=first.state)
    toy.same_bits(second.state, toy.uninterrupted().state)
    assert first.history + second.history == toy.uninterrupted().history


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, [(5, 20), (5, 20), (2, 20), (1, 10)]),
        (100, [(5, 20), (2, 20), (1, 10)]),
        (105, [(1, 15), (4, 20), (2, 20), (1, 10)]),
        (245, [(1, 5)]),
        (250, []),
    ],
)
def test_pieces_end_at_chunks(step, expected):
    options = training.FitOptions(steps=250, chunk=100, metrics_every=20)
    found = [piece[:2] for piece in pieces(step, options)]
    assert found == expected and step + sum(n * every for n, every in found) == 250


def test_steps_that_are_no_multiple_of_a_chunk():
    state, history = toy.run(toy.steps(23))
    assert [line["step"] for line in history] == [5, 10, 15, 20, 23] and int(state.step) == 23
    close(state.params, by_hand()[0][23])


def test_held_out_criterion_and_report():
    """Evaluation changes no update; the criterion stops training at the end of a dispatch."""
    seen = []

    def held_out(key, index):
        xs = jax.random.normal(key, (50, 3), jnp.float32)
        return xs, xs @ toy.TRUE

    full = toy.run(held_out=held_out, report=seen.append)
    toy.same_bits(full.state, toy.uninterrupted().state)
    assert seen == full.history
    looks = {line["step"]: line["held_out_loss"] for line in seen if "held_out_loss" in line}
    assert list(looks) == [10, 20, 30, 40] and looks[40] < looks[30] < looks[20] < looks[10]

    def until(held):
        return held["loss"] < (looks[20] + looks[10]) / 2

    stopped = toy.run(held_out=held_out, until=until)
    assert int(stopped.state.step) == 20 and bool(stopped.state.done)
    again = toy.run(state=stopped.state, held_out=held_out, until=until)
    toy.same_bits(again.state, stopped.state)
    assert again.history == []


def test_lines_are_numbers_for_json():
    lines = []
    _, history = toy.run(report=lambda line: lines.append(json.dumps(line, allow_nan=False)))
    assert [json.loads(line) for line in lines] == history


def scaled_loss(params, batch):
    """A loss that is not finite at some steps, depending on the key."""
    return toy.loss(params, batch[0]) * batch[1]


def faulty(at, value=np.nan):
    def data(key, step):
        factor = jnp.where(jnp.isin(step, jnp.array(at, jnp.int32)), value, 1.0).astype(jnp.float32)
        return toy.data(key, step), factor

    return data


def test_stop_names_step_and_leaves_and_keeps_the_work():
    with pytest.raises(training.NonFiniteError, match=r"step 13: not finite: loss, gradient of b, .*error\.state") as e:
        training.fit(scaled_loss, toy.start(), toy.RULE, faulty([13]), toy.OPTIONS)
    error = e.value
    assert error.step == 13 and set(error.leaves) >= {"loss", "gradient of w", "w after the update"}
    assert int(error.state.step) == 13 and error.history[-1]["not_finite_step"] == 13
    close(error.state.params, by_hand()[0][13])
    assert int(error.state.stopped) == -1  # so that training can continue


def kept_by_hand(left_out, count):
    """The updates of a hand-written loop without some of the steps."""
    params = toy.start().params
    opt_state, key = toy.RULE.init(params), jax.random.key(7)
    step = jax.jit(lambda p, o, g: toy.RULE.update(g, o, p))
    gradient = jax.jit(jax.grad(toy.loss))
    for t in sorted(set(range(count)) - left_out):
        change, opt_state = step(params, opt_state, gradient(params, toy.data(data_key(key, t), t)))
        params = optax.apply_updates(params, change)
    return params


def test_skip_leaves_out_and_tells():
    """Non-finite steps in two lines are skipped, counted and named; parameters are as without these steps."""
    options = training.FitOptions(steps=20, chunk=10, nonfinite="skip")
    state, history = training.fit(scaled_loss, toy.start(), toy.RULE, faulty([3, 4, 11], np.inf), options)
    assert int(state.skipped) == 3 and int(state.step) == 20
    assert [line["skipped"] for line in history] == [2, 1]
    assert [line["not_finite_step"] for line in history] == [3, 11] and "loss" in history[0]["not_finite"]
    assert all(np.isfinite(line["loss"]) for line in history)
    assert int(clip_states(state.opt_state)[0].steps) == 17
    close(state.params, kept_by_hand({3, 4, 11}, 20))


def test_an_optimizer_that_overflows_is_found():
    """Adam squares 1e30: its state becomes inf, and its update would silently be zero."""
    with jax.numpy_dtype_promotion("standard"):
        rule = optax.adam(0.01)
    huge = lambda params, batch: 1e30 * toy.loss(params, batch)  # noqa: E731
    with pytest.raises(
        training.NonFiniteError, match="step 0: not finite: optimizer state 0/nu/b, optimizer state 0/nu/w"
    ) as e:
        training.fit(huge, toy.start(rule), rule, toy.data, training.FitOptions(steps=4, chunk=4))
    assert not any("gradient" in leaf for leaf in e.value.leaves)


@pytest.mark.parametrize(
    ("loss", "has", "error", "says"),
    [
        (lambda p, batch: p["w"], {}, ValueError, r"the loss is \[3\]; it must be one number: take its mean"),
        (lambda p, batch: (p["w"].sum(), {"a": 0}), {}, ValueError, r"tuple \(for metrics pass has_aux=True\)"),
        (lambda p, batch: p["w"].sum(), {"has_aux": True}, TypeError, r"must return \(loss, metrics\); got"),
        (lambda p, batch: (p["w"].sum(), 3), {"has_aux": True}, TypeError, r"\(loss, metrics\); got tuple"),
        (lambda p, batch: (p["w"].sum(), {"a": p["w"]}), {"has_aux": True}, ValueError, "metric 'a' is"),
        (lambda p, batch, carry: p["w"].sum(), {"carry": jnp.ones(2)}, TypeError, r"must return \(loss, carry\)"),
    ],
)
def test_a_loss_of_another_form_is_refused(loss, has, error, says):
    state = training.init_state(toy.start().params, toy.RULE, jax.random.key(7), has.pop("carry", None))
    with pytest.raises(error, match=says):
        training.fit(loss, state, toy.RULE, toy.data, training.FitOptions(steps=2, chunk=2), **has)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": 10, "chunk": 10, "metrics_every": 3}, "does not divide chunk = 10"),
        ({"steps": 10, "nonfinite": "ignore"}, "choose 'stop' or 'skip'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        training.FitOptions(**options)


def test_a_key_must_be_typed():
    with pytest.raises(TypeError, match="typed PRNG key"):
        training.init_state({}, toy.RULE, jax.random.PRNGKey(0))


def test_key_and_metrics():
    """With has_key the loss gets a fresh key at each step, not the data's; its metrics are averaged."""

    def loss(params, batch, key):
        return jnp.sum(params**2), {"drawn": jax.random.uniform(key), "data": batch}

    rule = optax.sgd(0.0)
    state = training.init_state(jnp.ones(1), rule, jax.random.key(0))
    data = lambda key, step: jax.random.uniform(key)  # noqa: E731
    _, history = training.fit(
        loss, state, rule, data, training.FitOptions(steps=6, chunk=6, metrics_every=1, data_period=2),
        has_aux=True, has_key=True,
    )  # fmt: skip
    drawn, given = ([line[name] for line in history] for name in ("drawn", "data"))
    assert len(set(drawn)) == 6 and not set(drawn) & set(given)
    assert given[0] == given[1] != given[2] == given[3] and len(set(given)) == 3


def test_a_gradient_of_ones_own():
    """A custom `gradient` replaces that of the loss; here it is only an extra term, with a known result."""

    def constant(params, batch):
        return toy.loss(params, batch), jax.tree.map(jnp.ones_like, params)

    rule = optax.sgd(0.25)
    fitted = training.fit(
        toy.loss, toy.start(rule), rule, toy.data, training.FitOptions(steps=4, chunk=4), gradient=constant
    )
    assert fitted.state.params["w"].tolist() == [-1.0, -1.0, -1.0] and float(fitted.state.params["b"]) == 0.0
    assert fitted.history[0]["gradient_norm"] == 2.0 and np.isfinite(fitted.history[0]["loss"])
