"""Newton's method in time: equal to the scan where it converges, and said where it does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import assert_close, normal

STEPS, ROWS, FEATURES = 40, 3, 2
CONTRACTING = {"elman": rnnjax.Elman(4), "gru": rnnjax.GRU(4), "lstm": rnnjax.LSTM(3)}


@functools.cache
def drawn(name, scale=0.5):
    cell = CONTRACTING[name]
    shapes = jax.eval_shape(lambda key: cell.init(key, FEATURES), jax.random.key(0))
    params = normal(shapes, name, scale=scale)
    carry = normal(jax.eval_shape(lambda p: cell.initial_carry(p, (ROWS,)), params), f"{name} carry")
    return params, carry, normal(jnp.zeros((STEPS, ROWS, FEATURES)), f"{name} xs")


def times():
    rng = np.random.default_rng(0)
    flags = rng.random((2, STEPS, ROWS))
    return {"lengths": np.array([STEPS, 17, 0]), "mask": flags[0] > 0.2, "resets": flags[1] < 0.1}


def unrolled(name, engine, **options):
    def run(params, carry, xs):
        return rnnjax.unroll(CONTRACTING[name], params, xs, carry=carry, engine=engine, **options)

    return run


@pytest.mark.parametrize("name", CONTRACTING)
def test_equal_to_the_scan(name):
    """Values, both gradients and a second derivative, with lengths, gaps and resets."""
    primals, tangents = drawn(name), normal(drawn(name), "tangents")

    def all_of(engine):
        run = unrolled(name, engine, carries=True, **times())
        weights = normal(jax.eval_shape(run, *primals), "weights")

        def gradients(*primals):
            outputs, pull = jax.vjp(run, *primals)
            return outputs, pull(weights)

        return jax.jit(lambda: jax.jvp(gradients, primals, tangents))()

    assert_close(all_of(rnnjax.Parallel(tolerance=1e-12)), all_of("scan"), 1e-10)
