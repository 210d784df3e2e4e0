"""The same gate in fewer, wider kernels: what the time loop runs in place of `cell.gate`.

Inside a loop a kernel costs as much to start as to run, and XLA vectorises one kernel over `[B, nH]` far better than n
kernels that each cut their `[B, H]` out of the middle of it. So, from the gate's equations, in ways that change no more
than the last bit:

  - σ(x) = ½ + ½ tanh(x / 2), exactly. Where every block of a packed array goes through σ or tanh and is used for
    nothing else, as an LSTM's four gates are, all of them are one tanh: tanh(s · packed), s = ½ for σ and 1 for tanh.
  - An input u that the gate does nothing with but cut into blocks, as a GRU does, is cut for all steps at once before
    the loop, and `Blocks` takes the place of the packed array.

A cell is written as its maths reads; this makes it fast, and a custom cell as fast as a built-in one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.tracing import evaluate, flat_jaxpr


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """An array `[..., nH]` that was cut into n of `[..., H]`."""

    parts: tuple[Array, ...]


class Piece(NamedTuple):
    """Elements `[start, stop)` of the last axis of an array, and the variable that holds them."""

    start: int
    stop: int
    var: Var


Gate = Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def cut_apart(cell: Cell, params: PyTree, carry: PyTree, us: PyTree, r: PyTree) -> PyTree:
    """`us` with `Blocks` for every leaf that the gate only ever cuts; the shapes of one row decide."""

    def row(tree: PyTree, drop: int) -> PyTree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[drop:], leaf.dtype), tree)

    leaves, tree = jax.tree.flatten(us)
    closed = flat_jaxpr(cell.gate, params, carry, row(us, leaves[0].ndim - 1), r)
    first = len(jax.tree.leaves((params, carry)))
    for i, leaf in enumerate(leaves):
        pieces = _tiles(closed.jaxpr, closed.jaxpr.invars[first + i])
        if pieces and len(pieces) > 1:
            leaves[i] = Blocks(tuple(leaf[..., piece.start : piece.stop] for piece in pieces))
    return jax.tree.unflatten(tree, leaves)


def packed_gate(cell: Cell) -> Gate:
    """`cell.gate` with its activations packed; `u` may hold `Blocks`."""

    def gate(params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> tuple[PyTree, PyTree]:
        whole = jax.tree.map(_whole, u, is_leaf=_is_blocks)
        closed = flat_jaxpr(cell.gate, params, carry, whole, r)
        shape = jax.eval_shape(cell.gate, params, carry, whole, r)
        u_leaves = jax.tree.leaves(u, is_leaf=_is_blocks)
        args = [*jax.tree.leaves((params, carry)), *u_leaves, *jax.tree.leaves(r)]
        values = evaluate(closed, args, rules=packing_rules(closed.jaxpr))
        values = [jnp.concatenate(v.parts, -1) if isinstance(v, Blocks) else v for v in values]
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return gate


def packing_rules(jaxpr: Jaxpr) -> dict[str, Callable[[JaxprEqn, list[Any]], Any]]:
    """For `evaluate`, once: which equations of a gate are computed in another way."""
    return _Packing(jaxpr).rules()


class _Packing:

    def __init__(self, jaxpr: Jaxpr):
        self.activations: dict[Var, tuple[list[Piece], list[JaxprEqn]]] = {}
        users = _users(jaxpr)
        for var in users:
            pieces = _tiles(jaxpr, var)
            if pieces is None or len(pieces) < 2 or var in jaxpr.invars:
                continue
            after = [users.get(piece.var, []) for piece in pieces]
            if all(len(eqns) == 1 and eqns[0].primitive.name in ("logistic", "tanh") for eqns in after):
                if not any(piece.var in jaxpr.outvars for piece in pieces):
                    self.activations[var] = (pieces, [eqns[0] for eqns in after])
        self.computed: dict[Var, Array] = {}

    def rules(self) -> dict[str, Callable[[JaxprEqn, list[Any]], Any]]:
        return {"split": self.cut, "slice": self.cut, "logistic": self.activate, "tanh": self.activate}

    def cut(self, eqn: JaxprEqn, values: list[Any]) -> Any:
        source, value = eqn.invars[0], values[0]
        if isinstance(value, Blocks):
            by_start = dict(zip(np.cumsum([0] + [p.shape[-1] for p in value.parts]), value.parts, strict=False))
            parts = [by_start[piece.start] for piece in _pieces(eqn)]
        else:
            parts = eqn.primitive.bind(value, **eqn.params)
            if source in self.activations:
                self.activate_together(*self.activations.pop(source), value)
        return parts if eqn.primitive.multiple_results else parts[0] if isinstance(parts, list) else parts

    def activate_together(self, pieces: list[Piece], eqns: list[JaxprEqn], packed: Array) -> None:
        halves = [eqn.primitive.name == "logistic" for eqn in eqns]
        scale = np.concatenate([np.full(p.stop - p.start, 0.5 if half else 1.0) for p, half in zip(pieces, halves, strict=True)])
        scaled = packed if not any(halves) else packed * jnp.asarray(scale, packed.dtype)
        bent = jnp.split(jnp.tanh(scaled), [piece.start for piece in pieces[1:]], axis=-1)
        for eqn, half, value in zip(eqns, halves, bent, strict=True):
            self.computed[eqn.outvars[0]] = 0.5 * value + 0.5 if half else value

    def activate(self, eqn: JaxprEqn, values: list[Any]) -> Array:
        if eqn.outvars[0] in self.computed:
            return self.computed[eqn.outvars[0]]
        return 0.5 * jnp.tanh(0.5 * values[0]) + 0.5 if eqn.primitive.name == "logistic" else jnp.tanh(values[0])


def _users(jaxpr: Jaxpr) -> dict[Var, list[JaxprEqn]]:
    users: dict[Var, list[JaxprEqn]] = {}
    for eqn in jaxpr.eqns:
        for var in eqn.invars:
            if not isinstance(var, Literal):
                users.setdefault(var, []).append(eqn)
    return users


def _tiles(jaxpr: Jaxpr, var: Var) -> list[Piece] | None:
    """The pieces that `var` is cut into, if it is used for nothing else and they tile it; else None."""
    eqns = _users(jaxpr).get(var, [])
    if var in jaxpr.outvars or not eqns or any(eqn.primitive.name not in ("split", "slice") for eqn in eqns):
        return None
    pieces = []
    for eqn in eqns:
        cut = _pieces(eqn)
        if cut is None:
            return None
        pieces += cut
    pieces.sort()
    edges = [0, *(piece.stop for piece in pieces)]
    return pieces if [p.start for p in pieces] == edges[:-1] and edges[-1] == var.aval.shape[-1] else None


def _pieces(eqn: JaxprEqn) -> list[Piece] | None:
    """What a `split` or `slice` along the last axis gives; None if it cuts another axis, or leaves elements out."""
    shape = eqn.invars[0].aval.shape
    if eqn.primitive.name == "split":
        if eqn.params["axis"] != len(shape) - 1:
            return None
        edges = [0, *(int(edge) for edge in np.cumsum(eqn.params["sizes"]))]
        return [Piece(*piece) for piece in zip(edges[:-1], edges[1:], eqn.outvars, strict=True)]
    start, stop, strides = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    others = all(a == 0 and b == n for a, b, n in zip(start[:-1], stop[:-1], shape[:-1], strict=True))
    return [Piece(start[-1], stop[-1], eqn.outvars[0])] if others and strides is None else None


def _whole(leaf: Any) -> Any:
    """The shape of the packed array."""
    if not isinstance(leaf, Blocks):
        return leaf
    width = sum(part.shape[-1] for part in leaf.parts)
    return jax.ShapeDtypeStruct((*leaf.parts[0].shape[:-1], width), leaf.parts[0].dtype)


def _is_blocks(leaf: Any) -> bool:
    return isinstance(leaf, Blocks)
