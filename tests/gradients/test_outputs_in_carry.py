"""Which outputs are part of the carry, so that y_t contributes directly to dL/d(carry_t).

This is derived from the traced step, so it must work for every wrapped step, without false positives.
"""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.gradients.sequence import outputs_in_carry

H = jnp.ones(3)


def homes(step, carry):
    cell = rnnjax.StepCell(step, lambda params, batch_shape: carry)
    return outputs_in_carry(cell, jnp.ones((3, 3)), carry, H)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (rnnjax.Elman(3), [0]),
        (rnnjax.LSTM(3), [0]),
        (rnnjax.GRU(3), [0]),
        (rnnjax.Stack((rnnjax.GRU(2), rnnjax.LSTM(3))), [1]),
        (rnnjax.Stack((rnnjax.LSTM(2), rnnjax.GRU(3))), [2]),
    ],
)
def test_the_output_of_a_built_in_cell_is_its_hidden_state(cell, expected):
    """Leaf by leaf in the carry's order, so (gru, lstm h, lstm c) has it in the middle."""
    params = jax.eval_shape(lambda key: cell.init(key, 3), jax.random.key(0))
    carry = jax.eval_shape(cell.initial_carry, params)
    assert outputs_in_carry(cell, params, carry, H) == expected


def recurrence(w, h, x):
    h = jnp.tanh(x + h @ w)
    return h, h


def with_custom_jvp(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return wrapped


def with_custom_vjp(function):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda *args: (function(*args), args), lambda args, cotangents: args)
    return wrapped


WRAPPINGS = [
    jax.jit, jax.checkpoint, with_custom_jvp, with_custom_vjp,
    lambda function: jax.jit(jax.checkpoint(jax.jit(function))),
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["jit", "checkpoint", "custom_jvp", "custom_vjp", "nested"])
def test_a_wrapped_step_is_seen_through(wrap):
    """`jax.jit` around a step gives its two equal outputs different names, but they are one value."""
    assert homes(wrap(recurrence), H) == [0]


def test_a_carry_that_is_passed_on_and_shown():
    """y_t = c_t = c_{t-1}: a variable that is passed through, also through a call."""
    assert homes(lambda w, c, x: (c, c), H) == [0]
    assert homes(jax.jit(lambda w, c, x: (c, c)), H) == [0]


def test_a_tree_of_outputs():
    """Each leaf separately: both parts of the carry in swapped order, and a leaf that is in neither."""

    def step(w, carry, x):
        h, c = carry["h"], carry["c"] + x
        h = jnp.tanh(h @ w)
        return {"h": h, "c": c}, (h, c, h * c)

    assert homes(step, {"h": H, "c": H}) == [1, 0, None]


def double(h):
    return 2 * h


@pytest.mark.parametrize(
    "step",
    [
        lambda w, h, x: (jnp.tanh(h @ w), h),  # the state before the step
        lambda w, h, x: (h @ w, jnp.tanh(h @ w)),
        lambda w, h, x: (jnp.tanh(h), jnp.tanh(x)),
        lambda w, h, x: (jax.jit(double)(h), jax.jit(double)(x)),  # one traced function, called twice
        lambda w, h, x: jax.lax.scan(lambda c, _: (c + x, c + x), h, None, length=1),  # y has an axis more
        lambda w, h, x: (h, jnp.zeros(3)),
    ],
    ids=["before", "function of it", "look alike", "same call", "scan", "constant"],
)
def test_what_is_no_part_of_the_carry(step):
    """A false positive would add a wrong contribution to dL/d(carry_t)."""
    assert homes(step, H) == [None]
