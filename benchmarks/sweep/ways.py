"""The contestants of the sweep: the same norms of gradients, organised in six ways."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import harness
from benchmarks.sweep.settings import Sweep, norms, norms_by_length
from rnnjax import sharding


@dataclasses.dataclass(frozen=True)
class Counted:
    """A contestant and how many settings one of its calls does."""

    contestant: harness.Contestant
    settings: int


def contestants(sweep: Sweep, devices: int, compiles: int = 2) -> list[Counted]:
    """One program for all first: it is the reference."""
    whole, few = len(sweep), len(sweep.chosen())
    ways: list[tuple[str, Callable[[], harness.Program], int]] = [
        ("one program", lambda: one_program(sweep, compiles=compiles), whole),
        ("a call a setting", lambda: call_a_setting(sweep), whole),
        ("a call a setting, cut", lambda: call_a_setting_cut(sweep), whole),
        ("compiled for every setting", lambda: compiled_for_each(sweep), few),
        ("Python loop", lambda: python_loop(sweep), few),
    ]
    if devices > 1:
        ways.insert(1, (f"one program, {devices} devices", lambda: one_program(sweep, devices, compiles), whole))
    return [Counted(harness.Contestant(name, _task(program)), count) for name, program, count in ways]


def one_program(sweep: Sweep, devices: int = 1, compiles: int = 2) -> harness.Program:
    """`vmap` over scales within seeds: a seed's W2 serves all of its scales."""

    def lengths(scale: Array, seed: Array) -> Array:
        return norms_by_length(sweep, scale, seed, sweep.engine)

    by_seed = jax.vmap(jax.vmap(lengths, (0, None)), (None, 0))
    seeds = jnp.asarray(sweep.seeds, jnp.uint32)
    if devices > 1:
        seeds = _split(seeds, devices)
    return harness.compiled(
        by_seed,
        jnp.asarray(sweep.scales, jnp.float32),
        seeds,
        shared=lambda result: _all_and_few(sweep, np.asarray(result).swapaxes(0, 1)),  # to scale, seed, length
        compiles=compiles,
        devices=devices,
    )


def call_a_setting(sweep: Sweep) -> harness.Program:
    """Compiled once; a setting's three numbers are arguments, its row is padded to the longest."""
    run = jax.jit(lambda *setting: norms(sweep, *setting, steps=max(sweep.lengths), engine=sweep.engine))
    return _one_by_one(sweep, lambda setting: run(*setting))


def call_a_setting_cut(sweep: Sweep) -> harness.Program:
    """Compiled once for each length: no padding."""

    @functools.partial(jax.jit, static_argnums=2)
    def run(scale: Array, seed: Array, steps: int) -> Array:
        return norms(sweep, scale, seed, steps, steps, sweep.engine)

    return _one_by_one(sweep, lambda setting: run(*setting))


def compiled_for_each(sweep: Sweep) -> harness.Program:
    """As it is written in a hurry: `jax.jit` around a closure over the setting, so every setting is a new program."""

    def run(setting: tuple[float, int, int]) -> Array:
        scale, seed, steps = setting
        return jax.jit(lambda: norms(sweep, scale, seed, steps, steps, sweep.engine))()

    return _one_by_one(sweep, run, few=True)


def python_loop(sweep: Sweep) -> harness.Program:
    """No `jit`: a Python loop over settings and over time."""

    def run(setting: tuple[float, int, int]) -> Array:
        scale, seed, steps = setting
        return norms(sweep, scale, seed, steps, steps, "loop")

    return _one_by_one(sweep, run, few=True)


def _one_by_one(sweep: Sweep, run: Callable[[Any], Array], few: bool = False) -> harness.Program:
    settings = sweep.settings()
    if few:
        settings = [settings[i] for i in sweep.chosen()]

    def call() -> list[Array]:
        return jax.block_until_ready([run(setting) for setting in settings])

    def shared(result: list[Array]) -> dict[str, np.ndarray]:
        rows = np.stack(result)
        return {"few": rows} if few else _all_and_few(sweep, rows)

    return harness.Program(call, shared)


def _split(seeds: Array, devices: int) -> Array:
    if len(jax.devices()) < devices:
        raise harness.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if seeds.size % devices:
        raise harness.LeftOut(f"{seeds.size} seeds cannot be split evenly over {devices} devices")
    return sharding.place(seeds, sharding.make_mesh(jax.devices()[:devices]), 0)


def _all_and_few(sweep: Sweep, result: np.ndarray) -> dict[str, np.ndarray]:
    """The norms of all settings, and those of the settings that everybody runs."""
    rows = result.reshape(-1, 2)
    return {"all": rows, "few": rows[sweep.chosen()]}


def _task(program: Callable[[], harness.Program]) -> Callable[[], dict[str, harness.Program]]:
    return lambda: {"norms": program()}
