"""Invalid inputs of `adjoint`, `adjoint_by_perturbation` and `attribution`, and their messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients

FUNCTIONS = [gradients.adjoint, gradients.adjoint_by_perturbation, gradients.attribution]
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)

GRU = rnnjax.GRU(3)
XS = jnp.ones((4, 2, 2))


def total(ys):
    return ys.sum()


def params_of(cell, dtype="float64"):
    """Zero parameters, since nothing here runs."""
    shapes = jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), shapes)


def says(error: BaseException, *words: str) -> None:
    message = str(error)
    assert all(word in message for word in words), message
    assert "\n" not in message


@every_function
def test_two_directions_have_no_single_carry(function):
    cell = rnnjax.Bidirectional(GRU, rnnjax.LSTM(2))
    with pytest.raises(TypeError) as caught:
        function(cell, params_of(cell), XS, total)
    says(caught.value, "Bidirectional", "no single step", "cells one by one")
    stack = rnnjax.Stack((cell, GRU))
    with pytest.raises(TypeError, match="no single step"):
        function(stack, params_of(stack), XS, total)


@every_function
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_has_no_log_norm(function, dtype):
    """A norm in float16 overflows at 65504; bfloat16 has two digits."""
    for cell, where in ((GRU, "`carry`"), (rnnjax.LSTM(3), "`carry`.h")):
        with pytest.raises(TypeError) as caught:
            function(cell, params_of(cell, dtype), XS.astype(dtype), total)
        says(caught.value, f"{where} is {dtype}", "float32 or float64", "dtype='float32'", "cast `xs`")


@every_function
def test_a_loss_is_one_real_number(function):
    params = params_of(GRU)
    for loss, shown in ((lambda ys: ys[-1], "float64 [2, 3]"), (lambda ys: (ys > 0).sum(), "int64 []")):
        with pytest.raises(ValueError) as caught:
            function(GRU, params, XS, loss)
        says(caught.value, "`loss(ys)`", shown, "one floating-point number", "sum or average")


@every_function
@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, ("`xs` is int64", "astype('float64')"), {"xs": np.ones((4, 2, 2), "int64")}),
        (TypeError, ("float16", "same dtype"), {"xs": XS.astype("float16")}),
        (ValueError, ("[4]", "time first"), {"xs": XS[:, 0, 0]}),
        (ValueError, ("no time steps",), {"xs": XS[:0]}),
        (ValueError, ("expect 2 features",), {"xs": XS[..., :1]}),
        (ValueError, ("5", "0..4"), {"lengths": np.array([4, 5])}),
        (ValueError, ("-1", "0..4"), {"lengths": np.array([-1, 2])}),
        (TypeError, ("`lengths` is float64", "integers"), {"lengths": np.array([4.0, 2.0])}),
        (ValueError, ("time-major", "time first"), {"lengths": np.array([2, 2, 2, 2])}),
        (ValueError, ("`mask` is [2, 4]", "`mask.T`"), {"mask": np.ones((2, 4), bool)}),
        (TypeError, ("`mask` is int64", "boolean"), {"mask": np.ones((4, 2), "int64")}),
        (ValueError, ("`resets` is [4, 2, 1]",), {"resets": np.ones((4, 2, 1), bool)}),
        (ValueError, ("`carry` is [3]", "[2, 3]", "initial_carry"), {"carry": np.zeros(3)}),
        (TypeError, ("`carry` is float32", "float64"), {"carry": np.zeros((2, 3), "float32")}),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_it_refuses_what_unroll_refuses(function, error, words, change):
    arguments = {"carry": None, "xs": XS} | change
    with pytest.raises(error) as caught:
        function(GRU, params_of(GRU), loss=total, **arguments)
    says(caught.value, *words)
