"""The engine with one thing changed at a time."""

import functools
import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import Array

import rnnjax
from benchmarks import harness, ours
from benchmarks.problems import Problem
from rnnjax._unroll import hoist, reading

AS_IT_IS = "as it is"


def contestants(problem: Problem) -> Iterator[harness.Contestant]:
    """The engine as it is first: it is the reference."""
    yield _with_options(AS_IT_IS, problem)
    yield _with_options("unroll 2", problem, unroll=2)
    yield _with_options("unroll 4", problem, unroll=4)
    yield _with_options("in 4 chunks", problem, chunk=-(-problem.point.T // 4))
    yield _patched("slopes in the loop", problem, hoist, _LARGE_STEP=0)
    yield _patched("slopes after the loop", problem, hoist, _LARGE_STEP=math.inf)
    yield _patched("projection whole", problem, reading, _CHEAP=frozenset(), _READINGS=weakref.WeakKeyDictionary())
    yield harness.Contestant("two halves", functools.partial(_two_halves, problem))


def _with_options(name: str, problem: Problem, **options: Any) -> harness.Contestant:
    return ours.contestant(name, problem, ours.Way("hoisted", options), compiles=1)


def _patched(name: str, problem: Problem, module: Any, **changes: Any) -> harness.Contestant:
    """Builds, which traces, with names of a module of the engine replaced."""
    plain = _with_options(name, problem)

    def build() -> Mapping[str, harness.Program]:
        with mock.patch.multiple(module, **changes):
            return plain.build()

    return harness.Contestant(name, build)


def _two_halves(problem: Problem) -> dict[str, harness.Program]:
    B = problem.point.B
    if B < 2:
        raise harness.LeftOut("one row has no halves")
    cell = ours.cell_of(problem)
    params, xs, _ = ours.placed(problem, 1)

    def forward(params: Any, xs: Array) -> Array:
        halves = [rnnjax.unroll(cell, params, part, engine="hoisted")[1] for part in jnp.split(xs, [B // 2], 1)]
        return jnp.concatenate(halves, 1)

    train = jax.value_and_grad(lambda params, xs: (forward(params, xs) ** 2).sum(), argnums=(0, 1))
    return {
        "forward": harness.compiled(forward, params, xs, shared=lambda ys: {"ys": ys}, compiles=1),
        "train": harness.compiled(train, params, xs, shared=ours.shared_gradients, compiles=1),
    }
