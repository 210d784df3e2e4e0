"""A small run with three weights, shared by the training tests to save compilation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax import training
from rnnjax.training import checkpoints
from rnnjax.training.checkpoints import flatten

TRUE = np.array([1.0, -2.0, 0.5], np.float32)
RULE = optax.chain(training.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.5))
OPTIONS = training.FitOptions(steps=40, chunk=10, metrics_every=5)


def loss(params, batch):
    xs, targets = batch
    return jnp.mean((xs @ params["w"] + params["b"] - targets) ** 2)


def data(key, step):
    xs = jax.random.normal(key, (4, 3), jnp.float32)
    return xs, xs @ TRUE


def start(rule: Any = RULE):
    params = {"w": jnp.zeros(3, jnp.float32), "b": jnp.ones((), jnp.float32)}
    return training.init_state(params, rule, jax.random.key(7))


class Stream:
    """An endless loader, whose state is that of its generator of random numbers."""

    def __init__(self):
        self.draw = np.random.default_rng(7)

    def __iter__(self):
        return self

    def __next__(self):
        xs = self.draw.normal(size=(4, 3)).astype(np.float32)
        return xs, xs @ TRUE

    def get_state(self):
        return self.draw.bit_generator.state

    def set_state(self, state):
        self.draw.bit_generator.state = state


def run(options=OPTIONS, state=None, batches=None, **more):
    return training.fit(loss, start() if state is None else state, RULE, batches or data, options, **more)


def steps(count):
    """`OPTIONS` with another number of steps."""
    return training.FitOptions(steps=count, chunk=10, metrics_every=5)


def steps_in(folder):
    """The steps in a folder of checkpoints, oldest first."""
    return list(checkpoints.steps(folder))


def loaded(folder, template):
    """The newest intact state in a folder of checkpoints, of any config."""
    return training.Checkpoints(folder=folder, every=1, config=None).load(template)[0]


@functools.cache
def uninterrupted():
    """The final state that every interrupted run must reach."""
    return run()


def same_bits(one, other):
    """Compares all leaves of two states, including keys, byte for byte."""
    (a, keys_a), (b, keys_b) = flatten(one), flatten(other)
    assert a.keys() == b.keys() and keys_a == keys_b
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name
