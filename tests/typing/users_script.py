"""A user's script for the type checker, which is never run: a line with `# error: rule` must violate that rule.

All other lines must pass in pyright's strict mode.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from rnnjax import GRU, LSTM, Bidirectional, Cell, Elman, LSTMCarry, LSTMParams, Readout, Stack, unroll

KEY = jax.random.key(0)
XS = jax.random.normal(KEY, (5, 2, 3))


def any_cell(cell: Cell) -> Array:
    """`Cell` without brackets accepts any cell."""
    return unroll(cell, cell.init(KEY, 3), XS)[1]


def a_cell_of_this_carry(cell: Cell[LSTMParams, LSTMCarry]) -> Array:
    return unroll(cell, cell.init(KEY, 3), XS)[0].c


def script() -> None:
    key, xs = KEY, XS
    lengths = jax.random.randint(key, (2,), 0, 6)

    # Arguments and results of a cell.
    lstm = LSTM(hidden_size=4)
    params = lstm.init(key, input_size=3)
    assert_type(params, LSTMParams)
    carry, ys = unroll(lstm, params, xs, lengths=lengths)
    assert_type(carry, LSTMCarry)
    print(ys.shape)
    assert_type(unroll(GRU(4), GRU(4).init(key, 3), xs)[0], Array)
    assert_type(rnnjax.step(lstm, params, carry, xs[0])[0], LSTMCarry)

    # Composites, and cells that wrap a cell.
    stack = Stack((lstm, GRU(8)))
    unroll(stack, stack.init(key, 3), xs)
    model = Readout(lstm, output_size=2)
    assert_type(unroll(model, model.init(key, 3), xs)[0], LSTMCarry)
    assert_type(model.init(key, 3).rnn, LSTMParams)
    both = Bidirectional(GRU(4), stack)
    unroll(both, both.init(key, 3), xs)
    learned = rnnjax.LearnedCarry(lstm)
    assert_type(unroll(learned, learned.init(key, 3), xs)[0], LSTMCarry)
    Elman(4, activation=jnp.sin)

    for each in (lstm, GRU(4), Elman(4, "relu"), stack, model, learned):
        any_cell(each)
    a_cell_of_this_carry(lstm)

    # Submodules that load on first use.
    rnnjax.tasks.adding(key, 10, (2,))
    rnnjax.initializers.Orthogonal(0.9)

    # Errors.
    unroll(lstm, params, xs, lenghts=lengths)  # error: reportCallIssue
    unroll(lstm, params, xs, carry=jnp.ones((2, 4)))  # error: reportArgumentType
    unroll(lstm, GRU(4).init(key, 3), xs)  # error: reportArgumentType
    unroll(lstm, params, xs, engine="fast")  # error: reportArgumentType
    unroll(lstm, params, None, xs)  # error: reportCallIssue
    unroll(LSTM, params, xs)  # error: reportArgumentType
    rnnjax.step(lstm, params, jnp.ones((2, 4)), xs[0])  # error: reportArgumentType
    rnnjax.step(both, both.init(key, 3), None, xs[0])  # error: reportArgumentType
    a_cell_of_this_carry(GRU(4))  # error: reportArgumentType
    Readout(lstm, 3, 2)  # error: reportArgumentType
    LSTM(hidden_sise=4)  # error: reportCallIssue
    Elman(4, activation="swish")  # error: reportArgumentType
    rnnjax.LTSM(4)  # error: reportAttributeAccessIssue
    carry.cell_state.sum()  # error: reportAttributeAccessIssue
