"""The contestants: a loop by hand, the same inside a scan, `fit`, and a loop by hand around rnnjax."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh

from benchmarks import harness
from benchmarks.training import model
from benchmarks.training.model import Setting
from rnnjax import sharding, training
from rnnjax.training.steps import data_key

LOOP, FIT = "Flax + Optax loop", "rnnjax fit"
LINES = 10  # losses are compared as means of so many updates


def contestants(setting: Setting, updates: int, devices: int = 1) -> Iterator[harness.Contestant]:
    """The reference first; each program makes `updates` updates from the same start."""
    rule, key = model.theirs(), jax.random.key(7)

    def by_hand(make: Callable[[], tuple[Any, Callable]], run: Callable) -> Callable[[], dict[str, harness.Program]]:
        def build() -> dict[str, harness.Program]:
            params, loss = make()
            state = (params, rule.init(params))

            def update(state: Any, step: Array) -> tuple[Any, Array]:
                params, memory = state
                value, gradient = jax.value_and_grad(loss)(params, setting.data(data_key(key, step), step))
                change, memory = rule.update(gradient, memory, params)
                return (optax.apply_updates(params, change), memory), value

            return {"train": harness.Program(run(update, state, updates), _lines)}

        return build

    def flax() -> tuple[Any, Callable]:
        return model.flax_model(setting)

    def rnn() -> tuple[Any, Callable]:
        return model.our_model(setting, flax()[0])

    def fit(devices: int) -> dict[str, harness.Program]:
        params, loss = rnn()
        gradient = None if devices == 1 else training.data_parallel(loss, _mesh(setting, devices))
        state = training.init_state(params, model.ours(), key)
        options = training.FitOptions(steps=updates, chunk=updates, metrics_every=LINES)

        def call() -> list[float]:
            fitted = training.fit(loss, state, model.ours(), setting.data, options, gradient=gradient)
            jax.block_until_ready(fitted.state)
            return [line["loss"] for line in fitted.history]

        return {"train": harness.Program(call, lambda losses: {"losses": np.array(losses)})}

    yield harness.Contestant(LOOP, by_hand(flax, _python_loop))
    yield harness.Contestant("Flax + Optax in a scan", by_hand(flax, _scan))
    yield harness.Contestant("rnnjax in a loop by hand", by_hand(rnn, _python_loop))
    yield harness.Contestant(FIT, functools.partial(fit, 1))
    if devices > 1:
        yield harness.Contestant(f"{FIT}, {devices} devices", functools.partial(fit, devices))


def _mesh(setting: Setting, devices: int) -> Mesh:
    if len(jax.devices()) < devices:
        raise harness.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if setting.B % devices:
        raise harness.LeftOut(f"a batch of {setting.B} cannot be split evenly over {devices} devices")
    return sharding.make_mesh(jax.devices()[:devices])


def _python_loop(update: Callable, state: Any, updates: int) -> Callable[[], Any]:
    compiled = jax.jit(update)
    steps = [jnp.int32(step) for step in range(updates)]  # already on the device

    def call() -> list[Array]:
        now, losses = state, []
        for step in steps:
            now, value = compiled(now, step)
            losses.append(value)
        jax.block_until_ready((now, losses))
        return losses

    return call


def _scan(update: Callable, state: Any, updates: int) -> Callable[[], Any]:
    compiled = jax.jit(lambda state: lax.scan(update, state, jnp.arange(updates, dtype=jnp.int32)))
    return lambda: jax.block_until_ready(compiled(state))[1]


def _lines(losses: Any) -> dict[str, np.ndarray]:
    return {"losses": np.asarray([float(value) for value in losses]).reshape(-1, LINES).mean(axis=1)}
