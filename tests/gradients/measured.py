"""All measurements of `rnnjax.gradients` for one cell in one compiled program, with references in plain JAX.

Most of the time is compilation, so all masks and resets run through the same program of a cell and direction.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from rnnjax import gradients
from rnnjax.cell import PyTree
from tests.registry import ALL_COUNT, CAUSAL, CELLS, COMBINED, LENGTHS_ONLY, Sample, Times, normal, sample, unroller

CONDITIONS: dict[str, Times] = {
    "plain": ALL_COUNT,
    "lengths": LENGTHS_ONLY,
    "mask": ALL_COUNT._replace(mask=COMBINED.mask),
    "resets": ALL_COUNT._replace(resets=COMBINED.resets),
    "together": COMBINED,
}

IN_REVERSE = ("lstm", "step_cell", "custom", "deep_stack")
"""Cells that are also tested in reverse. The direction only changes the order of steps, so a few kinds are enough: a
carry of two parts, a learned initial carry, an output that is not part of the carry, and nested stacks."""

EACH_WAY = [(name, False) for name in CAUSAL] + [(name, True) for name in IN_REVERSE]

QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for programs that take longer to optimise than to run."""


class Measured(NamedTuple):
    """Measurements of one cell under one condition."""

    adjoint: gradients.Adjoint
    perturbed: PyTree  # the carry's tree, [T + 1, B, ...]
    parts: PyTree  # the parameters' tree, [T, ...]
    params_gradient: PyTree  # by jax.grad, as the next one
    carry_gradient: PyTree


def weigh(weights: PyTree, ys: PyTree) -> Array:
    """A nonlinear loss of all outputs at all steps, including masked steps."""
    return sum(jax.tree.leaves(jax.tree.map(lambda w, y: (w * y + w * y * y).sum(), weights, ys)), jnp.zeros(()))


@functools.cache
def weights(name: str) -> PyTree:
    shapes = jax.eval_shape(unroller(name, "scan", False, Times()), *sample(name))[1]
    return normal(shapes, f"{name} loss")


@functools.cache
def measure(name: str, condition: str, reverse: bool) -> Measured:
    return program(name, reverse)(sample(name), CONDITIONS[condition], weights(name))


@functools.cache
def program(name: str, reverse: bool) -> Callable[[Sample, Times, PyTree], Measured]:
    cell: Any = CELLS[name]

    def run(drawn: Sample, times: Times, weights: PyTree) -> Measured:
        loss = functools.partial(weigh, weights)
        options: dict[str, Any] = times._asdict() | {"reverse": reverse}

        def loss_of(params: PyTree, carry: PyTree) -> Array:
            return loss(rnnjax.unroll(cell, params, drawn.xs, carry=carry, engine="scan", **options)[1])

        return Measured(
            gradients.adjoint(cell, **drawn._asdict(), loss=loss, **options),
            gradients.adjoint_by_perturbation(cell, **drawn._asdict(), loss=loss, **options),
            gradients.attribution(cell, **drawn._asdict(), loss=loss, **options),
            *jax.grad(loss_of, argnums=(0, 1))(drawn.params, drawn.carry),
        )

    return jax.jit(run, compiler_options=QUICKLY)


def plain(adjoint: gradients.Adjoint) -> PyTree:
    """The log form as plain numbers."""
    factor = np.exp(adjoint.log_norm)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)),
        adjoint.direction,
    )


def row_norms(tree: PyTree, axes: int) -> np.ndarray:
    """Euclidean norm over all leaves and all but the leading `axes` axes, in NumPy."""
    squares = [np.square(np.asarray(a)).sum(axis=tuple(range(axes, a.ndim))) for a in jax.tree.leaves(tree)]
    return np.sqrt(np.sum(squares, axis=0))


def assert_rows_close(got: PyTree, expected: PyTree, axes: int, tolerance: float) -> None:
    """Asserts ‖got - expected‖ <= tolerance ‖expected‖ for each row."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    difference = row_norms(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), got, expected), axes)
    norms = row_norms(expected, axes)
    assert (difference <= tolerance * norms).all(), f"relative to {norms}: {difference}"
