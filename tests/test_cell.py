"""The cell protocol (`cell.py`), `StepCell`, and the dtype of parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import Cell, StepCell
from rnnjax._unroll import Composite
from rnnjax.cell import check_size, float_dtype
from tests.registry import CELLS, COMPOSITES, PLAIN, assert_identical, sample


@pytest.mark.parametrize("name", PLAIN)
def test_single_cells_are_cells(name):
    assert isinstance(CELLS[name], Cell) and not isinstance(CELLS[name], Composite)


@pytest.mark.parametrize("name", COMPOSITES)
def test_cells_put_together_are_composites(name):
    """Composites run part by part; all but `Bidirectional` have a step and can be used as cells."""
    assert isinstance(CELLS[name], Composite)
    assert isinstance(CELLS[name], Cell) == (name != "bidirectional")


def test_step_cell_is_its_step():
    """And its other two functions."""
    cell, (params, carry, xs) = CELLS["step_cell"], sample("step_cell")
    assert_identical(cell.step(params, carry, xs[0]), cell.step_function(params, carry, xs[0]))
    assert_identical(cell.initial_carry(params, (2,)), cell.initial_carry_function(params, (2,)))
    key = jax.random.key(0)
    assert_identical(cell.init(key, 2), cell.init_function(key, 2, None))


def test_step_cell_of_a_built_in_step_is_that_cell():
    """A `StepCell` of `lstm_step` gives the same results on every engine, and the same explanation."""
    bare, of = StepCell(rnnjax.lstm_step, rnnjax.lstm_initial_carry), sample("lstm")._asdict()
    for engine in ("loop", "hoisted"):
        one, other = (
            rnnjax.unroll(cell, **of, lengths=np.array([5, 3, 0]), engine=engine) for cell in (bare, CELLS["lstm"])
        )
        assert_identical(one, other)
    one, other = (rnnjax.explain(cell, **of) for cell in (bare, CELLS["lstm"]))
    assert dataclasses.replace(one.layers[0], cell="") == dataclasses.replace(other.layers[0], cell="")


def test_parameters_of_ones_own_need_no_init():
    """A cell may have no parameters."""
    running_sum = StepCell(lambda _, h, x: (h + x, h + x), lambda _, batch_shape: jnp.zeros((*batch_shape, 2)))
    xs = sample("gru").xs
    _, ys = rnnjax.unroll(running_sum, None, xs, engine="scan")
    np.testing.assert_allclose(ys, np.cumsum(xs, axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_float_dtype_keeps_what_is_asked_for(dtype):
    assert float_dtype(dtype) == jnp.dtype(dtype)


def test_float_dtype_defaults_to_jax_s():
    """float64 in x64, float32 otherwise; without x64, JAX decides what float64 means."""
    assert float_dtype(None) == jnp.float64
    with jax.enable_x64(False):
        assert float_dtype(None) == jnp.float32
        assert float_dtype("float64") == jnp.float32


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex128"])
def test_float_dtype_refuses_the_rest(dtype):
    with pytest.raises(TypeError, match=f"dtype is {dtype}; parameters must be floating point"):
        float_dtype(dtype)


@pytest.mark.parametrize("size", [1, 2, 10**6])
def test_check_size_takes_positive_integers(size):
    check_size("hidden_size", size)


@pytest.mark.parametrize("size", [0, -3, 1.0, True, "3"])
def test_check_size_refuses_the_rest(size):
    with pytest.raises(ValueError, match=r"hidden_size is .*; it must be a positive integer"):
        check_size("hidden_size", size)
