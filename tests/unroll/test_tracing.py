"""A cell is a value: an equal one compiles nothing again, and neither do new lengths, masks or resets."""

import copy
import functools

import chex
import jax
import numpy as np
import pytest

import rnnjax
from tests.registry import ALL_COUNT, CELLS, COMBINED, ENGINES, LENGTHS_ONLY, B, T, every_cell, sample


@every_cell
def test_one_trace_over_a_thousand_calls(name):
    """Each call brings a cell of its own as static argument: equal and of equal hash, but another object."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def unrolled(cell, params, xs):
        return rnnjax.unroll(cell, params, xs, engine="scan")

    params, _, xs = sample(name)
    for _ in range(1000):
        cell = copy.deepcopy(CELLS[name])
        assert cell is not CELLS[name]
        unrolled(cell, params, xs)
    assert unrolled._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "loop"])
@pytest.mark.parametrize("name", ["elman_tanh"])
def test_one_trace_of_a_training_step(name, engine):
    """1,000 gradients of a whole unroll, with cells, lengths, masks, resets, parameters and inputs new each time."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def gradient(cell, params, xs, times):
        def loss(params):
            _, ys = rnnjax.unroll(cell, params, xs, **times._asdict(), **ENGINES[engine])
            return ys.sum()

        return jax.grad(loss)(params)

    params, _, xs = sample(name)
    cases = [ALL_COUNT, LENGTHS_ONLY, COMBINED]
    for k in range(1000):
        gradients = gradient(copy.deepcopy(CELLS[name]), params, xs, cases[k % 3])
        params = gradients if k % 100 == 0 else params
    assert gradient._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_counter_counts():
    """The two tests above can fail: a cell that is another value is traced again, and the counter says so."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def initial_carry(cell, params):
        return cell.initial_carry(params, (B,))

    initial_carry(rnnjax.LSTM(3), sample("lstm").params)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        initial_carry(rnnjax.LSTM(3, forget_bias=2.0), sample("lstm").params)


@every_cell
def test_lengths_are_data_under_jit(name):
    """Traced lengths need no value: abstract evaluation knows shapes alone."""
    shapes = jax.eval_shape(
        lambda drawn, lengths: rnnjax.unroll(CELLS[name], **drawn._asdict(), lengths=lengths),
        sample(name),
        np.full(B, T),
    )
    assert shapes[1].shape[:2] == (T, B)
