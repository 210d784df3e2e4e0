"""Properties of every rule: masks, resets, memory, and what `explain`, `fit` and `bias` say of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import gradients, online
from tests.online.runs import loss_of
from tests.registry import CELLS, D, assert_close, normal, sample

RULES = {
    "rtrl": online.RTRL(),
    "snap": online.SnAp(1),
    "tbptt": online.TBPTT(3),
    "immediate": online.Immediate(),
    "uoro": online.UORO(),
    "kf_rtrl": online.KFRTRL(),
    "kernl": online.KeRNL(learning_rate=0.0),
    "eprop": online.EProp("random"),
    "rflo": online.RFLO(),
    "dni": online.DNI(learning_rate=0.0),
}
"""With fixed predictions and kernels, which all rows share and no reset clears."""

CELL = rnnjax.Readout(rnnjax.cells.RateNetwork(3), 2)
PARAMS = normal(jax.eval_shape(lambda: CELL.init(jax.random.key(0), D, "float64")), "every rule")
STEPS, ROWS = 8, 2
XS = normal(jax.ShapeDtypeStruct((STEPS, ROWS, D), "float64"), "every rule xs")
WS = normal(jax.ShapeDtypeStruct((STEPS, ROWS, 2), "float64"), "every rule ws")
KEYS = jax.random.split(jax.random.key(1), STEPS)

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def gradients_of(rule, keep=slice(None), **flags):
    """Each step's gradient, and all that follows the last one."""

    def step(state, now):
        (carry, trace), (x, w, key, mask, resets) = state, now
        found = rule.step(CELL, PARAMS, carry, trace, x, jax.grad(loss_of(w)), mask=mask, resets=resets, key=key)
        return (found.carry, found.trace), found.gradient

    start = CELL.initial_carry(PARAMS, (ROWS,)), rule.init(CELL, PARAMS, (ROWS,))
    given = XS, WS, KEYS, flags.get("mask"), flags.get("resets")
    return jax.jit(lambda given: jax.lax.scan(step, start, given))(jax.tree.map(lambda leaf: leaf[keep], given))


def steps_of(gradients, which):
    return jax.tree.map(lambda leaf: leaf[which], gradients)


@every_rule
def test_masks_and_resets(rule):
    """A masked step changes nothing, whatever its input; after a reset the past is gone."""
    whole = gradients_of(rule)[1]
    mask = jnp.ones((STEPS, ROWS), bool).at[2].set(False)
    resets = jnp.zeros((STEPS, ROWS), bool).at[4].set(True)
    (end, trace), found = gradients_of(rule, mask=mask, resets=resets)
    at = np.arange(STEPS)
    assert all([bool((leaf[2] == 0).all()) for leaf in jax.tree.leaves(found)])
    if not isinstance(rule, online.TBPTT):  # its window counts masked steps
        shorter = gradients_of(rule, keep=at != 2)[1]
        assert_close(steps_of(found, at[[0, 1, 3]]), steps_of(shorter, at[:3]))
    (alone_end, alone_trace), alone = gradients_of(rule, keep=slice(4, None))
    assert_close(steps_of(found, at[4:]), alone)
    assert_close(end, alone_end)
    if not isinstance(rule, online.TBPTT | online.KeRNL):  # a window also keeps what was before; noise has its own keys
        assert_close(trace, alone_trace)
    differs = [float(jnp.abs(a - b)[5:].max()) for a, b in zip(*map(jax.tree.leaves, (whole, found)), strict=True)]
    assert isinstance(rule, online.Immediate) or max(differs) > 1e-6


@every_rule
def test_memory_does_not_grow_with_time(rule):
    """The gradient and the loss are summed in the loop."""

    def learn(xs):
        def step(state, now):
            carry, trace, summed, total, key = state
            key, now_key = jax.random.split(key)
            found = rule.step(CELL, PARAMS, carry, trace, now, jnp.ones_like, key=now_key)
            summed = jax.tree.map(jnp.add, summed, found.gradient)
            return (found.carry, found.trace, summed, total + found.y.sum(), key), None

        start = CELL.initial_carry(PARAMS, (ROWS,)), rule.init(CELL, PARAMS, (ROWS,))
        zeros = jax.tree.map(jnp.zeros_like, PARAMS), jnp.zeros(())
        return jax.lax.scan(step, (*start, *zeros, jax.random.key(0)), xs)[0][2:4]

    sizes = []
    for steps in (100, 100_000):
        xs = jax.ShapeDtypeStruct((steps, ROWS, D), "float64")
        found: Any = jax.jit(learn).lower(xs).compile().memory_analysis()
        sizes.append(found.temp_size_in_bytes)
    assert sizes[0] == sizes[1] > 0


@every_rule
def test_what_explain_says(rule):
    cost = online.explain(CELL, PARAMS, rule, (ROWS,))
    trace = rule.init(CELL, PARAMS, (ROWS,))
    assert cost.trace_bytes == sum([leaf.nbytes for leaf in jax.tree.leaves(trace)])
    assert cost.flops > cost.step_flops > 0


def squared(y, target):
    return ((y - target) ** 2).sum()


def test_fit_is_the_loop_written_out():
    """With an update every two steps, by Optax, and in two calls."""
    rule, optimizer, every = online.SnAp(1), optax.sgd(0.05, momentum=0.9), 2
    carry, trace = CELL.initial_carry(PARAMS, (ROWS,)), rule.init(CELL, PARAMS, (ROWS,))
    params, state, summed, losses = PARAMS, optimizer.init(PARAMS), None, []
    step = jax.jit(lambda p, c, trace, x, w: rule.step(CELL, p, c, trace, x, jax.grad(lambda y: squared(y, w))))
    for t in range(STEPS):
        carry, trace, gradient, y = step(params, carry, trace, XS[t], WS[t])
        losses.append(squared(y, WS[t]))
        summed = gradient if summed is None else jax.tree.map(jnp.add, summed, gradient)
        if t % every == every - 1:
            updates, state = optimizer.update(summed, state, params)
            params, summed = optax.apply_updates(params, updates), None

    first = online.fit(CELL, PARAMS, XS[:4], WS[:4], squared, rule, optimizer, every=every)
    kept = {"carry": first.carry, "trace": first.trace, "opt_state": first.opt_state}
    second = online.fit(CELL, first.params, XS[4:], WS[4:], squared, rule, optimizer, every=every, **kept)
    assert_close(jnp.concatenate([first.losses, second.losses]), jnp.asarray(losses))
    assert_close((second.params, second.carry, second.trace), (params, carry, trace))
    with pytest.raises(ValueError, match="`every` must divide them"):
        online.fit(CELL, PARAMS, XS, WS, squared, rule, optimizer, every=3)


def test_bias_is_that_of_the_rule_itself():
    """`online.bias` runs each rule as a loop of one's own does: the same cosine and norm, where nothing is random."""

    def whole(rule):
        return np.concatenate([np.asarray(leaf).sum(0).ravel() for leaf in jax.tree.leaves(gradients_of(rule)[1])])

    found = online.bias(CELL, PARAMS, XS, WS, lambda y, w: loss_of(w)(y), RULES, seeds=2)
    exact = whole(RULES["rtrl"])
    for name, rule in RULES.items():
        if rule.random:
            assert np.isfinite(found[name].cosine)
            continue
        own = whole(rule)
        sizes = np.linalg.norm(own), np.linalg.norm(exact)
        np.testing.assert_allclose(found[name].norm_ratio, sizes[0] / sizes[1], rtol=1e-10, err_msg=name)
        np.testing.assert_allclose(found[name].cosine, own @ exact / (sizes[0] * sizes[1]), rtol=1e-10, err_msg=name)


def test_bias_by_lag():
    """The exact lags are those of `attribution_by_lag`; truncation keeps the first two, UORO is right on average."""
    cell, drawn = CELLS["elman_tanh"], sample("elman_tanh", batch_shape=())
    targets = normal(jax.ShapeDtypeStruct((len(drawn.xs), 3), "float64"), "targets")
    rules = {"rtrl": online.RTRL(), "two": online.TBPTT(2), "snap": online.SnAp(1), "uoro": online.UORO()}
    rules["immediate"] = online.Immediate()
    found = online.bias(cell, drawn.params, drawn.xs, targets, squared, rules, seeds=400, lags=4)
    by_lag = gradients.attribution_by_lag(cell, drawn.params, drawn.xs, lambda ys: squared(ys, targets), lags=4)
    exact = np.sqrt(sum([np.exp(2 * np.asarray(leaf)) for leaf in jax.tree.leaves(by_lag.log_norm)]))
    np.testing.assert_allclose(found["rtrl"].exact_by_lag, exact, rtol=1e-10)
    assert found["rtrl"].bias_by_lag.max() == 0 and abs(found["rtrl"].cosine - 1) < 1e-12
    np.testing.assert_allclose(found["two"].bias_by_lag, exact * (np.arange(4) >= 2), atol=1e-12)
    np.testing.assert_allclose(found["immediate"].bias_by_lag, exact * (np.arange(4) >= 1), atol=1e-12)
    assert found["snap"].bias_by_lag[0] < 1e-12 < 1e-3 < found["snap"].bias_by_lag[2]
    assert found["snap"].deviation == 0
    uoro = found["uoro"]
    standard_error = uoro.deviation_by_lag / np.sqrt(400)
    assert (uoro.bias_by_lag[1:] < 4 * standard_error[1:]).all() and (uoro.deviation_by_lag[1:] > 0.1).all()


def test_a_key_that_is_missing():
    for name in ("uoro", "kf_rtrl", "kernl"):
        with pytest.raises(ValueError, match="pass `key`, a new one for each step"):
            rule = RULES[name]
            rule.step(CELL, PARAMS, CELL.initial_carry(PARAMS), rule.init(CELL, PARAMS), XS[0, 0], jnp.ones_like)
