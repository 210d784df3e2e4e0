"""What a cell is (`cell.py`): the protocol, a cell made of a bare step, and the dtype of parameters."""

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
    """They are run part by part, so they have no project, mix or gate of their own."""
    assert isinstance(CELLS[name], Composite) and not isinstance(CELLS[name], Cell)


def test_step_cell_is_its_step():
    """project hands the input on, mix gives nothing, and gate and step are both the function given."""
    cell, (params, carry, xs) = CELLS["step_cell"], sample("step_cell")
    assert cell.project(params, xs) is xs
    assert cell.mix(params, carry) is None
    expected = cell.step_function(params, carry, xs[0])
    assert_identical(cell.step(params, carry, xs[0]), expected)
    assert_identical(cell.gate(params, carry, xs[0], None), expected)


def test_step_cell_of_a_built_in_step_is_that_cell():
    """The constructor for a bare step, fed with `lstm_step`: the same numbers, if not the same speed."""
    bare = StepCell(rnnjax.lstm_step, rnnjax.lstm_initial_carry)
    got = rnnjax.unroll(bare, **sample("lstm")._asdict(), lengths=np.array([5, 3, 0]), engine="loop")
    assert_identical(
        got, rnnjax.unroll(CELLS["lstm"], **sample("lstm")._asdict(), lengths=np.array([5, 3, 0]), engine="loop")
    )


def test_parameters_of_ones_own_need_no_init():
    """A cell may be without parameters altogether."""
    running_sum = StepCell(lambda _, h, x: (h + x, h + x), lambda _, batch_shape: jnp.zeros((*batch_shape, 2)))
    xs = sample("gru").xs
    _, ys = rnnjax.unroll(running_sum, None, xs, engine="scan")
    np.testing.assert_allclose(ys, np.cumsum(xs, axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_float_dtype_keeps_what_is_asked_for(dtype):
    assert float_dtype(dtype) == jnp.dtype(dtype)


def test_float_dtype_defaults_to_jax_s():
    """float64 in x64, float32 otherwise; a float64 asked for without x64 is what JAX makes of it."""
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
