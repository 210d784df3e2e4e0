"""Wrappers: alone and in pairs over ten cells, on all engines; their expectations; and their special cases."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells
from rnnjax import wrappers as wrap
from tests.registry import assert_close, assert_identical, normal

T, B, D, H = 6, 3, 2, 4
KEY = jax.random.key(3)

TEN: dict[str, Any] = {
    name: cells.catalogue()[name](H)
    for name in ("elman", "lstm", "gru", "lstm_peephole", "mgu", "indrnn", "cornn", "rate", "min_gru", "highway")
}
WRAPPERS: dict[str, Any] = {
    "dropout": lambda cell: wrap.Dropout(cell, 0.4),
    "variational": lambda cell: wrap.Dropout(cell, 0.4, tied=True),
    "recurrent_dropout": lambda cell: wrap.Dropout(cell, 0.4, "state"),
    "output_dropout": lambda cell: wrap.Dropout(cell, 0.4, "output"),
    "zoneout": lambda cell: wrap.Zoneout(cell, 0.3),
    "drop_connect": lambda cell: wrap.DropConnect(cell, 0.3, ("w_x",)),
    "noise": lambda cell: wrap.StateNoise(cell, 0.2),
    "residual": lambda cell: wrap.Residual(rnnjax.Readout(cell, D)),
    "skip": wrap.Skip,
    "norm_before": wrap.LayerNorm,
    "norm_inside": lambda cell: wrap.LayerNorm(cell, "state"),
    "weight_norm": lambda cell: wrap.WeightNorm(cell, ("w_x",)),
    "precision": lambda cell: wrap.Precision(cell, "float64"),
    "learned_carry": rnnjax.LearnedCarry,
    "standardized": lambda cell: wrap.Standardized(cell, (0.3,), (2.0,)),
}
PAIRS = list(itertools.permutations(WRAPPERS, 2))
SAMPLE = [(name, *PAIRS[(37 * k + 11) % len(PAIRS)]) for k, name in enumerate([*TEN] * 4)]
"""A pairwise sample: four pairs of different wrappers over each of the ten cells."""


@functools.cache
def given(cell):
    params = cell.init(jax.random.key(0), D)
    params = jax.tree.map(lambda leaf, extra: leaf + extra, params, normal(params, "wrapped", scale=0.2))
    return params, normal(jnp.zeros((T, B, D)), "xs")


TIMES = {
    "lengths": np.array([6, 4, 0]),
    "mask": np.arange(T * B).reshape(T, B) % 5 != 1,
    "resets": np.arange(T * B).reshape(T, B) % 4 == 2,
}


def check_engines(cell):
    """Same key, same numbers on every engine, in segments, in both directions; gradients too."""
    params, xs = given(cell)

    def loss(params, xs, reverse=False, **options):
        carry, ys = rnnjax.unroll(cell, params, xs, key=KEY, reverse=reverse, **TIMES, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((carry, ys))), ys

    for reverse in (False, True):
        reference = loss(params, xs, reverse, engine="loop")
        for options in ({"engine": "scan"}, {"chunk": 2}, {"checkpoint": 3}, {}):
            assert_close(jax.jit(functools.partial(loss, reverse=reverse, **options))(params, xs), reference)
    expected = jax.jit(jax.grad(functools.partial(loss, engine="scan"), has_aux=True))(params, xs)
    assert_close(jax.jit(jax.grad(loss, has_aux=True))(params, xs), expected, 1e-11)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("name", "outer", "inner"), SAMPLE)
def test_any_two_wrappers_over_any_cell(name, outer, inner):
    check_engines(WRAPPERS[outer](WRAPPERS[inner](TEN[name])))


@pytest.mark.parametrize("outer", WRAPPERS)
def test_steps_and_pieces_with_the_noise_of_the_whole(outer):
    """One step after another, and a sequence cut in two, are the whole sequence."""
    layers = wrap.Zoneout(rnnjax.LSTM(H), 0.3), wrap.Dropout(rnnjax.GRU(H), 0.3)
    cell = WRAPPERS[outer](rnnjax.Stack(layers, dropout=0.4, skip="input"))
    if outer in ("drop_connect", "weight_norm"):
        cell = WRAPPERS[outer](wrap.Zoneout(rnnjax.LSTM(H), 0.3))
    params, xs = given(cell)
    noise = rnnjax.draw_noise(cell, KEY, params, T, (B,), D)
    carry, ys = rnnjax.unroll(cell, params, xs, key=KEY)
    assert_identical(rnnjax.unroll(cell, params, xs, noise=noise), (carry, ys))

    def at(noise, part):
        return noise._replace(steps=jax.tree.map(lambda leaf: leaf[part], noise.steps))

    state, first = rnnjax.unroll(cell, params, xs[:2], noise=at(noise, slice(0, 2)))
    state, second = rnnjax.unroll(cell, params, xs[2:], carry=state, noise=at(noise, slice(2, T)))
    assert_close((state, jnp.concatenate([first, second])), (carry, ys))
    state = None
    for t in range(T):
        state, y = rnnjax.step(cell, params, state, xs[t], noise=at(noise, t))
        assert_close(y, ys[t])


@pytest.mark.parametrize(
    "cell",
    [
        rnnjax.Stack((wrap.Dropout(rnnjax.LSTM(H), 0.5), wrap.Zoneout(rnnjax.GRU(H), 0.5)), 0.4, "residual"),
        rnnjax.Bidirectional(
            wrap.Zoneout(rnnjax.GRU(H), 0.5),
            rnnjax.Stack((rnnjax.LSTM(H), wrap.Dropout(rnnjax.GRU(H), 0.5)), 0.4),
            merge="mean",
        ),
        rnnjax.Readout(wrap.DropConnect(wrap.Zoneout(rnnjax.LSTM(H), 0.5), 0.5), 2),
    ],
    ids=["stack", "bidirectional", "readout"],
)
def test_composites_pass_noise_on(cell):
    check_engines(cell)
    params, xs = given(cell)
    _, evaluated = rnnjax.unroll(cell, params, xs)
    _, trained = rnnjax.unroll(cell, params, xs, key=KEY)
    assert bool((trained != evaluated).any())


def mean_over_keys(quantity, count=4000):
    """The mean over keys, and its standard error."""
    values = jax.jit(jax.vmap(quantity))(jax.random.split(jax.random.key(7), count))
    return values.mean(0), values.std(0) / count**0.5


def within_five_errors(found, expected):
    mean, error = found
    assert bool((jnp.abs(mean - expected) <= 5 * error + 1e-12).all()), (mean, expected, error)
    assert bool((error > 0).any())


def one_step(cell, params, carry, x, key):
    noise = rnnjax.draw_noise(cell, key, params, 1, (), D)
    return rnnjax.step(cell, params, carry, x, noise=noise._replace(steps=jax.tree.map(lambda n: n[0], noise.steps)))


def test_zoneout_is_its_expectation_on_average():
    """Of every new state of an LSTM, with a rate for each."""
    cell = wrap.Zoneout(rnnjax.LSTM(H), rates=(0.2, 0.7))
    params, xs = given(cell)
    carry = normal(cell.initial_carry(params), "carry")
    expected, y = rnnjax.step(cell, params, carry, xs[0, 0])
    assert y is not None
    for index in range(2):
        found = mean_over_keys(lambda key, i=index: one_step(cell, params, carry, xs[0, 0], key)[0][i])
        within_five_errors(found, expected[index])


@pytest.mark.parametrize("where", ["input", "state", "output"])
@pytest.mark.parametrize("tied", [False, True])
def test_dropout_keeps_what_it_multiplies_on_average(where, tied):
    """A linear network, whose output is linear in input and state."""
    cell = wrap.Dropout(rnnjax.Elman(H, "linear"), 0.3, where, tied)
    params, xs = given(cell)
    carry = normal(cell.initial_carry(params), "carry")
    _, expected = rnnjax.step(cell, params, carry, xs[0, 0])
    within_five_errors(mean_over_keys(lambda key: one_step(cell, params, carry, xs[0, 0], key)[1]), expected)


def test_drop_connect_keeps_the_pre_activation_on_average():
    cell = wrap.DropConnect(rnnjax.Elman(H, "linear"), 0.3)
    params, xs = given(cell)
    carry = normal(cell.initial_carry(params), "carry")
    _, expected = rnnjax.step(cell, params, carry, xs[0, 0])
    within_five_errors(mean_over_keys(lambda key: one_step(cell, params, carry, xs[0, 0], key)[1]), expected)


def test_special_cases_to_the_bit():
    lstm = rnnjax.LSTM(H)
    params, xs = given(lstm)
    carry = normal(lstm.initial_carry(params, (B,)), "carry")
    whole = rnnjax.unroll(lstm, params, xs, carry=carry)
    for nothing in (wrap.Dropout(lstm, 0.0), wrap.Zoneout(lstm, 0.0), wrap.DropConnect(lstm, 0.0)):
        assert_identical(rnnjax.unroll(nothing, params, xs, carry=carry, key=KEY), whole)
        assert_identical(rnnjax.unroll(nothing, params, xs, carry=carry), whole)
    held, ys = rnnjax.unroll(wrap.Zoneout(lstm, 1.0), params, xs, carry=carry, key=KEY)
    assert_identical(held, carry)
    assert_identical(ys, jnp.broadcast_to(carry.h, ys.shape))


def test_a_tied_mask_is_the_same_at_all_steps():
    gru = rnnjax.GRU(H)
    params, _ = given(gru)
    tied = rnnjax.draw_noise(wrap.Dropout(gru, 0.5, tied=True), KEY, params, T, (B,), D).steps[0]
    free = rnnjax.draw_noise(wrap.Dropout(gru, 0.5), KEY, params, T, (B,), D).steps[0]
    assert bool((tied == tied[:1]).all()) and not bool((free == free[:1]).all())


def test_weight_norm_starts_as_the_cell_and_is_a_direction():
    cell = wrap.WeightNorm(rnnjax.LSTM(H))
    params = cell.init(jax.random.key(0), D)
    assert_close(cell.inner(params), rnnjax.LSTM(H).init(jax.random.key(0), D))
    scaled = params._replace(cell=params.cell._replace(w_h=3 * params.cell.w_h))
    assert_close(cell.inner(scaled), cell.inner(params))


def test_precision_keeps_the_carry_and_computes_low():
    cell = wrap.Precision(rnnjax.LSTM(H), "bfloat16")
    params = cell.init(jax.random.key(0), D, "float32")
    xs = jnp.ones((T, B, D), "float32")
    carry, ys = rnnjax.unroll(cell, params, xs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, carry, ys))} == {"float32"}
    _, exact = rnnjax.unroll(cell.cell, params, xs)
    assert 1e-5 < float(jnp.abs(ys - exact).max()) < 1e-1


def test_dales_law_and_a_mask_hold_whatever_the_parameters():
    cell = wrap.Constrained(cells.RateNetwork(10), (("w_h", wrap.Dale(0.8)), ("w_h", wrap.Sparse(0.4))))
    params, _ = given(cell)
    w = np.asarray(cell.inner(params).w_h)
    assert (w[:8] >= 0).all() and (w[8:] <= 0).all() and 0.2 < (w != 0).mean() < 0.6
    gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, jnp.ones((5, D)))[1].sum())(params)
    np.testing.assert_array_equal(np.asarray(gradient.w_h != 0), w != 0)


def test_errors():
    lstm = rnnjax.LSTM(H)
    params, xs = given(lstm)
    with pytest.raises(TypeError, match="has no single step; wrap its parts"):
        wrap.Zoneout(rnnjax.Bidirectional(lstm, lstm), 0.1)
    for wrong in (
        lambda: wrap.Dropout(lstm, 1.0),
        lambda: wrap.Zoneout(lstm, 1.5),
        lambda: wrap.DropConnect(lstm, -0.1),
    ):
        with pytest.raises(ValueError, match="rate is"):
            wrong()
    with pytest.raises(ValueError, match="where is 'before'; choose"):
        wrap.Dropout(lstm, 0.1, "before")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rates is \(0.1,\), but the carry .* has 2 states"):
        rnnjax.unroll(wrap.Zoneout(lstm, rates=(0.1,)), params, xs)
    with pytest.raises(ValueError, match="a residual connection needs equal widths"):
        rnnjax.unroll(wrap.Residual(lstm), params, xs)
    with pytest.raises(
        ValueError, match="needs the parameter `w_2`, but the parameters are LSTMParams with w_x, w_h, b"
    ):
        rnnjax.unroll(wrap.DropConnect(lstm, 0.1, ("w_2",)), params, xs, key=KEY)
    noise = rnnjax.draw_noise(wrap.Dropout(lstm, 0.5), KEY, params, T, (B,), D)
    with pytest.raises(ValueError, match=r"noise.steps\[0\]` is \[6, 3, 2\], but `xs` has the leading axes \[5, 3\]"):
        rnnjax.unroll(wrap.Dropout(lstm, 0.5), params, xs[:5], noise=noise)
    with pytest.raises(ValueError, match="both `key` and `noise`"):
        rnnjax.unroll(wrap.Dropout(lstm, 0.5), params, xs, noise=noise, key=KEY)
    with pytest.raises(TypeError, match=r"pass what `rnnjax\.draw_noise` returns"):
        rnnjax.unroll(wrap.Dropout(lstm, 0.5), params, xs, noise=xs)


def test_precision_of_a_step_that_takes_tokens():
    """Outputs have the dtype of the carry; that of the input would round them to whole numbers."""

    def step(params, carry, x):
        carry = jnp.tanh(params[x[..., 0]] + carry)
        return carry, carry

    cell = wrap.Precision(rnnjax.StepCell(step, lambda params, batch: jnp.zeros((*batch, 1))), "float32")
    got, ys = cell.step(jnp.array([[0.3], [0.7]]), jnp.zeros(1), jnp.array([1]))
    assert ys.dtype == got.dtype == jnp.float64
    np.testing.assert_allclose(ys, np.tanh(0.7), rtol=1e-6)
