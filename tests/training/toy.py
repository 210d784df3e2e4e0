"""One small run that the tests of training share: an Elman network that adds, of which few programs are compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from rnnjax import tasks, training

CELL = rnnjax.Elman(3)
RULE = optax.chain(training.clip_by_global_norm(0.5), optax.adam(0.01))
OPTIONS = training.FitOptions(steps=40, chunk=10, metrics_every=5)


def init(key):
    w = jax.random.normal(jax.random.fold_in(key, 1), (3, 1), jnp.float32)
    return {"rnn": CELL.init(key, 2, dtype=jnp.float32), "w": w}


def loss(params, batch):
    _, ys = rnnjax.unroll(CELL, params["rnn"], None, batch.xs, engine="scan")
    return tasks.squared_error(ys @ params["w"], batch)


def data(key, step):
    return tasks.adding(key, 6, (4,), dtype=jnp.float32)


@functools.cache
def weights():
    return init(jax.random.key(1))


def start(rule=RULE):
    with jax.numpy_dtype_promotion("standard"):
        return training.init_state(weights(), rule, jax.random.key(7))


def run(options=OPTIONS, state=None, **more):
    return training.fit(loss, start() if state is None else state, RULE, data, options, **more)


@functools.cache
def uninterrupted():
    """Where every interrupted run must arrive."""
    return run()


def same_bits(one, other):
    """Every leaf of two states, keys among them, byte for byte."""
    leaves = [jax.tree.leaves(training.flat.flatten(state)[0]) for state in (one, other)]
    assert len(leaves[0]) == len(leaves[1])
    for a, b in zip(*leaves, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
