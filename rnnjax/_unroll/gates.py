"""The sparsity of the gates' Jacobian, derived from the equations of a step.

Gates are elementwise in the hidden units: unit j of every output depends only on unit j of the inputs. An input may be
packed, with n concatenated blocks, like an LSTM's four pre-activations. So the Jacobian of an output with respect to
one block is diagonal, with one coefficient per unit, and its structure is given by the blocks that each output needs.

The outputs are the new carry, y, and the left operands of products that are computed in the step. An output from which
another is computed is a *cut*: the LSTM's h_t = σ(o) tanh(c_t) is a function of c_t, so h_t depends on i, f and g
through c_t, and seven diagonals suffice instead of eleven.

`read_gates` traces every element of a single row through the equations, and raises if a unit reads another unit.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from rnnjax._unroll.equations import ELEMENTWISE, Equation, Value, traced
from rnnjax._unroll.normal_form import bounds_of

if TYPE_CHECKING:
    from rnnjax._unroll.reading import Reading


class NotElementwise(ValueError):
    """The gates of a step have no diagonal Jacobian; the message says why."""


class Block(NamedTuple):
    """Units `[start, start + H)` of a leaf of the gates' inputs, where H is the width of the output that reads it."""

    kind: str  # "params", "carry", "u", "r", or "cut"
    leaf: int
    start: int


class GateStructure(NamedTuple):
    """The distinct outputs of the gates, in the order of computation, and the dependencies of each."""

    outs: tuple[Value, ...]
    widths: tuple[int, ...]
    carry_outs: tuple[int, ...]  # for each leaf of the new carry: which output it is
    y_outs: tuple[int, ...]  # for each leaf of y: which output it is
    lefts: tuple[tuple[str, int], ...]  # for each product, its left operand: ("carry", leaf) or ("out", output)
    needs: tuple[frozenset[Block], ...]  # for each output: the blocks it depends on, given the cuts before it
    shared: frozenset[str]  # the kinds with a block that several outputs need
    equations: tuple[Equation, ...]  # the gates', without the products

    @property
    def reads_params(self) -> bool:
        return any([block.kind == "params" for needed in self.needs for block in needed])

    @property
    def mixed(self) -> set[int]:
        """The leaves of the carry that are left operands of products."""
        return {leaf for kind, leaf in self.lefts if kind == "carry"}


def read_gates(reading: "Reading") -> GateStructure:
    """The structure of the gates, from one row's equations.

    Raises:
      NotElementwise: the gates are not elementwise, or a part of the carry is not a vector of floats.
    """
    products = {p.equation for p in reading.products}
    equations = [eqn for eqn in reading.inside if eqn not in products]
    sources: dict[Value, tuple[str, int]] = {}
    for kind, values in (
        ("params", [v for v in reading.fixed if v not in reading.constants]),
        ("carry", reading.carry),
        ("u", reading.us),
        ("r", [p.out for p in reading.products]),
    ):
        sources.update({v: (kind, i) for i, v in enumerate(values)})
    outputs = [*reading.carry_outs, *reading.y_outs]
    lefts = [p.left for p in reading.products if sources.get(p.left, ("",))[0] != "carry"]
    _check_vectors([*outputs, *lefts, *reading.carry, *[p.out for p in reading.products]])
    if not reading.carry or not reading.constants.isdisjoint(outputs):
        raise NotElementwise("it has no carry, or one of its outputs is a constant")

    position = dict.fromkeys(sources, 0)
    for at, eqn in enumerate(reading.inside, start=1):
        position.update(dict.fromkeys(eqn.outputs, at))
    outs = tuple(sorted(dict.fromkeys([*outputs, *lefts]), key=position.__getitem__))
    index = {v: k for k, v in enumerate(outs)}

    edges = _edges(equations, [v for v in sources if v not in reading.fixed])
    blocks: list[Block] = []
    followed: dict[Value, _Followed] = {}
    for v in reading.constants:
        followed[v] = _constant(v.shape)
    for v, (kind, leaf) in sources.items():
        followed[v] = _source(Block(kind, leaf, 0), v.shape, edges.get(v, ()), blocks)
    needs: dict[Value, frozenset[Block]] = {}

    def reach(v: Value) -> None:
        if v in index and v not in needs:
            followed[v].check_aligned(v.shape[0])
            needs[v] = followed[v].needs(blocks)
            if v not in sources:
                followed[v] = _source(Block("cut", index[v], 0), v.shape, edges.get(v, ()), blocks)

    for v in sources:
        reach(v)
    for eqn in equations:
        results = _follow(eqn, [followed[v] if v.constant is None else _constant(v.shape) for v in eqn.inputs])
        for v, result in zip(eqn.outputs, results, strict=True):
            followed[v] = result
            reach(v)
    ordered = tuple([needs[v] for v in outs])
    named = [block for needed in ordered for block in needed if block.kind != "params"]
    twice = {block.kind for block in set(named) if named.count(block) > 1}
    return GateStructure(
        outs=outs,
        widths=tuple([v.shape[0] for v in outs]),
        carry_outs=tuple([index[v] for v in reading.carry_outs]),
        y_outs=tuple([index[v] for v in reading.y_outs]),
        lefts=tuple([sources[p.left] if p.left not in lefts else ("out", index[p.left]) for p in reading.products]),
        needs=ordered,
        shared=frozenset(twice),
        equations=tuple(equations),
    )


def _check_vectors(values: Iterable[Value]) -> None:
    for v in values:
        if v.constant is not None:
            raise NotElementwise("one of its outputs is a constant")
        if len(v.shape) != 1 or not jnp.issubdtype(v.dtype, np.floating):
            raise NotElementwise(f"for one row it carries, multiplies or outputs {v}, which is not a vector of floats")


def _edges(equations: Sequence[Equation], inputs: Sequence[Value]) -> dict[Value, set[int]]:
    """The positions at which each vector is split into blocks, or concatenated from blocks, in any equation."""
    edges: dict[Value, set[int]] = {}

    def join(v: Value, more: set[int]) -> None:
        if more and len(v.shape) == 1:
            edges.setdefault(v, set()).update([e for e in more if 0 < e < v.shape[0]])

    for _ in range(2):  # the second forward pass uses what the backward pass found
        for order in (equations, equations[::-1]):
            for eqn in order:
                if not eqn.outputs or 1 not in [len(v.shape) for v in (*eqn.inputs, eqn.output)]:
                    continue
                if eqn.name in ("slice", "split"):
                    starts, sizes = bounds_of(eqn)
                    for start, size, out in zip(starts or (), sizes, eqn.outputs, strict=False):
                        join(eqn.inputs[0], {start, start + size, *[start + e for e in edges.get(out, ())]})
                        join(out, {e - start for e in edges.get(eqn.inputs[0], ())})
                elif eqn.name == "concatenate":
                    start = 0
                    for v in eqn.inputs:
                        join(eqn.output, {start, *[start + e for e in edges.get(v, ())]})
                        join(v, {e - start for e in edges.get(eqn.output, ())})
                        start += v.shape[0]
                else:
                    for v in eqn.inputs:  # [nH] as [n, H], or back
                        wide = v if len(v.shape) == 1 else eqn.output
                        narrow = eqn.output if wide is v else v
                        if eqn.name == "reshape" and len(narrow.shape) == 2:
                            join(wide, set(range(0, wide.shape[0], narrow.shape[1])))
                    alike = [v for v in (*eqn.inputs, *eqn.outputs) if v.shape == eqn.output.shape]
                    together = set().union(*[edges.get(v, ()) for v in alike])
                    for v in alike if together else ():
                        join(v, together)
    return edges


class _Followed(NamedTuple):
    """For each element of an array: the blocks on which it depends, as a bit mask, and its unit (-1: none)."""

    mask: np.ndarray
    unit: np.ndarray

    def needs(self, blocks: Sequence[Block]) -> frozenset[Block]:
        bits = int(np.bitwise_or.reduce(self.mask, axis=None))
        return frozenset([block for i, block in enumerate(blocks) if bits >> i & 1])

    def check_aligned(self, width: int) -> None:
        if np.any((self.unit >= 0) & (self.unit != np.arange(width))):
            raise NotElementwise("a unit of its output reads another unit of an input")


def _constant(shape: tuple[int, ...]) -> _Followed:
    return _Followed(np.zeros(shape, np.uint64), np.full(shape, -1))


def _source(first: Block, shape: tuple[int, ...], edges: Iterable[int], blocks: list[Block]) -> _Followed:
    """A new input: registers its blocks, and assigns every element to its block and unit."""
    starts = [0] if first.kind == "params" or len(shape) != 1 else [0, *sorted(edges)]
    if len(blocks) + len(starts) > 64:
        raise NotElementwise("its gates read more than 64 blocks of inputs")
    masks, units = [], []
    for start, stop in zip(starts, [*starts[1:], shape[0] if len(shape) == 1 else 1], strict=True):
        masks.append(np.full(stop - start, np.uint64(1 << len(blocks))))
        units.append(np.arange(stop - start))
        blocks.append(first._replace(start=start))
    if first.kind == "params":
        return _Followed(np.full(shape, masks[0][0] if masks[0].size else np.uint64(0)), np.full(shape, -1))
    if len(shape) != 1:
        raise NotElementwise(f"for one row its gates read {list(shape)}, which is not a vector")
    return _Followed(np.concatenate(masks), np.concatenate(units))


def _follow(eqn: Equation, values: list[_Followed]) -> list[_Followed]:
    """The dependencies of the elements of one equation's outputs."""
    name, params = eqn.name, eqn.params
    shapes = [v.shape for v in eqn.outputs]
    if name == "optimization_barrier":
        return values
    elementwise = name in ELEMENTWISE or name in ("scale", "shift")
    if elementwise and all([value.mask.shape in ((), shape) for value in values for shape in shapes]):
        if name.startswith("custom"):
            _check_inside(eqn)
        return [_combined(name, values, shape) for shape in shapes]
    if name == "slice":
        steps = params["strides"] or [1] * len(params["start_indices"])
        window = tuple(
            [slice(*bounds) for bounds in zip(params["start_indices"], params["limit_indices"], steps, strict=True)]
        )
        return [_each(lambda a: a[window], values[0])]
    if name == "split":
        bounds = np.cumsum(params["sizes"])[:-1]
        parts = zip(*[np.split(a, bounds, params["axis"]) for a in values[0]], strict=True)
        return [_Followed(*part) for part in parts]
    if name == "concatenate":
        axis = params["dimension"]
        return [_Followed(*[np.concatenate(arrays, axis) for arrays in zip(*values, strict=True)])]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [_each(lambda a: a.reshape(shapes[0]), values[0])]
    if name == "transpose":
        return [_each(lambda a: a.transpose(params["permutation"]), values[0])]
    if name == "broadcast_in_dim":
        inner = np.ones(len(shapes[0]), int)
        inner[list(params["broadcast_dimensions"])] = values[0].mask.shape
        return [_each(lambda a: np.broadcast_to(a.reshape(inner), shapes[0]), values[0])]
    raise NotElementwise(f"`{name}` in its step is not known to be elementwise in the hidden units")


def _each(function: Any, value: _Followed) -> _Followed:
    return _Followed(function(value.mask), function(value.unit))


def _combined(name: str, values: Sequence[_Followed], shape: tuple[int, ...]) -> _Followed:
    mask, unit = np.zeros(shape, np.uint64), np.full(shape, -1)
    for value in values:
        if np.any((unit >= 0) & (value.unit >= 0) & (unit != value.unit)):
            raise NotElementwise(f"`{name}` in its step brings different hidden units together")
        mask, unit = mask | value.mask, np.maximum(unit, value.unit)
    return _Followed(mask, unit)


def _check_inside(eqn: Equation) -> None:
    """A function with a custom derivative is elementwise if everything inside it is."""
    inner = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    if not isinstance(inner, ClosedJaxpr):
        raise NotElementwise(f"`{eqn.name}` in its step cannot be inspected")
    shape = eqn.output.shape
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inner.jaxpr.invars]
    program, *_ = traced(functools.partial(jax.core.eval_jaxpr, inner.jaxpr, inner.consts), *shapes)
    own_unit = np.arange(math.prod(shape)).reshape(shape)
    followed: dict[Value, _Followed] = {}
    for v in (*program.inputs, *program.closed_over):
        followed[v] = _Followed(np.ones(shape, np.uint64), own_unit) if v.shape == shape else _constant(v.shape)
    for inside in program.equations:
        values = [_constant(v.shape) if v.constant is not None else followed[v] for v in inside.inputs]
        followed.update(zip(inside.outputs, _follow(inside, values), strict=True))
