"""What a gate does with its inputs, read from its equations: the shape of its Jacobian.

A gate is pointwise in the hidden units: unit j of every output depends on unit j of the inputs alone. An input may be
packed, `[..., nH]`, n blocks of H side by side, as an LSTM's four pre-activations are. So the Jacobian of output k with
respect to one block is a diagonal, one coefficient a unit, and all there is to know before is which blocks it needs.

An output that another output is computed from is a *cut*: the LSTM's h_t = σ(o) tanh(c_t) is a function of c_t, so the
dependence of h_t on i, f and g goes through c_t, and seven diagonals do where eleven would be needed.

`read_gate` follows every element of a single row through the equations and says so where a unit reads another.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from rnnjax._unroll.tracing import aval, flat_jaxpr, reached
from rnnjax.cell import Cell, PyTree


class NotHoistable(ValueError):
    """Why this cell cannot be run by the `hoisted` engine."""


class Block(NamedTuple):
    """Units `[index * H, (index + 1) * H)` of one leaf of one of the gate's inputs."""

    kind: str  # "params", "carry", "u", "r", or "cut"
    leaf: int
    index: int


class GateStructure(NamedTuple):
    """The distinct outputs of a gate, in the order in which they are computed, and what each depends on."""

    width: int  # H
    carry_outs: tuple[int, ...]  # for each leaf of the new carry: which output it is
    y_outs: tuple[int, ...]  # for each leaf of y: which output it is
    needs: tuple[frozenset[Block], ...]  # for each output: the blocks it depends on, given the cuts before it
    shared: bool  # some block is needed by more than one output


class TracedGate(NamedTuple):
    """A gate's equations at some leading axes; the inputs are the leaves of (params, carry, u, r), in that order."""

    closed: ClosedJaxpr
    outs: tuple[Var, ...]  # the distinct outputs, in the order in which they are computed


def trace_gate(cell: Cell, params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> TracedGate:
    closed = flat_jaxpr(cell.gate, params, carry, u, r)
    jaxpr = closed.jaxpr
    if any(isinstance(v, Literal) for v in jaxpr.outvars):
        raise NotHoistable(f'{cell!r} has a gate with a constant output; use engine="scan".')
    order = dict.fromkeys((*jaxpr.constvars, *jaxpr.invars), 0)
    for position, eqn in enumerate(jaxpr.eqns, start=1):
        order.update(dict.fromkeys(eqn.outvars, position))
    return TracedGate(closed, tuple(sorted(dict.fromkeys(jaxpr.outvars), key=order.__getitem__)))


def read_gate(cell: Cell, params: PyTree, carry: PyTree, u: PyTree, r: PyTree) -> GateStructure:
    """The structure of `cell.gate` from one row's shapes: leaves of carry `[H]`, of u and r `[nH]`.

    Raises:
      NotHoistable: the gate is not pointwise, or a carry is not a vector of H floats.
    """
    closed, outs = trace_gate(cell, params, carry, u, r)
    jaxpr = closed.jaxpr
    n_carry = len(jax.tree.leaves(carry))
    width = _width(cell, [v.aval for v in jaxpr.outvars], [v.aval for v in jaxpr.outvars[:n_carry]])

    blocks: list[Block] = []
    followed: dict[Var, _Followed] = {}
    invars = iter(jaxpr.invars)
    for kind, tree in (("params", params), ("carry", carry), ("u", u), ("r", r)):
        for leaf in range(len(jax.tree.leaves(tree))):
            var = next(invars)
            followed[var] = _source(cell, Block(kind, leaf, 0), var.aval.shape, width, blocks)
    for var in jaxpr.constvars:
        followed[var] = _Followed.constant(var.aval.shape)

    carried = reached(closed, range(len(jax.tree.leaves(params)), len(jaxpr.invars)))
    needs: dict[Var, frozenset[Block]] = {v: followed[v].needs(blocks) for v in outs if v in followed}
    for eqn in jaxpr.eqns:
        values = [_Followed.constant(()) if isinstance(v, Literal) else followed[v] for v in eqn.invars]
        if any(v in carried for v in eqn.outvars):
            results = _follow(cell, eqn, values)
        else:  # parameters alone: any function of them will do
            results = [_Followed.merged(values, v.aval.shape) for v in eqn.outvars]
        for var, result in zip(eqn.outvars, results, strict=True):
            followed[var] = result
            if var in outs:
                result.check_aligned(cell, width)
                needs[var] = result.needs(blocks)
                followed[var] = _source(cell, Block("cut", outs.index(var), 0), var.aval.shape, width, blocks)
    ordered = tuple(needs[v] for v in outs)
    named = [block for needed in ordered for block in needed if block.kind != "params"]
    positions = [outs.index(v) for v in jaxpr.outvars]
    return GateStructure(
        width=width,
        carry_outs=tuple(positions[:n_carry]),
        y_outs=tuple(positions[n_carry:]),
        needs=ordered,
        shared=len(named) != len(set(named)),
    )


def _width(cell: Cell, outputs: Sequence[Any], carries: Sequence[Any]) -> int:
    if not carries:
        raise NotHoistable(f'{cell!r} has no carry; use engine="scan".')
    for out in outputs:
        if len(out.shape) != 1 or out.shape != carries[0].shape or not jnp.issubdtype(out.dtype, np.floating):
            raise NotHoistable(
                f"{cell!r} has a gate that gives {out.str_short()} for one row; the hoisted engine needs every leaf "
                f"of the carry and of y to be a float vector of the same width [H], here {carries[0].str_short()}; "
                'use engine="scan".'
            )
    return carries[0].shape[0]


class _Followed(NamedTuple):
    """For each element of an array: which blocks it depends on, as a bit mask, and as which unit (-1: as none)."""

    mask: np.ndarray
    unit: np.ndarray

    @classmethod
    def constant(cls, shape: tuple[int, ...]) -> "_Followed":
        return cls(np.zeros(shape, np.uint64), np.full(shape, -1))

    @classmethod
    def merged(cls, values: Sequence["_Followed"], shape: tuple[int, ...]) -> "_Followed":
        everything = np.uint64(0)
        for value in values:
            everything |= np.bitwise_or.reduce(value.mask, axis=None)
        return cls(np.full(shape, everything), np.full(shape, -1))

    def needs(self, blocks: Sequence[Block]) -> frozenset[Block]:
        bits = int(np.bitwise_or.reduce(self.mask, axis=None))
        return frozenset(block for i, block in enumerate(blocks) if bits >> i & 1)

    def check_aligned(self, cell: Cell, width: int) -> None:
        if np.any((self.unit >= 0) & (self.unit != np.arange(width))):
            raise NotHoistable(
                f"{cell!r} has a gate in which a unit of the output reads another unit of the input; the hoisted "
                'engine needs a pointwise gate: move what mixes units into `mix`, or use engine="scan".'
            )


def _source(cell: Cell, first: Block, shape: tuple[int, ...], width: int, blocks: list[Block]) -> _Followed:
    """A new input: its blocks are registered, and every element knows its own."""
    if first.kind == "params":
        return _Followed(np.full(shape, np.uint64(1 << _register(cell, first, blocks))), np.full(shape, -1))
    if len(shape) != 1 or shape[0] % width:
        raise NotHoistable(
            f"{cell!r} has a gate that reads a {first.kind} of shape {list(shape)} for one row; the hoisted engine "
            f'needs [n * H] with H = {width}, n blocks side by side; use engine="scan".'
        )
    bits = [1 << _register(cell, first._replace(index=i), blocks) for i in range(shape[0] // width)]
    return _Followed(np.repeat(np.array(bits, np.uint64), width), np.tile(np.arange(width), len(bits)))


def _register(cell: Cell, block: Block, blocks: list[Block]) -> int:
    if len(blocks) == 64:
        raise NotHoistable(f'{cell!r} has a gate of more than 64 inputs of width H; use engine="scan".')
    blocks.append(block)
    return len(blocks) - 1


_ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    custom_jvp_call digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log
    log1p logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh
    sqrt square stop_gradient sub tan tanh xor
"""
POINTWISE = frozenset(_ELEMENTWISE.split())
"""Primitives that act on every element alone."""


def _follow(cell: Cell, eqn: JaxprEqn, values: list[_Followed]) -> list[_Followed]:
    """Where the elements of one equation's outputs come from."""
    name, params = eqn.primitive.name, eqn.params
    shapes = [aval(v).shape for v in eqn.outvars]
    if name == "optimization_barrier":
        return values
    if name.startswith("custom_vjp"):
        raise NotHoistable(
            f"{cell!r} has a gate with a backward pass of its own (`jax.custom_vjp`), which need not be linear, as "
            'one that clips is not; the hoisted engine needs slopes. Use engine="scan".'
        )
    if name in POINTWISE and all(value.mask.shape in ((), shape) for value in values for shape in shapes):
        if name.startswith("custom"):
            _check_inside(cell, eqn)
        return [_combined(cell, name, values, shape) for shape in shapes]
    if name == "slice":
        steps = params["strides"] or [1] * len(params["start_indices"])
        window = tuple(map(slice, params["start_indices"], params["limit_indices"], steps))
        return [_each(lambda a: a[window], values[0])]
    if name == "split":
        bounds = np.cumsum(params["sizes"])[:-1]
        parts = zip(*(np.split(a, bounds, params["axis"]) for a in values[0]), strict=True)
        return [_Followed(*part) for part in parts]
    if name == "concatenate":
        axis = params["dimension"]
        return [_Followed(*(np.concatenate(arrays, axis) for arrays in zip(*values, strict=True)))]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [_each(lambda a: a.reshape(shapes[0]), values[0])]
    if name == "transpose":
        return [_each(lambda a: a.transpose(params["permutation"]), values[0])]
    if name == "broadcast_in_dim":
        inner = np.ones(len(shapes[0]), int)
        inner[list(params["broadcast_dimensions"])] = values[0].mask.shape
        return [_each(lambda a: np.broadcast_to(a.reshape(inner), shapes[0]), values[0])]
    raise NotHoistable(
        f"{cell!r} has a gate with `{name}` in it, which is not known to be pointwise in the hidden units; the hoisted "
        'engine needs all matmuls in `project` and `mix`. Move it there, or use engine="scan".'
    )


def _each(function: Any, value: _Followed) -> _Followed:
    return _Followed(function(value.mask), function(value.unit))


def _combined(cell: Cell, name: str, values: Sequence[_Followed], shape: tuple[int, ...]) -> _Followed:
    mask, unit = np.zeros(shape, np.uint64), np.full(shape, -1)
    for value in values:
        if np.any((unit >= 0) & (value.unit >= 0) & (unit != value.unit)):
            raise NotHoistable(
                f"{cell!r} has a gate whose `{name}` brings different hidden units together; the hoisted engine needs "
                'a pointwise gate: move what mixes units into `mix`, or use engine="scan".'
            )
        mask, unit = mask | value.mask, np.maximum(unit, value.unit)
    return _Followed(mask, unit)


def _check_inside(cell: Cell, eqn: JaxprEqn) -> None:
    """A function with a derivative of its own is pointwise if everything inside it is."""
    inner = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    if not isinstance(inner, ClosedJaxpr):
        raise NotHoistable(
            f'{cell!r} has a gate with `{eqn.primitive.name}` that cannot be looked into; use engine="scan".'
        )
    shape = aval(eqn.outvars[0]).shape
    own_unit = np.arange(math.prod(shape)).reshape(shape)
    flat = flat_jaxpr(jaxpr_as_fun(inner), *(v.aval for v in inner.jaxpr.invars))
    followed: dict[Var, _Followed] = {}
    for v in (*flat.jaxpr.constvars, *flat.jaxpr.invars):
        followed[v] = _Followed.constant(v.aval.shape)
        if v.aval.shape == shape:
            followed[v] = _Followed(np.ones(shape, np.uint64), own_unit)
    for inner_eqn in flat.jaxpr.eqns:
        values = [_Followed.constant(()) if isinstance(v, Literal) else followed[v] for v in inner_eqn.invars]
        followed.update(zip(inner_eqn.outvars, _follow(cell, inner_eqn, values), strict=True))
