"""Results keep the dtype of the parameters and inputs, which must be equal."""

import jax
import jax.numpy as jnp
import pytest

from tests import oracles
from tests.registry import (
    COMBINED,
    NOTHING_SAID,
    Sample,
    assert_close,
    both_directions,
    cotangents,
    on_every_engine,
    run,
    sample,
    unroller,
)

DTYPES = ["float64", "float32", "float16", "bfloat16"]


@on_every_engine(loop=False)
def test_dtype_is_preserved(name, engine):
    """All leaves of carry, outputs and gradients, by `jax.eval_shape`, with strict promotion."""

    def outputs_and_gradients(weights, params, carry, xs):
        outputs, pullback = jax.vjp(unroller(name, engine, False, COMBINED), params, carry, xs)
        return outputs, Sample(*pullback(weights))

    for dtype in DTYPES if engine == "scan" else ["bfloat16"]:
        weights = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), cotangents(name))
        for leaf in jax.tree.leaves(jax.eval_shape(outputs_and_gradients, weights, *sample(name, dtype))):
            assert leaf.dtype == dtype


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "gru"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_low_precision_is_near_the_oracle(name, dtype, tolerance):
    """A smoke test against the float64 oracle with the same rounded parameters and inputs."""
    drawn = sample(name, dtype)
    carry, ys = oracles.unroll(name, *drawn, **COMBINED._asdict())
    got_carry, got_ys = unroller(name, "loop", False, COMBINED)(*drawn)
    as_float64 = jax.tree.map(lambda leaf: leaf.astype("float64"), (got_carry, got_ys))
    assert_close(as_float64, (carry, ys), tolerance)


@pytest.mark.parametrize("name", ["lstm", "stack_of_bidirectional"])
@both_directions
def test_float32_scan_is_near_the_oracle(name, reverse):
    """The same compiled, in float32, the usual dtype of training."""
    drawn = sample(name, "float32")
    got = jax.tree.map(lambda leaf: leaf.astype("float64"), run(name, "scan", drawn, NOTHING_SAID, reverse))
    assert_close(got, oracles.unroll(name, *drawn, reverse=reverse), 1e-5)


def test_a_dtype_is_never_mixed():
    """float32 parameters with a float64 sequence, and vice versa, raise an error."""
    wide, narrow = sample("gru"), sample("gru", "float32")
    for params, xs in ((wide.params, narrow.xs), (narrow.params, wide.xs)):
        with pytest.raises(TypeError, match="both must have the same dtype"):
            unroller("gru", "scan", False, NOTHING_SAID)(params, None, xs)
    with pytest.raises(TypeError, match=r"`carry` is float32, expected float64"):
        unroller("gru", "scan", False, NOTHING_SAID)(wide.params, narrow.carry, wide.xs)


def test_numpy_input_follows_the_default_dtype():
    """A float64 NumPy array stays float64 in x64."""
    drawn = sample("gru")
    _, ys = unroller("gru", "loop", False, NOTHING_SAID)(drawn.params, None, jax.device_get(drawn.xs))
    assert ys.dtype == jnp.float64
