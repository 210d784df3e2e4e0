"""Slopes that stay right where a unit saturates.

JAX differentiates tanh as (1 + y)(1 - y) and the logistic function as y (1 - y), from the rounded y. At |x| = 8 that is
6% off in float32, and it is exactly zero from 10 on (19 in float64), where the true slope is small but no zero: 1.7e-17
at |x| = 20. An instrument for decaying gradients would call that a gradient that is gone.

Here a step's equations are evaluated with the slopes

    tanh'(x) = 4 e^(-2|x|)/(1 + e^(-2|x|))²            σ'(x) = e^(-|x|)/(1 + e^(-|x|))²

which hold every digit as far as floating point reaches (|x| = 350, in float32 43). The cells and the engines, whose
derivative is the one that training sees, are left as they are.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.equations import Equation, Value, evaluate, traced, value_in
from rnnjax.cell import Cell, PyTree


@jax.custom_jvp
def tanh(x: Array) -> Array:
    """`jnp.tanh` with a derivative that does not cancel. Equal to it in value."""
    return jnp.tanh(x)


@tanh.defjvp
def _tanh_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    small = jnp.exp(-2 * jnp.abs(x))
    return tanh(x), dx * (4 * small / (1 + small) ** 2)


@jax.custom_jvp
def logistic(x: Array) -> Array:
    """`jax.nn.sigmoid` with a derivative that does not cancel. Equal to it in value."""
    return jax.lax.logistic(x)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    small = jnp.exp(-jnp.abs(x))
    return logistic(x), dx * (small / (1 + small) ** 2)


def accurate(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, in which tanh and the logistic function have the slopes above.

    Those inside a loop or a branch of the function's own (`lax.scan`, `lax.cond`) keep JAX's.

    Example: at 20 the float32 slope of tanh is 1.7e-17, which JAX rounds to zero.

      >>> float(jax.grad(jnp.tanh)(20.0)), float(jax.grad(accurate(jnp.tanh))(20.0))
      (0.0, 1.69934...e-17)
    """

    def run(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
        program, closed_over, result, _ = traced(lambda *leaves: function(*tree.unflatten(leaves)), *shapes)
        env = dict(zip(program.inputs, leaves, strict=True)) | dict(zip(program.closed_over, closed_over, strict=True))
        evaluate(program.equations, env, rules=accurate_rules(program.equations))
        return jax.tree.structure(result).unflatten([value_in(env, v) for v in program.outputs])

    return run


def accurate_rules(equations: Sequence[Equation]) -> dict[Value, Callable[[Array], Array]]:
    """For `evaluate`: the slopes above in place of those of every tanh and logistic function."""
    instead = {"tanh": tanh, "logistic": logistic}
    return {eqn.output: instead[eqn.name] for eqn in equations if eqn.name in instead}


@dataclasses.dataclass(frozen=True)
class AccurateCell:
    """What the instrument needs of a cell, its step with the slopes above; for `timed_step`."""

    cell: Cell

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return accurate(self.cell.step)(params, carry, x)


def as_cell(accurate_cell: AccurateCell) -> Cell:
    """For the type checker: `timed_step` asks a cell for no more than these two methods."""
    return cast(Cell, accurate_cell)
