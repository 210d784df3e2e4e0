"""Remat: the same results with less memory, for every engine, policy and kind of masks.

Second derivatives through segments are in `test_engines`.
"""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import rnnjax
from rnnjax import MemoryBudget
from rnnjax._unroll.arguments import make_masks
from rnnjax._unroll.remat import Cut, Footprint, in_segments, least_needed, lengths_within, sqrt_length
from rnnjax._unroll.scan import unroll_loop, unroll_scan
from tests.registry import (
    ALL_COUNT,
    CELLS,
    COMBINED,
    Sample,
    T,
    Times,
    assert_close,
    cotangents,
    normal,
    sample,
)


def outputs(name, times, reverse=False, **options):
    def function(params, carry, xs):
        return rnnjax.unroll(CELLS[name], params, xs, carry=carry, **times._asdict(), reverse=reverse, **options)

    return function


def pulled(name, times, reverse=False, **options):
    """Outputs and gradients; what has a loop over segments is jitted, the reference runs step by step."""

    def function(sample, times, weights):
        results, pullback = jax.vjp(outputs(name, times, reverse, **options), *sample)
        return results, Sample(*pullback(weights))

    eager = options == {"engine": "loop"}
    return (function if eager else jax.jit(function))(sample(name), times, cotangents(name))


@functools.cache
def reference(name, reverse=False):
    return pulled(name, COMBINED, reverse, engine="loop")


@pytest.mark.parametrize("name", ["step_cell", "stack", "bidirectional"])
def test_checkpoints_change_no_number(name):
    """Values and gradients with lengths, gaps and resets; T = 5 has a remaining step. (Plain cells: `test_engines`.)"""
    assert_close(pulled(name, COMBINED, checkpoint=2), reference(name))


@pytest.mark.parametrize(
    ("options", "reverse"),
    [
        ({"engine": "loop", "checkpoint": 2}, True),
        ({"engine": "scan", "checkpoint": "sqrt", "chunk": 2}, False),
        ({"engine": "hoisted", "checkpoint": 3, "chunk": 2}, True),
        ({"engine": "hoisted", "chunk": 2}, True),
        ({"engine": "hoisted", "checkpoint": 1}, False),
    ],
    ids=str,
)
def test_no_combination_changes_a_number(options, reverse):
    assert_close(pulled("custom", COMBINED, reverse, **options), reference("custom", reverse))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_segments_within_segments(reverse):
    """17 steps in segments of 6, and these in segments of 2: only the outer level has remaining steps."""
    drawn = sample("custom", steps=17)
    masks = make_masks(drawn.xs, lengths=np.array([17, 7, 0]))
    masks = masks.opposite() if reverse else masks

    def pullback(run):
        results, pull = jax.vjp(lambda *of: run(CELLS["custom"], *of, masks), *drawn)
        return results, pull(normal(results, "weights"))

    nested = in_segments(unroll_scan, (Cut(6, recomputed=True), Cut(2, recomputed=True)))
    assert_close(jax.jit(lambda: pullback(nested))(), pullback(unroll_loop))


def test_a_small_budget_leads_to_segments_within_segments():
    """One level cannot meet the budget, two can; there are no more levels than needed."""
    cell = rnnjax.LSTM(16)
    params = jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((10_000, 2), "float64")
    (part,) = rnnjax.explain(cell, params, xs).parts
    footprint = Footprint(part.steps, part.carry_bytes, part.step_bytes, part.passing_bytes)
    budget = min(footprint.needed((length,)) for length in range(1, 10_001)) - 1
    (small,) = rnnjax.explain(cell, params, xs, checkpoint=MemoryBudget(budget)).parts
    assert len(small.cuts) == small.recomputed == 2
    assert small.backward_bytes <= budget < part.backward_bytes == part.uncut_bytes


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7])
def test_any_number_of_steps(steps):
    """Less than a segment, one, one and a part, and several; every step runs once."""
    params, carry, xs = sample("elman_tanh", steps=steps)
    got = rnnjax.unroll(CELLS["elman_tanh"], params, xs, carry=carry, engine="scan", checkpoint=3, chunk=2)
    assert_close(got, rnnjax.unroll(CELLS["elman_tanh"], params, xs, carry=carry, engine="loop"))


def test_padding_stays_inert():
    """NaN at masked steps changes no bit of values and gradients."""
    hidden = ~(COMBINED.mask & (np.arange(T)[:, None] < COMBINED.lengths))
    run = jax.jit(lambda drawn: jax.vjp(outputs("custom", COMBINED, checkpoint=2), *drawn)[1](cotangents("custom")))
    drawn = sample("custom")
    poisoned = drawn._replace(xs=jnp.where(hidden[..., None], jnp.nan, drawn.xs))
    for a, b in zip(jax.tree.leaves(run(drawn)), jax.tree.leaves(run(poisoned)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_vmap_over_rows_is_the_batch():
    drawn = sample("custom")

    def row(carry, xs):
        return outputs("custom", Times(), checkpoint=2)(drawn.params, carry, xs)

    rows = jax.jit(jax.vmap(row, in_axes=(0, 1), out_axes=(0, 1)))(drawn.carry, drawn.xs)
    assert_close(rows, outputs("custom", ALL_COUNT, engine="loop")(*drawn))


def temporary_bytes(cell, steps, **options):
    """XLA's memory for one gradient of a loss of the last carry; compiled, not run."""
    params = jax.eval_shape(lambda key: cell.init(key, 4, "float32"), jax.random.key(0))

    def loss(params, xs):
        carry, _ = rnnjax.unroll(cell, params, xs, **options)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(carry))

    xs = jax.ShapeDtypeStruct((steps, 2, 4), "float32")
    analysis = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, xs).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("engine", ["scan", "hoisted"])
def test_sqrt_needs_a_twentieth_of_the_memory(engine):
    """T = 10,000; compile time and memory do not depend on values, so nothing is run."""
    cell = rnnjax.LSTM(16)
    plain = temporary_bytes(cell, 10_000, engine=engine)
    assert plain >= 20 * temporary_bytes(cell, 10_000, engine=engine, checkpoint="sqrt")


def test_layers_of_a_stack_are_cut_as_one():
    """With separate segments for each layer, its outputs would be stored for all of time."""
    stack = rnnjax.Stack((rnnjax.Elman(16), rnnjax.Elman(16)))
    outputs_of_a_layer = 10_000 * 2 * 16 * 4
    assert temporary_bytes(stack, 10_000, engine="scan", checkpoint="sqrt") < outputs_of_a_layer / 2


@pytest.mark.parametrize(("engine", "budget"), [("scan", 200_000), ("hoisted", 100_000)])
def test_a_budget_is_kept(engine, budget):
    """By XLA's memory, without parameters and their gradients."""
    fixed = 20_000
    cut = temporary_bytes(rnnjax.LSTM(16), 4096, engine=engine, checkpoint=MemoryBudget(budget))
    assert cut <= 1.1 * budget + fixed


def test_a_budget_that_is_met_uncut_cuts_nothing():
    plan = rnnjax.explain(CELLS["lstm"], **sample("lstm")._asdict(), checkpoint=MemoryBudget(2**30))
    assert plan.parts[0].cuts == ()


def test_a_budget_that_cannot_be_met_names_the_least_that_can():
    with pytest.raises(ValueError, match=r"at least \d+ bytes .* split the batch") as refusal:
        rnnjax.unroll(CELLS["bidirectional"], **sample("bidirectional")._asdict(), checkpoint=MemoryBudget(10))
    least = int(str(refusal.value).split("at least ")[1].split()[0])
    plan = rnnjax.explain(CELLS["bidirectional"], **sample("bidirectional")._asdict(), checkpoint=MemoryBudget(least))
    assert plan.backward_bytes <= least
    with pytest.raises(ValueError, match="at least"):
        rnnjax.explain(CELLS["bidirectional"], **sample("bidirectional")._asdict(), checkpoint=MemoryBudget(least - 2))


footprints = st.builds(
    Footprint,
    steps=st.integers(1, 5000),
    carry=st.integers(0, 5000),
    step=st.integers(1, 50_000),
    passing=st.integers(0, 10_000),
)


@given(footprints, st.floats(0, 1))
def test_lengths_fit_their_budget(footprint, share):
    """Lengths are nested and decreasing, and a larger budget needs no more levels."""
    budget = share * footprint.needed()
    lengths = lengths_within(footprint, budget)
    if lengths is None:
        assert least_needed(footprint) > budget
        return
    assert footprint.needed(lengths) <= budget
    assert all(long % short == 0 for long, short in itertools.pairwise(lengths))
    assert len(lengths_within(footprint, 2 * budget) or ()) <= len(lengths)


@given(st.integers(1, 20_000))
def test_sqrt_is_about_the_square_root(steps):
    length = sqrt_length(steps)
    least = np.ceil(np.sqrt(steps))
    assert length == least or (least < length <= 2 * least and steps % length == 0 and steps % least)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"checkpoint": 0}, ValueError, "checkpoint is 0; segments have at least one step"),
        ({"checkpoint": -3}, ValueError, "checkpoint is -3"),
        ({"checkpoint": True}, TypeError, "checkpoint is True; choose a number of steps"),
        ({"checkpoint": 2.0}, TypeError, "checkpoint is 2.0"),
        ({"checkpoint": "log"}, ValueError, "checkpoint is 'log'; choose .*\"sqrt\""),
        ({"chunk": 0}, ValueError, "chunk is 0; it must be at least one step"),
        ({"chunk": False}, TypeError, "chunk is False"),
        ({"chunk": "sqrt"}, TypeError, "chunk is 'sqrt'"),
    ],
    ids=str,
)
def test_nonsense_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        rnnjax.unroll(CELLS["elman_tanh"], **sample("elman_tanh")._asdict(), **options)
    with pytest.raises(error, match=says):
        rnnjax.explain(CELLS["elman_tanh"], **sample("elman_tanh")._asdict(), **options)


@pytest.mark.parametrize("bytes", [0, -1, 1.5, True, "1 GB"])
def test_a_budget_is_a_positive_number_of_bytes(bytes):
    with pytest.raises(ValueError, match="positive integer"):
        MemoryBudget(bytes)
