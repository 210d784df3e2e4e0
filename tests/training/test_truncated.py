"""Truncated backpropagation against an explicit chain rule, and the full gradient for long windows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import rnnjax
from rnnjax import tasks, training

T, W, U = 12, 0.8, 0.5
XS = np.random.default_rng(0).normal(size=T)
PARAMS = {"w": jnp.array(W), "u": jnp.array(U)}
CARRY = jnp.array([0.3])


def apply(params, xs, *, carry, mask, resets):
    """h_t = w h_{t-1} + u x_t, one row."""

    def step(h, at_t):
        x, counts, reset = at_t
        h = jnp.where(reset, 0.0, h)
        new = params["w"] * h + params["u"] * x[..., 0]
        return jnp.where(counts, new, h), jnp.where(counts, new, 0.0)

    return lax.scan(step, carry, (xs, mask, resets))


def score(ys, chunk):
    return jnp.sum(chunk.weights * ys**2) / 2


def whole(resets=()):
    flags = jnp.zeros((T, 1), bool).at[jnp.array(resets, int)].set(True) if resets else jnp.zeros((T, 1), bool)
    ones = jnp.ones((T, 1))
    return training.Chunk(jnp.asarray(XS).reshape(T, 1, 1), ones[..., None], ones, ones > 0, flags)


def oracle(k1, k2, resets=()):
    """dL/dw and dL/du, term by term: for every output, every earlier step within the window of its chunk."""
    h, before, after = float(CARRY[0]), [], []
    for t in range(T):
        h = 0.0 if t in resets else h
        before.append(h)
        h = W * h + U * XS[t]
        after.append(h)
    dw = du = 0.0
    for t in range(T):
        first = max(0, (t // k1 + 1) * k1 - k2)
        first = max([first, *[r for r in resets if r <= t]])
        for s in range(first, t + 1):
            dw += after[t] * W ** (t - s) * before[s]
            du += after[t] * W ** (t - s) * XS[s]
    return sum(y**2 for y in after) / 2, dw, du


@functools.cache
def gradient(k1, k2):
    return jax.jit(training.tbptt(k1, k2).value_and_grad(apply, score))


@pytest.mark.parametrize("resets", [(), (4,), (0, 5, 6)])
@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (4, 12)])
def test_equals_the_chain_rule_by_hand(k1, k2, resets):
    value, found = gradient(k1, k2)(PARAMS, whole(resets), carry=CARRY)
    expected = oracle(k1, k2, resets)
    np.testing.assert_allclose([value, found["w"], found["u"]], expected, rtol=1e-12)


def test_a_window_as_long_as_the_past_is_the_full_gradient():
    def full(params):
        rows = whole()
        return score(apply(params, rows.xs, carry=CARRY, mask=rows.mask, resets=rows.resets)[1], rows)

    value, expected = jax.value_and_grad(full)(PARAMS)
    found = gradient(4, 12)(PARAMS, whole(), carry=CARRY)
    np.testing.assert_allclose([found[0], found[1]["w"]], [value, expected["w"]], rtol=1e-12)


def rows(key, step):
    return tasks.parity(key, 6, (2,), shortest=4)


def test_chunks_are_the_rows_cut_up():
    data, key = training.chunks(rows, steps=6, k1=2), jax.random.key(0)
    batch = rows(key, 0)
    pieces = [data(key, step) for step in (3, 4, 5)]  # the second row of the stream
    np.testing.assert_array_equal(jnp.concatenate([piece.xs for piece in pieces]), batch.xs)
    np.testing.assert_array_equal(jnp.concatenate([piece.targets for piece in pieces]), batch.targets)
    mask = jnp.concatenate([piece.mask for piece in pieces])
    np.testing.assert_array_equal(mask.sum(axis=0), batch.lengths)
    assert [piece.resets.tolist() for piece in pieces] == [
        [[True] * 2, [False] * 2],
        [[False] * 2] * 2,
        [[False] * 2] * 2,
    ]


@pytest.mark.parametrize("k2", [2, 4])
def test_fit_hands_the_carry_on(k2):
    """With constant parameters, the losses of the chunks equal those of whole rows; the next row restarts."""
    truncated, rule, key = training.tbptt(2, k2), optax.sgd(0.0), jax.random.key(0)
    data = training.chunks(rows, steps=6, k1=2)
    regress = lambda ys, chunk: jnp.sum(chunk.weights * (ys - chunk.targets.astype(ys.dtype)) ** 2)  # noqa: E731
    first = truncated.initial(jnp.full(2, 9.0), jax.eval_shape(data, key, jnp.int32(0)))
    state = training.init_state(PARAMS, rule, key, first)
    options = training.FitOptions(steps=6, chunk=6, metrics_every=1, data_period=3)
    _, history = training.fit(truncated.loss(apply, regress), state, rule, data, options)
    expected = []
    for row in range(2):
        chunk = training.whole_rows(rows(jax.random.fold_in(jax.random.fold_in(key, 0), row), row))
        _, ys = apply(PARAMS, chunk.xs, carry=jnp.zeros(2), mask=chunk.mask, resets=chunk.resets)
        expected += list((chunk.weights * (ys - chunk.targets.astype(ys.dtype)) ** 2).reshape(3, 4).sum(axis=1))
    np.testing.assert_allclose([line["loss"] for line in history], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: training.tbptt(5, 3), "k2 >= k1"),
        (lambda: training.tbptt(0), "k1 is 0"),
        (lambda: training.chunks(rows, steps=7, k1=2), "not a multiple of k1 = 2"),
        (lambda: training.chunks(rows, steps=8, k1=2)(jax.random.key(0), 0), "rows of 6 steps, but steps is 8"),
        (
            lambda: training.tbptt(5).value_and_grad(apply, score)(PARAMS, whole(), carry=CARRY),
            "not a multiple of k1 = 5",
        ),
        (lambda: training.tbptt(5).loss(apply, score)(PARAMS, whole(), None), "12 steps, but k1 is 5"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_former_order_names_the_new_one():
    truncated: Any = training.tbptt(4)
    with pytest.raises(TypeError, match=r"value_and_grad takes \(params, chunk, \*, carry, \.\.\.\)"):
        truncated.value_and_grad(apply, score)(PARAMS, CARRY, whole())


def test_a_readout_is_such_a_function():
    """`functools.partial(rnnjax.unroll, model)`: `unroll` as it is."""
    model = rnnjax.Readout(rnnjax.GRU(2), output_size=1)
    params, truncated = model.init(jax.random.key(0), input_size=1), training.tbptt(4)
    apply = functools.partial(rnnjax.unroll, model)
    score = lambda ys, chunk: jnp.sum(chunk.weights * ys[..., 0] ** 2) / 2  # noqa: E731
    carry = model.initial_carry(params, (1,))
    value, gradient = jax.jit(truncated.value_and_grad(apply, score))(params, whole(), carry=carry)
    _, ys = apply(params, whole().xs)
    np.testing.assert_allclose(value, score(ys, whole()), rtol=1e-12)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
