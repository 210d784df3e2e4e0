"""An embedding is a one-hot input times its table; tokens that are not in it give NaN, and no other token's vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import Embedding
from tests.registry import assert_close, assert_identical, normal

V, SIZE = 300, 4
EMBEDDING = Embedding(V, SIZE)
PARAMS = normal(jax.eval_shape(lambda: EMBEDDING.init(jax.random.key(0), "float64")), "table")
TOKENS = np.array([[0, 299, 7], [7, 7, 128]])


def test_a_one_hot_product():
    """Values and the gradient of the table, in which the uses of a token add up; of any shape of tokens."""

    def by_table(params):
        return EMBEDDING(params, TOKENS)

    def by_product(params):
        return jax.nn.one_hot(TOKENS, V, dtype="float64") @ params.table

    (got, back), (expected, expected_back) = jax.vjp(by_table, PARAMS), jax.vjp(by_product, PARAMS)
    weights = normal(expected, "weights")
    assert_identical(got, expected)
    assert_close(back(weights), expected_back(weights))
    assert_identical(jax.jit(EMBEDDING)(PARAMS, TOKENS), expected)
    assert_identical(EMBEDDING(PARAMS, 7), PARAMS.table[7])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_tokens_outside_the_vocabulary(dtype):
    """NaN, whatever the integer type; neither the last row for -1, as in NumPy, nor the nearest, as in JAX."""
    small = Embedding(100, SIZE)
    params = rnnjax.EmbeddingParams(PARAMS.table[:100])
    limits = np.iinfo(dtype)
    outside = [100, limits.max, *([-1, limits.min] if limits.min else []), *([2**40 + 1] if limits.bits == 64 else [])]
    tokens = np.array([99, *outside, 0], dtype)
    rows = small(params, tokens)
    assert_identical(rows[jnp.array([0, -1])], params.table[jnp.array([99, 0])])
    assert bool(jnp.isnan(rows[1:-1]).all())
    gradient = jax.grad(lambda p: small(p, tokens).sum())(params).table
    assert_identical(gradient, jnp.zeros_like(params.table).at[jnp.array([99, 0])].set(1.0))
    assert_identical(
        EMBEDDING(PARAMS, np.array([0, limits.max % V], dtype)), PARAMS.table[np.array([0, limits.max % V])]
    )


def test_padding_of_tokens_is_ignored_over_time():
    """Rows padded with -1 have the values and gradients of rows padded with a token."""
    cell, lengths = rnnjax.GRU(3), np.array([2, 1, 0])
    params = PARAMS, normal(jax.eval_shape(lambda: cell.init(jax.random.key(0), SIZE, "float64")), "cell")

    def loss(params, tokens):
        table, weights = params
        return jnp.sin(rnnjax.unroll(cell, weights, EMBEDDING(table, tokens), lengths=lengths)[1]).sum()

    padded = np.where(np.arange(2)[:, None] < lengths, TOKENS, -1)
    expected = jax.value_and_grad(loss)(params, np.where(padded < 0, 5, padded))
    assert_identical(jax.value_and_grad(loss)(params, padded), expected)


def test_drawing():
    table = Embedding(200, 50).init(jax.random.key(0), "float32").table
    assert table.shape == (200, 50) and table.dtype == jnp.float32
    assert abs(float(table.std()) - 1) < 0.03 and abs(float(table.mean())) < 0.03


def test_errors():
    for wrong in (TOKENS.astype("float32"), TOKENS > 0, jnp.zeros((2, 3, V))):
        with pytest.raises(TypeError, match=r"`tokens` is (float32|bool|float64) .* integers in 0\.\.299: cast"):
            EMBEDDING(PARAMS, wrong)
    with pytest.raises(ValueError, match=r"`params.table` is \[300, 4\], but Embedding\(.* expects \[300, 5\]; draw"):
        Embedding(V, 5)(PARAMS, TOKENS)
    for sizes in ((0, 4), (4, 0), (2.0, 4)):
        with pytest.raises(ValueError, match="must be a positive integer"):
            Embedding(*sizes)  # pyright: ignore[reportArgumentType]
