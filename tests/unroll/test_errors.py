"""Error messages name the argument, what was given, what was expected, and the fix, before anything is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import CELLS, ENGINES, B, sample

LSTM = CELLS["lstm"]
PARAMS, CARRY, XS = sample("lstm")  # XS [5, 3, 2]
NARROW, UNBATCHED = sample("lstm", "float32").carry, sample("lstm", batch_shape=()).carry
STACK, STACK_PARAMS = CELLS["stack"], sample("stack").params


def wrong(error, message: list[str], cell=LSTM, params=PARAMS, carry=None, xs: Any = XS, **options):
    return pytest.param(
        error, message, (cell, params, xs), {"carry": carry} | options, id=message[0] + " " + message[-1]
    )


CASES = [
    # xs
    wrong(ValueError, ["`xs` is [5]", "[T, *batch, D]", "`xs[..., None]`"], xs=XS[:, 0, 0]),
    wrong(ValueError, ["`xs` is []", "[T, *batch, D]", "time first"], xs=XS[0, 0, 0]),
    wrong(ValueError, ["`xs` is [0, 3, 2]", "no time steps", "at least 1"], xs=XS[:0]),
    wrong(TypeError, ["`xs` is a list", "unequal length", "`lengths`"], xs=[np.ones((3, 2)), np.ones((5, 2))]),
    wrong(ValueError, ["is [5, 3, 4]", "2 features", "input_size"], xs=jnp.zeros((5, 3, 4))),
    wrong(ValueError, ["is [5, 3, 1]", "2 features", "last axis"], xs=XS[..., :1]),
    wrong(TypeError, ["int32", "floating-point", "astype('float64')", "one_hot"], xs=XS.astype("int32")),
    wrong(TypeError, ["bool", "floating-point", "astype"], xs=XS > 0),
    wrong(TypeError, ["complex128", "floating-point", "cast"], xs=XS.astype("complex128")),
    wrong(TypeError, ["float16", "float64", "astype('float64')", "dtype='float16'"], xs=XS.astype("float16")),
    # lengths
    wrong(ValueError, ["`lengths` is [5]", "`xs` is [5, 3, 2]", "move time first"], lengths=np.full(5, 3)),
    wrong(ValueError, ["`lengths` is [4]", "one length per row, [3]", "time-major"], lengths=np.full(4, 3)),
    wrong(ValueError, ["`lengths` is []", "`xs` is [5, 3, 2]", "one length per row"], lengths=3),
    wrong(ValueError, ["`lengths` runs from 2 to 6", "5 steps", "0..5"], lengths=np.array([6, 2, 3])),
    wrong(ValueError, ["`lengths` runs from -1 to 5", "5 steps", "in 0..5"], lengths=np.array([-1, 5, 3])),
    wrong(TypeError, ["`lengths` is float64", "integers", "`lengths.astype('int32')`"], lengths=np.full(B, 3.0)),
    wrong(TypeError, ["`lengths` is bool", "must hold", "integers"], lengths=np.ones(B, bool)),
    # mask and resets
    wrong(ValueError, ["`mask` is [3, 5]", "`xs` is [5, 3, 2]", "`mask.T`"], mask=np.ones((3, 5), bool)),
    wrong(ValueError, ["`mask` is [5]", "[T, *batch] = [5, 3]", "time-major"], mask=np.ones(5, bool)),
    wrong(ValueError, ["`mask` is [5, 3, 2]", "pass [T, *batch] = [5, 3]"], mask=np.ones((5, 3, 2), bool)),
    wrong(TypeError, ["`mask` is float64", "boolean", "`mask.astype(bool)`"], mask=np.ones((5, 3))),
    wrong(TypeError, ["`mask` is int64", "boolean", "mask.astype"], mask=np.ones((5, 3), int)),
    wrong(ValueError, ["`resets` is [3, 5]", "`xs` is [5, 3, 2]", "`resets.T`"], resets=np.ones((3, 5), bool)),
    wrong(TypeError, ["`resets` is int64", "boolean", "`resets.astype(bool)`"], resets=np.ones((5, 3), int)),
    # carry
    wrong(ValueError, ["`carry`.h is [3]", "[3, 3]", "cell.initial_carry(params, (3,))"], carry=UNBATCHED),
    wrong(ValueError, ["`carry` is", "LSTMCarry", "initial_carry"], carry=CARRY.h),
    wrong(TypeError, ["`carry`.h is float32", "expected float64", "initial_carry"], carry=NARROW),
    # options
    wrong(ValueError, ["engine is 'fast'", "'auto'", "'scan'"], engine="fast"),
    wrong(ValueError, ["engine is 'Scan'", "choose one of"], engine="Scan"),
    wrong(ValueError, ["unroll is 0", "positive integer"], unroll=0),
    wrong(ValueError, ["unroll is True", "positive integer"], unroll=True),
    wrong(ValueError, ["unroll is 2", "no scan body", 'engine="scan"'], unroll=2, engine="loop"),
    # cell
    wrong((TypeError, ValueError), ["`cell` is", "LSTM", "LSTM(hidden_size="], cell="LSTM"),
    wrong((TypeError, ValueError), ["`cell` is", "class", "LSTM(hidden_size="], cell=rnnjax.LSTM),
    # parts
    wrong(ValueError, ["`params` is a tuple of 1", "expected a tuple of 2"], cell=STACK, params=(PARAMS,)),
    wrong(ValueError, ["`params` is a list", "a tuple of 2"], cell=STACK, params=list(STACK_PARAMS)),
    wrong(ValueError, ["`carry` is a tuple of 1", "tuple of 2"], cell=STACK, params=STACK_PARAMS, carry=(CARRY,)),
]


@pytest.mark.parametrize(("error", "message", "arguments", "options"), CASES)
def test_message_names_what_came_what_was_expected_and_the_fix(error, message, arguments, options):
    with pytest.raises(error) as raised:
        rnnjax.unroll(*arguments, **options)
    for part in message:
        assert part in str(raised.value), f"{part!r} is missing in: {raised.value}"


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_are_checked_under_jit_as_well(engine):
    """Raises at trace time from shapes and dtypes, on every engine, without silent broadcasting."""
    jitted = jax.jit(lambda xs, mask: rnnjax.unroll(LSTM, PARAMS, xs, mask=mask, **ENGINES[engine]))
    with pytest.raises(ValueError, match=r"pass `mask\.T`"):
        jitted(XS, np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="2 features"):
        jitted(XS[..., :1], np.ones((5, 3), bool))


def test_a_width_of_one_does_not_broadcast():
    """A width of 1 raises, but is valid for parameters with a single feature."""
    params = PARAMS._replace(w_x=PARAMS.w_x[:1])
    _, ys = rnnjax.unroll(LSTM, params, XS[..., :1], engine="loop")
    assert ys.shape == (5, 3, 3)
    with pytest.raises(ValueError, match="1 features"):
        rnnjax.unroll(LSTM, params, XS, engine="loop")


def test_a_step_that_does_not_give_its_carry_back():
    """A bug in a custom cell raises an error that names it, before `lax.scan` would raise."""

    def step(params, h, x):
        return h[..., :1], x

    cell = rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, 2)))
    with pytest.raises(
        ValueError, match=r"the carry that StepCell.step returns is \[3, 1\], expected \[3, 2\]; a step"
    ):
        rnnjax.unroll(cell, None, XS)


def test_nothing_is_run_before_the_checks():
    """A wrong mask is found before the first step of a cell."""

    def step(params, h, x):
        raise AssertionError("the step was run")

    cell = rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, 2)))
    with pytest.raises(TypeError, match="`mask` is int64"):
        rnnjax.unroll(cell, None, XS, mask=np.ones((5, 3), int))


def test_lengths_that_are_known_are_checked_under_jit():
    """Under `jit`, a constant has a value; an argument does not."""
    with pytest.raises(ValueError, match=r"every length must be in 0\.\.5"):
        jax.jit(lambda xs: rnnjax.unroll(LSTM, PARAMS, xs, lengths=np.array([5, 6, 0])))(XS)
