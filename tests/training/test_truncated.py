"""Truncated backpropagation against an explicit chain rule, and the full gradient for long windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import rnnjax
from rnnjax import tasks, training
from rnnjax.tasks import Batch

T, W, U = 12, 0.8, 0.5
XS = np.random.default_rng(0).normal(size=T)
PARAMS = {"w": jnp.array(W), "u": jnp.array(U)}


def apply(params, xs, *, carry, mask, resets):
    """h_t = w h_{t-1} + u x_t."""

    def step(h, at_t):
        x, counts, reset = at_t
        h = jnp.where(reset, 0.0, h)
        new = params["w"] * h + params["u"] * x[..., 0]
        return jnp.where(counts, new, h), jnp.where(counts, new, 0.0)

    return lax.scan(step, carry, (xs, mask, resets))


def score(ys, chunk):
    return jnp.sum(chunk.weights * ys**2) / 2


def whole(key, step):
    ones = jnp.ones((T, 1))
    return Batch(jnp.asarray(XS).reshape(T, 1, 1), ones[..., None], ones, jnp.full(1, T))


def oracle(k1, k2, resets=()):
    """dL/dw and dL/du, term by term: for every output, every earlier step within the window of its chunk."""
    h, before, after = 0.0, [], []
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


def summed(k1, k2, resets=(), carry=9.0):
    """Value and gradient of a row, summed over its chunks."""
    data, loss = training.chunks(whole, T, k1, k2), training.tbptt(apply, score, k1)
    step, found, carry = jax.jit(jax.value_and_grad(loss, has_aux=True)), [], jnp.full(1, carry)
    for j in range(T // k1):
        chunk = data(jax.random.key(0), j)
        for reset in resets:
            at = reset - ((j + 1) * k1 - k2)
            chunk = chunk._replace(resets=chunk.resets.at[at].set(True)) if 0 <= at < k2 else chunk
        (value, carry), gradient = step(PARAMS, chunk, carry)
        found.append([value, gradient["w"], gradient["u"]])
    return np.sum(found, axis=0)


@pytest.mark.parametrize("resets", [(), (4,), (0, 5, 6)])
@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (4, 12)])
def test_equals_the_chain_rule_by_hand(k1, k2, resets):
    """Also for the last one of the row before, whose carry ends at the reset of the first step."""
    np.testing.assert_allclose(summed(k1, k2, resets), oracle(k1, k2, resets), rtol=1e-12)


def test_a_window_as_long_as_the_past_is_the_full_gradient():
    def full(params):
        rows = training.whole_rows(whole(None, 0))
        return score(apply(params, rows.xs, carry=jnp.zeros(1), mask=rows.mask, resets=rows.resets)[1], rows)

    value, expected = jax.value_and_grad(full)(PARAMS)
    np.testing.assert_allclose(summed(4, 12), [value, expected["w"], expected["u"]], rtol=1e-12)


def rows(key, step):
    return tasks.parity(key, 6, (2,), shortest=4)


def test_chunks_are_the_rows_cut_up():
    data, longer = training.chunks(rows, steps=6, k1=2), training.chunks(rows, steps=6, k1=2, k2=3)
    key, batch = jax.random.key(0), rows(jax.random.key(0), 0)
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
    for piece, step in zip(pieces, (3, 4, 5), strict=True):  # one step more at the front, which is not scored
        found = longer(key, step)
        jax.tree.map(lambda long, short: np.testing.assert_array_equal(long[1:], short), found, piece)
        assert not found.weights[0].any() and (step > 3 or not found.mask[0].any())


@pytest.mark.parametrize("k2", [2, 4])
def test_fit_hands_the_carry_on(k2):
    """With constant parameters, the losses of the chunks equal those of whole rows; the next row restarts."""
    rule, key = optax.sgd(0.0), jax.random.key(0)
    regress = lambda ys, chunk: jnp.sum(chunk.weights * (ys - chunk.targets.astype(ys.dtype)) ** 2)  # noqa: E731
    state = training.init_state(PARAMS, rule, key, jnp.full(2, 9.0))
    options = training.FitOptions(steps=6, chunk=6, metrics_every=1, data_period=3)
    loss, data = training.tbptt(apply, regress, 2), training.chunks(rows, steps=6, k1=2, k2=k2)
    _, history = training.fit(loss, state, rule, data, options)
    expected = []
    for row in range(2):
        chunk = training.whole_rows(rows(jax.random.fold_in(jax.random.fold_in(key, 0), row), row))
        _, ys = apply(PARAMS, chunk.xs, carry=jnp.zeros(2), mask=chunk.mask, resets=chunk.resets)
        expected += list((chunk.weights * (ys - chunk.targets.astype(ys.dtype)) ** 2).reshape(3, 4).sum(axis=1))
    np.testing.assert_allclose([line["loss"] for line in history], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: training.chunks(rows, steps=6, k1=3, k2=2), "k1 divides steps and is at most k2"),
        (lambda: training.tbptt(apply, score, 0), "k1 is 0"),
        (lambda: training.chunks(rows, steps=7, k1=2), "steps is 7, k1 2 and k2 2; k1 divides steps"),
        (lambda: training.chunks(rows, steps=8, k1=2)(jax.random.key(0), 0), "rows of 6 steps, but steps is 8"),
        (
            lambda: training.tbptt(apply, score, 5)(PARAMS, training.chunks(rows, 6, 2)(jax.random.key(0), 0), None),
            "2 steps, but k1 is 5",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_readout_is_such_a_function():
    """`functools.partial(rnnjax.unroll, model)`: `unroll` as it is."""
    model = rnnjax.Readout(rnnjax.GRU(2), output_size=1)
    params, apply = model.init(jax.random.key(0), input_size=1), functools.partial(rnnjax.unroll, model)
    score = lambda ys, chunk: jnp.sum(chunk.weights * ys[..., 0] ** 2) / 2  # noqa: E731
    data, loss = training.chunks(whole, T, 4, 8), training.tbptt(apply, score, 4)
    carry, total = model.initial_carry(params, (1,)), 0.0
    for j in range(3):
        value, carry = jax.jit(loss)(params, data(jax.random.key(0), j), carry)
        total += value
    batch = whole(None, 0)
    np.testing.assert_allclose(total, score(apply(params, batch.xs)[1], batch), rtol=1e-12)
