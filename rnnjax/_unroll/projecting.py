"""The projection of the input, cut where its matmuls end.

The matmuls run for all of time at once. What comes after them, such as adding a bias, runs in the loop, where it joins
the gate's kernel for nothing; for all of time at once it would be one more pass over `[T, *rows, nH]` in memory. A
single input feature is not projected ahead at all: x_t w is pointwise, and `[T, *rows, 1]` is less to read than
`[T, *rows, nH]`.

Where a gate does nothing with u but cut it into blocks, as a GRU's does, each block has a matmul of its own, as XLA
vectorises a kernel far better over `[B, H]` than over a part of `[B, nH]`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from rnnjax._unroll.mixing import invariants, plain_matmul
from rnnjax._unroll.packing import Blocks, by_block, cut
from rnnjax._unroll.pointwise import POINTWISE
from rnnjax._unroll.tracing import aval, evaluate, flat_jaxpr, reached
from rnnjax.cell import Cell, PyTree

_CHEAP = POINTWISE | {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "slice", "split", "concatenate"}


class Plan(NamedTuple):
    """Where a projection is cut.

    Attributes:
      closed: the equations of `project`, their inputs the leaves of the parameters and x.
      ahead: the variables that are computed before the loop.
      feature: whether that is a single input feature, which goes into the loop as it is and is multiplied there.
      blocks: widths of the blocks that the rest is computed in, if it can be.
    """

    closed: ClosedJaxpr
    ahead: list[Var]
    feature: bool
    blocks: Sequence[int] | None


def read_plan(cell: Cell, params: PyTree, x: Any, widths: Sequence[int] | None) -> Plan:
    """How the projection of x `[..., D]` is cut; `widths` are those of the blocks that the gate cuts u into, if any."""
    closed = flat_jaxpr(cell.project, params, x)
    ahead = _cut_points(closed, len(jax.tree.leaves(params)))
    source = closed.jaxpr.invars[-1]
    feature = ahead == [source] and source not in closed.jaxpr.outvars
    return Plan(closed, ahead, feature, _blocks_at(closed, ahead, feature, widths))


def project_ahead(cell: Cell, params: PyTree, xs: Array, widths: Sequence[int] | None) -> list[Any]:
    """What of `cell.project` is computed before the loop.

    Args:
      xs: `[N, D]`, all steps of all rows.
      widths: of the blocks that the gate cuts u into, if it does nothing else with it.
    Returns:
      Arrays `[N, ...]`, or `Blocks` of them, for `project_rest`.
    """
    closed, ahead, feature, blocks = read_plan(cell, params, xs, widths)
    leaves = jax.tree.leaves(params)
    blocks = None if feature else blocks  # a feature is not cut: it is multiplied with a block at a time
    matmuls = {v: eqn for eqn in closed.jaxpr.eqns for v in eqn.outvars if eqn.primitive.name == "dot_general"}
    sources: dict[Var, Var] = {}  # a matmul a block is left to be done, of these
    if blocks is not None:
        sources = {v: matmuls[v].invars[0] for v in ahead if v in matmuls and plain_matmul(matmuls[v])}
    wanted = [sources.get(v, v) for v in ahead]
    values = evaluate(closed.replace(jaxpr=closed.jaxpr.replace(outvars=wanted)), (*leaves, xs))
    if blocks is None:
        return values
    fixed = invariants(closed, leaves, [xs], reached(closed, [len(leaves)]))
    return [
        Blocks(tuple(value @ w for w in cut(fixed[matmuls[v].invars[1]], blocks).parts))
        if v in sources
        else cut(value, blocks)
        for v, value in zip(ahead, values, strict=True)
    ]


class ProjectRest:
    """The rest of `cell.project`, at the shape of one step; what depends on the parameters alone is computed once."""

    def __init__(self, cell: Cell, params: PyTree, x: jax.ShapeDtypeStruct, widths: Sequence[int] | None):
        self.closed, self.ahead, _, self.blocks = read_plan(cell, params, x, widths)
        self.tree = jax.tree.structure(jax.eval_shape(cell.project, params, x))
        self.leaves = jax.tree.leaves(params)
        unread = jnp.zeros(x.shape, x.dtype)
        self.known = invariants(self.closed, self.leaves, [unread], reached(self.closed, [len(self.leaves)]))
        self.unread = unread

    def __call__(self, pieces: Sequence[Any]) -> PyTree:
        """u_t from the pieces of step t, `[*rows, ...]`; `Blocks` where they are."""
        known = {**self.known, **dict(zip(self.ahead, pieces, strict=True))}
        rules = {"dot_general": self._multiply}
        if self.blocks is not None:
            rules |= dict.fromkeys(POINTWISE, by_block)
        x = known.get(self.closed.jaxpr.invars[-1], self.unread)
        outputs = evaluate(self.closed, (*self.leaves, x), known, rules)
        # an output that was computed ahead is itself a piece
        outputs = [known.get(v, out) for v, out in zip(self.closed.jaxpr.outvars, outputs, strict=True)]
        return jax.tree.unflatten(self.tree, outputs)

    def _multiply(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        """x_t w for one feature: the sum over features is no sum."""
        x, w = values
        if x.shape[-1] != 1 or not plain_matmul(eqn):
            return eqn.primitive.bind(x, w, **eqn.params)
        return x * w[0] if self.blocks is None else Blocks(tuple(x * part[0] for part in cut(w, self.blocks).parts))


def _cut_points(closed: ClosedJaxpr, n_params: int) -> list[Var]:
    """The variables that are computed ahead: all that the rest needs of the input, and no larger than u."""
    jaxpr = closed.jaxpr
    x = jaxpr.invars[n_params]
    from_x = reached(closed, [n_params])
    outputs = list(dict.fromkeys(v for v in jaxpr.outvars if not isinstance(v, Literal) and v in from_x))
    matmuls = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general" and eqn.outvars[0] in from_x]
    if matmuls and aval(x).shape[-1] == 1 and all(plain_matmul(eqn) and eqn.invars[0] is x for eqn in matmuls):
        points = [x]
    else:
        last = [eqn for eqn in matmuls if not any(_follows(closed, eqn, other) for other in matmuls)]
        points = [eqn.outvars[0] for eqn in last]
        points += [v for v in outputs if v not in _after(closed, points)]
    after = _after(closed, points)
    for eqn in jaxpr.eqns:
        if any(v in after and v not in points for v in eqn.outvars):
            reads = [v for v in eqn.invars if not isinstance(v, Literal) and v in from_x]
            cheap = eqn.primitive.name in _CHEAP or (x in points and eqn in matmuls)
            if not cheap or any(v not in after for v in reads):
                return outputs
    return points if _size(points) <= _size(outputs) else outputs


def _after(closed: ClosedJaxpr, points: Sequence[Var]) -> set[Var]:
    """The variables that depend on these, and these."""
    found = set(points)
    for eqn in closed.jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return found


def _follows(closed: ClosedJaxpr, eqn: JaxprEqn, other: JaxprEqn) -> bool:
    return other is not eqn and other.outvars[0] in _after(closed, eqn.outvars)


def _size(variables: Sequence[Var]) -> int:
    return sum(aval(v).shape[-1] if aval(v).shape else 1 for v in variables)


def _blocks_at(
    closed: ClosedJaxpr, ahead: Sequence[Var], feature: bool, widths: Sequence[int] | None
) -> Sequence[int] | None:
    """`widths` where all that comes after can be done block by block."""
    if widths is None or len(closed.jaxpr.outvars) != 1:
        return None
    if not feature and any(aval(v).shape[-1] != sum(widths) for v in ahead):
        return None
    after = _after(closed, ahead)
    rest = [eqn for eqn in closed.jaxpr.eqns if any(v in after and v not in ahead for v in eqn.outvars)]
    names = {eqn.primitive.name for eqn in rest} - ({"dot_general"} if feature else set())
    return widths if names <= POINTWISE and not any(name.startswith("custom") for name in names) else None
