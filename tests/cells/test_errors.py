"""Error messages of cells with invalid hyperparameters, and for inputs that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LSTM, Elman, StepCell
from tests.registry import CELLS, PLAIN, WITH_FUNCTIONS, sample

KEY = jax.random.key(0)
BUILT_IN = [name for name in PLAIN if isinstance(CELLS[name], WITH_FUNCTIONS)]


def says(error, parts, function):
    with pytest.raises(error) as raised:
        function()
    for part in parts:
        assert part in str(raised.value), f"{part!r} is missing in: {raised.value}"


@pytest.mark.parametrize("make", [Elman, LSTM, GRU])
@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
def test_hidden_size(make, size):
    says(ValueError, ["hidden_size", repr(size), "positive integer"], lambda: make(size))


@pytest.mark.parametrize("make", [Elman, LSTM, GRU])
@pytest.mark.parametrize("size", [0, 1.5, False])
def test_input_size(make, size):
    says(ValueError, ["input_size", repr(size), "positive integer"], lambda: make(3).init(KEY, size))


@pytest.mark.parametrize("activation", ["swish", "Tanh", "", None])
def test_activation(activation):
    parts = ["activation", repr(activation), "tanh, relu, linear"]
    says(ValueError, parts, lambda: Elman(3, activation))


@pytest.mark.parametrize("forget_bias", [np.inf, -np.inf, np.nan])
def test_forget_bias(forget_bias):
    says(ValueError, ["forget_bias", str(forget_bias), "finite"], lambda: LSTM(3, forget_bias))


@pytest.mark.parametrize("make", [Elman, LSTM, GRU])
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_dtype(make, dtype):
    says(TypeError, ["dtype", dtype, "floating point", "float32"], lambda: make(3).init(KEY, 2, dtype))


def step_of(name, x):
    """One step of a registry cell on an input that does not fit."""
    params, carry, _ = sample(name)
    return CELLS[name].step(params, carry, x)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_step_refuses_another_width(name, width):
    """Raises for a width of 1, which could broadcast, and for a width of one per hidden unit."""
    parts = [f"`x` is [3, {width}]", "2 features", "last axis", "init(key, input_size=...)"]
    says(ValueError, parts, lambda: step_of(name, jnp.zeros((3, width))))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_step_refuses_what_is_not_floating_or_of_another_dtype(name):
    for x in (jnp.zeros((3, 2), int), jnp.zeros((3, 2), bool), jnp.zeros((3, 2), complex)):
        parts = ["`x` is", x.dtype.name, "floating-point", "astype('float64')", "one_hot"]
        says(TypeError, parts, lambda x=x: step_of(name, x))
    parts = ["`x` is float16", "parameters are float64", "same dtype", "astype('float64')", "dtype='float16'"]
    says(TypeError, parts, lambda: step_of(name, jnp.zeros((3, 2), "float16")))


def test_a_step_refuses_a_scalar():
    says(ValueError, ["`x` is []", "2 features"], lambda: step_of("gru", jnp.zeros(())))


DRAWN = {"Elman": Elman(4), "wide Elman": Elman(16), "GRU": GRU(4), "LSTM": LSTM(4), "one": LSTM(1), "tiny": Elman(1)}


@pytest.mark.parametrize("other", DRAWN)
@pytest.mark.parametrize("name", DRAWN)
def test_parameters_of_another_cell_or_size(name, other):
    """Raises in one step and over time, where broadcasting could accept some of them."""
    cell, params = DRAWN[name], jax.eval_shape(lambda: DRAWN[other].init(KEY, 2))
    own = jax.eval_shape(lambda: cell.init(KEY, 2))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (3,)), own)
    xs = jax.ShapeDtypeStruct((5, 3, 2), "float64")

    def step():
        return jax.eval_shape(cell.step, params, carry, jax.ShapeDtypeStruct((3, 2), "float64"))

    def over_time():
        return jax.eval_shape(lambda p, xs: rnnjax.unroll(cell, p, xs), params, xs)

    if name == other:
        step()
        over_time()
        return
    kind, given = type(cell).__name__, type(DRAWN[other]).__name__
    for function in (step, over_time):
        parts = ["`params.w_", f"{given}Params is [", f"{kind}(hidden_size={cell.hidden_size})", "expects", "init("]
        says(ValueError, parts, function)


@pytest.mark.parametrize("make", [Elman, LSTM, GRU])
@pytest.mark.parametrize("params", [None, {"w_x": np.zeros((2, 3))}, ()])
def test_parameters_that_are_none(make, params):
    parts = [f"`params` are {type(params).__name__} without `w_", f"{make.__name__}(hidden_size=3)", "init("]
    says(TypeError, parts, lambda: make(3).step(params, None, jnp.zeros((3, 2))))


@pytest.mark.parametrize(("activation", "made"), [(jnp.sum, "float64 []"), (lambda z: z > 0, "bool [2, 3]")])
def test_an_activation_that_changes_shape_or_dtype(activation, made):
    cell, params = Elman(3, activation), Elman(3).init(KEY, 2)
    parts = ["`activation`", made, "float64 [2, 3]", "elementwise", "jnp.sin"]
    says(ValueError, parts, lambda: cell.step(params, jnp.zeros((2, 3)), jnp.zeros((2, 2))))


def test_a_step_cell_without_init_function_says_so():
    cell = StepCell(lambda p, h, x: (h, x), lambda p, batch_shape: jnp.zeros(batch_shape))
    says(TypeError, ["init_function", "StepCell", "parameters yourself"], lambda: cell.init(KEY, 2))


@pytest.mark.parametrize("cells", [(), [LSTM(3)], LSTM(3), None])
def test_stack_of_anything_but_a_tuple(cells):
    says(ValueError, ["cells is", "tuple of at least one cell", "Stack((LSTM("], lambda: rnnjax.Stack(cells))


def test_step_of_what_needs_the_whole_sequence():
    """A stack with a bidirectional layer has no single step; the error names `rnnjax.unroll`."""
    params, carry, xs = sample("stack_of_bidirectional")
    parts = ["Bidirectional", "whole sequence", "rnnjax.unroll"]
    says(TypeError, parts, lambda: CELLS["stack_of_bidirectional"].step(params, carry, xs[0]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_carry_for_other_rows(name):
    """A carry with one row, or without a batch axis, would broadcast."""
    params, carry, xs = sample(name)
    for other in (jax.tree.map(lambda leaf: leaf[:1], carry), jax.tree.map(lambda leaf: leaf[0], carry)):
        says(
            ValueError,
            ["is [", "`x` is [3, 2]", "initial_carry"],
            lambda other=other: CELLS[name].step(params, other, xs[0]),
        )
