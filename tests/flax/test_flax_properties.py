"""The properties that Flax tests of its own recurrent modules, tested on ours.

`PROPERTIES` has one entry for each test of Flax 0.12, 21 of linen (`linen_recurrent_test.py`) and 20 of nnx
(`recurrent_test.py`), with the corresponding test of this folder. `DIFFERENCES` hold except as documented in
`rnnjax.flax.linen` and `rnnjax.flax.nnx`.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.flax import from_linen, to_nnx
from rnnjax.flax.conventions import in_scan_order
from tests.flax.cells import (
    KEY,
    LENGTHS,
    NAMES,
    QUICK,
    B,
    D,
    H,
    T,
    carry_of,
    compiled,
    inputs,
    linen,
    linen_cell,
    nnx,
    nnx_cell,
    our_linen,
    our_nnx,
    valid,
)
from tests.flax.linen_models import variables_of
from tests.registry import assert_close, normal

PROPERTIES = {
    "linen: outputs and parameters have their shapes": "test_linen.test_init_gives_the_same_tree_and_numbers",
    "linen: more than one batch axis": "test_linen_beyond.test_any_number_of_batch_axes",
    "linen: steps unrolled in one body": "test_linen_beyond.test_options_of_unroll",
    "linen: time first": "test_linen.test_call_conventions",
    "linen: a ConvLSTM over images": "test_any_cell.test_linen_values_and_gradients",
    "linen: the cell, step by step": "test_flax_properties.test_the_cell_step_by_step",
    "linen: the cell, step by step, with lengths": "test_flax_properties.test_the_cell_step_by_step",
    "linen: the cell, step by step, row by row": "test_linen_beyond.test_any_number_of_batch_axes",
    "linen: the cell under nn.scan": "test_any_cell.test_a_scanned_rnn_swapped_in_one_line",
    "linen: the cell under jax.lax.scan": "test_flax_properties.test_the_cell_step_by_step",
    "linen: reverse": "test_linen.test_call_conventions",
    "linen: reverse, in the order of the input": "test_linen.test_call_conventions",
    "linen: rows are turned within their lengths": "test_flax_properties.test_rows_turned_within_their_lengths",
    "linen: rows are turned, with features": "test_flax_properties.test_rows_turned_within_their_lengths",
    "linen: rows are turned, time first": "test_flax_properties.test_rows_turned_within_their_lengths",
    "linen: rows are turned, time first, with features": "test_flax_properties.test_rows_turned_within_their_lengths",
    "linen: both ways": "test_linen.test_bidirectional",
    "linen: both ways by one cell": "test_flax_properties.test_both_ways_by_one_cell",
    "linen: both ways, merged by a function": "test_linen.test_bidirectional",
    "linen: both ways, with both carries": "test_linen.test_bidirectional",
    "linen: lengths in an eager call": "test_flax_properties.test_the_cell_step_by_step",
    "nnx: a step": "test_flax_properties.test_the_cells_are_flax_s",
    "nnx: steps one after the other": "test_flax_properties.test_the_cell_step_by_step",
    "nnx: a step in half precision": "test_flax_properties.test_half_precision",
    "nnx: a step with other functions": "test_nnx.test_functions_of_a_cell",
    "nnx: a carry of ones": "test_flax_properties.test_a_carry_of_ones",
    "nnx: steps of rows of different length": "test_flax_properties.test_the_cell_step_by_step",
    "nnx: a step from the carry of another": "test_flax_properties.test_the_cell_step_by_step",
    "nnx: a step as in linen": "test_flax_properties.test_nnx_is_linen",
    "nnx: an LSTM over time": "test_nnx.test_values_and_gradients",
    "nnx: a GRU over time": "test_nnx.test_values_and_gradients",
    "nnx: time first": "test_nnx.test_call_conventions",
    "nnx: reverse": "test_nnx.test_call_conventions",
    "nnx: lengths, and the carry after each": "test_nnx.test_values_and_gradients",
    "nnx: reverse, in the order of the input": "test_nnx.test_call_conventions",
    "nnx: as in linen over time": "test_flax_properties.test_nnx_is_linen",
    "nnx: steps unrolled in one body": "test_flax_properties.test_any_number_of_rows",
    "nnx: a cell of one's own": "test_any_cell.test_nnx_values_and_gradients",
    "nnx: half precision over time": "test_flax_properties.test_half_precision",
    "nnx: any number of rows": "test_flax_properties.test_any_number_of_rows",
    "nnx: dropout in every step, its stream counted once": "test_any_cell.test_nnx_by_flax_s_own_loop",
}

DIFFERENCES = {
    "linen: the cell, step by step, with lengths": "outputs beyond a row's end are zero, as `rnnjax.unroll` has it"
}


def test_all_of_flax_s_properties_are_tested():
    """Of 41 properties, 40 hold as in Flax, and one except for padding."""
    assert (len(PROPERTIES), len(DIFFERENCES)) == (41, 1)
    assert set(DIFFERENCES) <= set(PROPERTIES)
    for place in PROPERTIES.values():
        file, test = place.split(".")
        assert callable(getattr(importlib.import_module(f"tests.flax.{file}"), test))


def test_the_cells_are_flax_s():
    """The modules re-export Flax's own cell classes."""
    for name in NAMES.values():
        assert getattr(our_linen, name) is getattr(linen, name) and getattr(our_nnx, name) is getattr(nnx, name)


def assert_is_by_hand(step, start, over_time):
    """A Python loop over each row, up to its length."""
    carry, outputs = over_time
    for row, length in enumerate(LENGTHS):
        state = jax.tree.map(lambda leaf, row=row: leaf[row], start)
        for t in range(length):
            state, y = step(state, inputs()[row, t])
            assert_close(outputs[row, t], y)
        assert_close(jax.tree.map(lambda leaf, row=row: leaf[row], carry), state)
    assert not (outputs - valid(outputs)).any()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_cell_step_by_step(name):
    """From a nonzero carry."""
    rnn, start = our_linen.RNN(linen_cell(name), return_carry=True), carry_of(name)
    variables = variables_of(rnn)
    step = jax.jit(lambda carry, x: linen_cell(name).apply({"params": variables["params"]["cell"]}, carry, x))
    assert_is_by_hand(step, start, rnn.apply(variables, inputs(), initial_carry=start, seq_lengths=LENGTHS))
    cell = nnx_cell(name)
    over_time = our_nnx.RNN(cell, return_carry=True)(inputs(), initial_carry=start, seq_lengths=LENGTHS)
    assert_is_by_hand(nnx.jit(lambda carry, x: cell(carry, x)), start, over_time)


@pytest.mark.parametrize("features", [(), (2,), (2, 3)], ids=str)
def test_rows_turned_within_their_lengths(features):
    """Padding stays in place; without lengths the whole row is reversed."""
    ys = np.asarray(normal(jnp.zeros((T, B, *features)), "turned"))
    turned = in_scan_order(jnp.asarray(ys), jnp.asarray(LENGTHS))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(turned[:length, row], ys[:length, row][::-1])
        np.testing.assert_array_equal(turned[length:, row], ys[length:, row])
    np.testing.assert_array_equal(in_scan_order(jnp.asarray(ys), None), ys[::-1])


def test_both_ways_by_one_cell():
    """One cell used in both directions has one set of parameters, as in Flax."""
    cell = linen_cell("gru")
    ours, theirs = (
        library.Bidirectional(library.RNN(cell), library.RNN(cell), return_carry=True) for library in (our_linen, linen)
    )
    shapes = [jax.eval_shape(layer.init, KEY, inputs()) for layer in (ours, theirs)]
    assert shapes[0] == shapes[1]
    variables = variables_of(theirs)
    assert_close(*compiled(lambda v, x: [layer.apply(v, x) for layer in (ours, theirs)])(variables, inputs()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    half = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    for name in ("lstm", "gru"):
        rnn = our_nnx.RNN(getattr(nnx, NAMES[name])(D, H, **half, **QUICK, rngs=nnx.Rngs(0)), return_carry=True)
        start = carry_of(name, dtype)
        results = jax.eval_shape(lambda x, rnn=rnn, start=start: rnn(x, initial_carry=start), inputs(dtype))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {dtype}


def test_a_carry_of_ones():
    with pytest.warns(UserWarning, match="carry_init"):
        cell = nnx_cell("lstm", carry_init=nnx.initializers.ones)
    rnn = our_nnx.RNN(cell)
    ones = jnp.ones((B, H))
    assert_close(rnn(inputs()), rnn(inputs(), initial_carry=(ones, ones)))


@pytest.mark.parametrize("name", ["optimized_lstm", "simple"])
def test_nnx_is_linen(name):
    """With the same parameters, for rows of different lengths."""
    rnn = our_linen.RNN(linen_cell(name), return_carry=True)
    variables = variables_of(rnn)
    cell = nnx_cell(name)
    nnx.update(cell, to_nnx(from_linen(variables)))
    got = our_nnx.RNN(cell, return_carry=True)(inputs(), seq_lengths=LENGTHS)
    assert_close(got, rnn.apply(variables, inputs(), seq_lengths=LENGTHS))


def test_any_number_of_rows():
    """A module can be reused with other inputs; `unroll` changes nothing."""
    plain, ours = (our_nnx.RNN(nnx_cell("gru"), **options) for options in ({}, {"unroll": 2}))
    whole = plain(inputs())
    for rows in (1, 2, B):
        assert_close(ours(inputs()[:rows]), whole[:rows])
