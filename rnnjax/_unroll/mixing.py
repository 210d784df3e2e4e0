"""The matmul with the carry, as the tangent recurrence needs it: everything but the carry's share computed once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import JaxprEqn, Literal, Var

from rnnjax._unroll.pointwise import NotHoistable
from rnnjax._unroll.tracing import aval, evaluate, flat_jaxpr, reached
from rnnjax.cell import Cell, PyTree


def mixed_tangent(cell: Cell, params: PyTree, carry: PyTree) -> Callable[[PyTree], PyTree]:
    """dr = ∂mix/∂carry dcarry as a function of dcarry alone; `carry` gives the shapes.

    `mix` is affine in the carry, so its derivative is the same at every step. What it computes from the parameters is
    computed here, outside the loop, and every matrix [H, nH] of a matmul is stored transposed, [nH, H]: the loop that
    runs backwards then multiplies with a matrix as it lies in memory (for a single row, ten times as fast).

    Raises:
      NotHoistable: `mix` is not affine in the carry, or has a backward pass of its own.
    """
    carry_leaves, params_leaves = jax.tree.leaves(carry), jax.tree.leaves(params)
    closed, r_tree = _traced(cell, params, carry)
    if any(eqn.primitive.name.startswith("custom_vjp") for eqn in closed.jaxpr.eqns):
        raise NotHoistable(
            f"{cell!r} has a `mix` with a backward pass of its own (`jax.custom_vjp`), which has no forward-mode "
            'derivative, as the hoisted engine needs; use engine="scan".'
        )
    first = len(params_leaves)
    carried = reached(closed, range(first, first + len(carry_leaves)))

    def of_the_carry(eqn: JaxprEqn) -> bool:
        left, right = eqn.invars
        return plain_matmul(eqn) and left in carried and right not in carried

    matmuls = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "dot_general" and of_the_carry(eqn)]
    invariant = invariants(closed, params_leaves, carry_leaves, carried)
    transposed: dict[Any, Array] = {}
    for eqn in matmuls:
        right = eqn.invars[1]
        if right not in transposed:
            transposed[right] = lax.optimization_barrier(invariant[right].T)

    def multiply(eqn: JaxprEqn, values: list[Any]) -> Any:
        if eqn not in matmuls:
            return eqn.primitive.bind(*values, **eqn.params)
        left = values[0]
        return lax.dot_general(left, transposed[eqn.invars[1]], (((left.ndim - 1,), (1,)), ((), ())))

    def mix(*leaves: Any) -> list[Any]:
        return evaluate(closed, (*params_leaves, *leaves), invariant, {"dot_general": multiply})

    def tangent(*tangents: Any) -> list[Any]:
        at = tuple(jnp.zeros_like(leaf) for leaf in tangents)
        return jax.jvp(mix, at, tangents)[1]

    _check_affine(cell, mix, carry_leaves)
    return lambda dcarry: jax.tree.unflatten(r_tree, tangent(*jax.tree.leaves(dcarry)))


def mixed_leaves(cell: Cell, params: PyTree, carry: PyTree) -> set[int]:
    """Which leaves of the carry `mix` reads, by index."""
    closed, _ = _traced(cell, params, carry)
    first, count = len(jax.tree.leaves(params)), len(jax.tree.leaves(carry))
    return {i for i in range(count) if not reached(closed, [first + i]).isdisjoint(_variables(closed.jaxpr.outvars))}


def _variables(atoms: Any) -> set[Var]:
    return {v for v in atoms if not isinstance(v, Literal)}


def _traced(cell: Cell, params: PyTree, carry: PyTree):
    return flat_jaxpr(cell.mix, params, carry), jax.tree.structure(jax.eval_shape(cell.mix, params, carry))


def plain_matmul(eqn: JaxprEqn) -> bool:
    """Whether a `dot_general` is x @ w, with variables x `[..., K]` and w `[K, N]`."""
    (lhs, rhs), batch = eqn.params["dimension_numbers"]
    left, right = eqn.invars
    return (
        batch == ((), ())
        and not isinstance(left, Literal)
        and not isinstance(right, Literal)
        and aval(right).ndim == 2
        and (tuple(lhs), tuple(rhs)) == ((aval(left).ndim - 1,), (0,))
    )


def invariants(closed: Any, params: list[Any], others: list[Any], varying: set[Var]) -> dict[Var, Any]:
    """The values of all variables that depend on the parameters alone; `varying` are those that do not."""
    computed: dict[Var, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    computed.update(zip(closed.jaxpr.invars, params, strict=False))
    eqns = [eqn for eqn in closed.jaxpr.eqns if not any(v in varying for v in eqn.outvars)]
    outvars = [v for eqn in eqns for v in eqn.outvars]
    alone = closed.replace(jaxpr=closed.jaxpr.replace(eqns=eqns, outvars=outvars))
    computed.update(zip(outvars, evaluate(alone, (*params, *others)), strict=True))
    return computed


def _check_affine(cell: Cell, mix: Callable[..., list[Any]], carry: list[Any]) -> None:
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in carry]
    n = len(shapes)
    closed = flat_jaxpr(lambda *both: jax.jvp(mix, both[:n], both[n:])[1], *shapes, *shapes)
    touched = reached(closed, range(n))
    if any(not isinstance(v, Literal) and v in touched for v in closed.jaxpr.outvars):
        raise NotHoistable(
            f"{cell!r} has a `mix` that is not affine in the carry; the hoisted engine needs a matmul there and the "
            'rest in `gate`. Move it, or use engine="scan".'
        )
