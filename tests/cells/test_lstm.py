"""The LSTM: saturated gates, their order, and the place of the forget bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import LSTM, LSTMCarry, LSTMParams
from rnnjax.initializers import Normal
from tests.registry import B, T, assert_close, sample

OPEN, SHUT = 800.0, -800.0
CELL = LSTM(1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def biased(i, f, g, o):
    """A scalar LSTM whose gates depend only on their biases."""
    return LSTMParams(jnp.zeros((1, 4)), jnp.zeros((1, 4)), jnp.array([i, f, g, o], float))


def test_an_open_forget_gate_holds_the_cell_forever():
    """With i = 0 and f = 1 saturated, c is bitwise unchanged over 1,000 steps, and its gradient is 1."""
    xs, carry = jnp.ones((1000, 1)), LSTMCarry(h=jnp.zeros(1), c=jnp.array([0.7]))

    def last(c):
        return rnnjax.unroll(CELL, biased(SHUT, OPEN, 0.0, OPEN), xs, carry=carry._replace(c=c))[0].c[0]

    value, gradient = jax.jit(jax.value_and_grad(last))(carry.c)
    assert value == 0.7 and gradient[0] == 1.0


def test_a_shut_forget_gate_forgets_at_once():
    """f = 0 and i = 1: c_t is the candidate, whatever c_{t-1} was."""
    carry, _ = CELL.step(biased(OPEN, SHUT, 0.3, OPEN), LSTMCarry(jnp.ones(1), jnp.full(1, 1e6)), jnp.ones(1))
    np.testing.assert_allclose(carry.c, np.tanh(0.3), rtol=1e-15)


def test_a_shut_output_gate_hides_the_cell():
    """o = 0: y is zero while c is unchanged."""
    carry, y = CELL.step(biased(SHUT, OPEN, 0.0, SHUT), LSTMCarry(jnp.zeros(1), jnp.full(1, 0.7)), jnp.ones(1))
    assert y[0] == 0.0 and carry.h[0] == 0.0 and carry.c[0] == 0.7


@pytest.mark.parametrize("forget_bias", [-1.0, 0.0, 1.0, 5.0])
def test_without_recurrent_weights_the_cell_gradient_is_the_forget_gate(forget_bias):
    """∂c_T/∂c_0 = σ(b_f)^T: 0.5 per step with bias 0, 0.731 with bias 1."""
    params = biased(0.3, forget_bias, 0.2, 0.1)
    carry, xs = LSTMCarry(jnp.zeros(1), jnp.zeros(1)), jnp.ones((T, 1))

    def last(c):
        return rnnjax.unroll(CELL, params, xs, carry=carry._replace(c=c), engine="loop")[0].c[0]

    np.testing.assert_allclose(jax.grad(last)(carry.c), sigmoid(forget_bias) ** T, rtol=1e-12)


def test_gates_are_packed_input_forget_candidate_output():
    """The gate order of PyTorch and cuDNN, identified by four different biases."""
    i, f, g, o = 0.1, 0.2, 0.3, 0.4
    carry, y = CELL.step(biased(i, f, g, o), LSTMCarry(jnp.zeros(1), jnp.full(1, 0.7)), jnp.ones(1))
    c = sigmoid(f) * 0.7 + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(carry.c[0], c, rtol=1e-15)
    np.testing.assert_allclose(y[0], sigmoid(o) * np.tanh(c), rtol=1e-15)


@pytest.mark.parametrize(
    ("days", "prediction"), [([0, 0.5, 0.25, 1], 0.0064), ([1, 0.5, 0.25, 1], 0.9694)], ids=["company A", "company B"]
)
def test_the_lectures_network(days, prediction):
    """The published StatQuest LSTM: per gate (short-term weight, input weight, bias), from a zero state."""
    input_gate, forget, candidate, output = (
        (2.00, 1.65, 0.62),
        (2.70, 1.63, 1.62),
        (1.41, 0.94, -0.32),
        (4.38, -0.19, 0.59),
    )
    w_h, w_x, b = (jnp.array(column) for column in zip(input_gate, forget, candidate, output, strict=True))
    params = LSTMParams(w_x[None], w_h[None], b)
    _, ys = rnnjax.unroll(CELL, params, jnp.array(days, float)[:, None], engine="loop")
    np.testing.assert_allclose(ys[-1, 0], prediction, atol=5e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("forget_bias", [0.0, 1.0, -2.5])
def test_the_forget_bias_lives_in_b(forget_bias, dtype):
    """The forget bias is in `b` at the forget gate and nowhere else, so the step has no hidden constant."""
    params = LSTM(3, forget_bias, w_x=Normal(), w_h=Normal()).init(jax.random.key(0), 2, dtype)
    assert params.b.dtype == dtype
    np.testing.assert_array_equal(params.b.astype("float64"), np.repeat([0.0, forget_bias, 0.0, 0.0], 3))


def test_the_forget_bias_changes_nothing_but_b():
    """With another forget bias, the same key draws the same matrices, and the step is the same function of `params`."""
    one, other = (LSTM(6, bias).init(jax.random.key(0), 6) for bias in (0.0, 1.0))
    assert_close(one[:2], other[:2])
    params, carry, xs = sample("lstm")
    assert_close(LSTM(3, 0.0).step(params, carry, xs[0]), LSTM(3, 1.0).step(params, carry, xs[0]))


def test_parameters_and_carry_are_shaped_as_documented():
    params = jax.eval_shape(lambda key: LSTM(4).init(key, 2), jax.random.key(0))
    assert [leaf.shape for leaf in params] == [(2, 16), (4, 16), (16,)]
    carry = jax.eval_shape(lambda p: LSTM(4).initial_carry(p, (B,)), params)
    assert [leaf.shape for leaf in carry] == [(B, 4), (B, 4)]
