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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from rnnjax._unroll.tracing import aval, evaluate, flat_jaxpr
from rnnjax.cell import Cell, PyTree


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


def widths_of_cuts(cell: Cell, params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> list[tuple[int, ...] | None]:
    """For each leaf of u: the widths of the blocks that the gate cuts it into, or `None` if it does more with it.

    The shapes are those of one row.
    """
    closed = flat_jaxpr(cell.gate, params, carry, u, r)
    first = len(jax.tree.leaves((params, carry)))
    tiled = [_tiles(closed.jaxpr, closed.jaxpr.invars[first + i]) for i in range(len(jax.tree.leaves(u)))]
    return [tuple(p.stop - p.start for p in pieces) if pieces and len(pieces) > 1 else None for pieces in tiled]


def cut_apart(us: PyTree, widths: Sequence[Sequence[int] | None]) -> PyTree:
    """`us` with `Blocks` for every leaf that has widths."""
    leaves, tree = jax.tree.flatten(us)
    return jax.tree.unflatten(tree, [u if w is None else cut(u, w) for u, w in zip(leaves, widths, strict=True)])


def cut(value: Array, widths: Sequence[int]) -> Blocks:
    """`[..., nH]` as blocks; in one equation, of which the transpose is one concatenation."""
    return Blocks(tuple(jnp.split(value, np.cumsum(widths)[:-1], axis=-1)))


def by_block(eqn: JaxprEqn, values: list[Any]) -> Any:
    """An elementwise equation of which some inputs are `Blocks`: done block by block."""
    blocks = next((value for value in values if is_blocks(value)), None)
    if blocks is None:
        return eqn.primitive.bind(*values, **eqn.params)
    widths = [part.shape[-1] for part in blocks.parts]

    def parts(value: Any) -> Sequence[Any]:
        if is_blocks(value):
            return value.parts
        packed = jnp.ndim(value) > 0 and jnp.shape(value)[-1] == sum(widths)
        return cut(value, widths).parts if packed else [value] * len(widths)

    return Blocks(tuple(eqn.primitive.bind(*one, **eqn.params) for one in zip(*map(parts, values), strict=True)))


def packed_gate(cell: Cell, params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> "PackedGate":
    """`cell.gate` at these shapes; `u` may hold `Blocks`."""
    return PackedGate(flat_jaxpr(cell.gate, params, carry, whole(u), r))


class Activation(NamedTuple):
    """One tanh, t = tanh(s · x), and what it stands for in each block of x: σ = ½ + ½ t (s = ½), or tanh (s = 1)."""

    x: Var
    eqns: tuple[JaxprEqn, ...]  # the σ or tanh of each block
    widths: tuple[int, ...]

    def sigmoid(self) -> list[bool]:
        return [eqn.primitive.name == "logistic" for eqn in self.eqns]

    def scaled(self, x: Array) -> Array:
        if not any(self.sigmoid()):
            return x
        scale = np.where(self.sigmoid(), 0.5, 1.0)
        return x * np.repeat(scale, self.widths).astype(x.dtype)

    def values(self, t: Array) -> dict[Var, Array]:
        """What the equations give, from t."""
        blocks = jnp.split(t, np.cumsum(self.widths)[:-1], axis=-1) if len(self.eqns) > 1 else [t]
        bent = [0.5 * b + 0.5 if sigmoid else b for b, sigmoid in zip(blocks, self.sigmoid(), strict=True)]
        return {eqn.outvars[0]: value for eqn, value in zip(self.eqns, bent, strict=True)}


class PackedGate:
    """A gate's equations with the activations packed, to be run as often as one likes; `u` may hold `Blocks`."""

    def __init__(self, closed: ClosedJaxpr):
        self.closed = closed
        self.activations = _activations(closed.jaxpr)

    def __call__(
        self,
        args: Sequence[Any],
        known: Mapping[Var, Any] | None = None,
        remembered: Mapping[int, Array] | None = None,
        as_inputs: bool = False,
    ) -> tuple[list[Any], list[Array]]:
        """Runs the equations.

        Args:
          args, known: as for `evaluate`.
          remembered: by index, t of activations from an earlier run on the same inputs, taken instead of computing them
            again; their derivative is still that of tanh at x, though x itself is not looked at.
          as_inputs: the remembered t are inputs like others: no derivative goes through their x.
        Returns:
          The outputs, and t of each activation.
        """
        by_x: dict[Var, Activation] = {activation.x: activation for activation in self.activations}
        earlier = {self.activations[i].x: t for i, t in (remembered or {}).items()}
        ts: dict[Var, Array] = {}
        values: dict[Var, Array] = {}

        def activate(x: Any, value: Array) -> None:
            if x in by_x and x not in ts:
                scaled = by_x[x].scaled(value)
                if x not in earlier:
                    ts[x] = jnp.tanh(scaled)
                else:
                    ts[x] = earlier[x] if as_inputs else _remember(scaled, earlier[x])
                values.update(by_x[x].values(ts[x]))

        def cut(eqn: JaxprEqn, inputs: list[Any]) -> Any:
            if isinstance(inputs[0], Blocks):
                return _parts(eqn, inputs[0])
            activate(eqn.invars[0], inputs[0])
            return eqn.primitive.bind(*inputs, **eqn.params)

        def bend(eqn: JaxprEqn, inputs: list[Any]) -> Array:
            if eqn.outvars[0] not in values:
                activate(eqn.invars[0], inputs[0])
            return values[eqn.outvars[0]] if eqn.outvars[0] in values else eqn.primitive.bind(*inputs, **eqn.params)

        rules = {"split": cut, "slice": cut, "logistic": bend, "tanh": bend}
        outputs = evaluate(self.closed, args, known, rules)
        outputs = [jnp.concatenate(v.parts, -1) if isinstance(v, Blocks) else v for v in outputs]
        return outputs, [ts[activation.x] for activation in self.activations]

    def remembers(self, inputs: Sequence[int]) -> tuple[int, ...] | None:
        """The activations whose t can be stored for the derivative in place of these inputs.

        That is so if the inputs do nothing but be added to something on their way into activations: neither values nor
        slopes then need them. None if they do more, as the GRU's do, whose reset gate multiplies one.
        """
        jaxpr = self.closed.jaxpr
        direct = {jaxpr.invars[i] for i in inputs}
        bent = {eqn.outvars[0] for activation in self.activations for eqn in activation.eqns}
        for eqn in jaxpr.eqns:
            if any(v in direct for v in eqn.invars if not isinstance(v, Literal)) and eqn.outvars[0] not in bent:
                if eqn.primitive.name not in _ADDITIVE:
                    return None
                direct.update(eqn.outvars)
        if any(v in direct for v in jaxpr.outvars if not isinstance(v, Literal)):
            return None
        return tuple(i for i, activation in enumerate(self.activations) if activation.x in direct)


_ADDITIVE = frozenset(["add", "sub", "neg", "split", "slice", "concatenate", "reshape", "squeeze", "broadcast_in_dim"])


@jax.custom_jvp
def _remember(x: Array, t: Array) -> Array:
    """tanh(x), known to be t."""
    return t


@_remember.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, t = primals
    t = _remember(x, t)
    return t, (1 - t * t) * tangents[0]


def _activations(jaxpr: Jaxpr) -> list[Activation]:
    """The σ and tanh of a gate; those of all blocks of one array are taken together."""
    users = _users(jaxpr)
    together: dict[Var, Activation] = {}
    for x in users:
        pieces = _tiles(jaxpr, x)
        if pieces is None or x in jaxpr.invars:
            continue
        after = [[] if piece.var in jaxpr.outvars else users.get(piece.var, []) for piece in pieces]
        if all(len(eqns) == 1 and _bends(eqns[0]) for eqns in after):
            widths = tuple(piece.stop - piece.start for piece in pieces)
            together[x] = Activation(x, tuple(eqns[0] for eqns in after), widths)
    taken = {eqn.outvars[0] for activation in together.values() for eqn in activation.eqns}
    for x, eqns in users.items():
        for eqn in eqns:
            if x not in together and _bends(eqn) and eqn.outvars[0] not in taken and aval(x).ndim:
                together[x] = Activation(x, (eqn,), (aval(x).shape[-1],))
    return list(together.values())


def _bends(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in ("logistic", "tanh")


def _parts(eqn: JaxprEqn, blocks: Blocks) -> Any:
    """What a `split` or `slice` of an array that was cut before gives."""
    edges = np.cumsum([0] + [part.shape[-1] for part in blocks.parts])
    by_start = dict(zip(edges, blocks.parts, strict=False))
    parts = [by_start[piece.start] for piece in _pieces(eqn) or ()]
    return parts if eqn.primitive.multiple_results else parts[0]


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
    return pieces if [p.start for p in pieces] == edges[:-1] and edges[-1] == aval(var).shape[-1] else None


def _pieces(eqn: JaxprEqn) -> list[Piece] | None:
    """What a `split` or `slice` along the last axis gives; None if it cuts another axis, or leaves elements out."""
    shape = aval(eqn.invars[0]).shape
    if eqn.primitive.name == "split":
        if eqn.params["axis"] != len(shape) - 1:
            return None
        edges = [0, *(int(edge) for edge in np.cumsum(eqn.params["sizes"]))]
        return [Piece(*piece) for piece in zip(edges[:-1], edges[1:], eqn.outvars, strict=True)]
    start, stop, strides = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    others = all(a == 0 and b == n for a, b, n in zip(start[:-1], stop[:-1], shape[:-1], strict=True))
    return [Piece(start[-1], stop[-1], eqn.outvars[0])] if others and strides is None else None


def whole(tree: PyTree) -> PyTree:
    """The shapes of `tree` before it was cut apart."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Blocks):
            return leaf
        width = sum(part.shape[-1] for part in leaf.parts)
        return jax.ShapeDtypeStruct((*leaf.parts[0].shape[:-1], width), leaf.parts[0].dtype)

    return jax.tree.map(one, tree, is_leaf=is_blocks)


def is_blocks(leaf: Any) -> bool:
    return isinstance(leaf, Blocks)
