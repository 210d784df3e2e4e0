"""The diagonals of a gate's Jacobian for all of time, and their product with a tangent.

A gate is pointwise, so the Jacobian of an output with respect to a block of an input is a diagonal, and a VJP with ones
for cotangents returns it: diag(s)ᵀ 1 = s. It comes back packed like the input, `[T, *rows, nH]`. As long as no block is
read by two outputs, one VJP with ones for all outputs together gives every diagonal there is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax._unroll.masking import select
from rnnjax._unroll.packing import PackedGate, is_blocks, whole
from rnnjax._unroll.pointwise import Block, GateStructure, trace_gate
from rnnjax.cell import Cell, PyTree

Leaves = list[Any]
"""The leaves of a tree, `None` where there is nothing to say."""


class Slopes(NamedTuple):
    """∂output/∂input, one array for each leaf of an input; `None` for a leaf that no output reads."""

    carry: Leaves
    u: Leaves
    r: Leaves
    cut: Leaves  # for each output: what later outputs make of it


class GateAtAllSteps:
    """A cell's gate over all of time or at one step, with its distinct outputs in the order of `GateStructure`."""

    def __init__(
        self,
        cell: Cell,
        structure: GateStructure,
        params: PyTree,
        carry: PyTree,
        u: PyTree,
        r: PyTree,
        remembered: Mapping[int, Array],
    ):
        """`carry` is carry_{t-1}, after a reset; leaves are `[T, *rows, ...]`; `remembered` as in `PackedGate`.

        u may hold `Blocks`, and T be left out: then it is the gate at one step.
        """
        self.structure = structure
        closed, self.outs = trace_gate(cell, params, carry, whole(u), r)
        self.gate = PackedGate(closed)
        self.remembered = remembered
        self.inputs = [params, carry, u, r]
        self.cuts = sorted({block.leaf for needed in structure.needs for block in needed if block.kind == "cut"})

    def outputs(self, inputs: Sequence[PyTree], known: Mapping[int, Any], as_inputs: bool = False) -> Leaves:
        """The distinct outputs; where others read one of them, they read the value that is `known` by its index."""
        named = {self.outs[k]: value for k, value in known.items()}
        values, _ = self.gate(jax.tree.leaves(inputs, is_leaf=is_blocks), named, self.remembered, as_inputs)
        by_var = dict(zip(self.gate.closed.jaxpr.outvars, values, strict=True))
        return [by_var[v] for v in self.outs]

    def slopes(self, outputs: Leaves) -> list[Slopes]:
        """One `Slopes` for all outputs, or one for each where two of them read the same block."""
        params, *rest = self.inputs
        cuts = {k: outputs[k] for k in self.cuts}
        _, pull = jax.vjp(lambda rest, cuts: self.outputs([params, *rest], cuts), rest, cuts)
        ones = [jnp.ones_like(out) for out in outputs]
        if not self.structure.shared:
            return [self._slopes(pull(ones), frozenset().union(*self.structure.needs))]
        zeros = [jnp.zeros_like(out) for out in outputs]
        return [
            self._slopes(pull([*zeros[:k], ones[k], *zeros[k + 1 :]]), needed)
            for k, needed in enumerate(self.structure.needs)
        ]

    def _slopes(self, pulled: tuple[Any, ...], needed: frozenset[Block]) -> Slopes:
        rest, cuts = pulled
        read = {(block.kind, block.leaf) for block in needed}

        def kept(kind: str, leaves: Leaves) -> Leaves:
            return [leaf if (kind, i) in read else None for i, leaf in enumerate(leaves)]

        carry, u, r = (jax.tree.leaves(tree, is_leaf=is_blocks) for tree in rest)
        u = [jnp.concatenate(leaf.parts, -1) if is_blocks(leaf) else leaf for leaf in u]
        by_output = [cuts.get(k) for k in range(len(self.structure.needs))]
        return Slopes(kept("carry", carry), kept("u", u), kept("r", r), kept("cut", by_output))

    def through_params(self, outputs: Leaves, dparams: PyTree) -> Leaves:
        """∂output/∂params dparams, the rest held; `None` where no output reads the parameters."""
        if not any(block.kind == "params" for needed in self.structure.needs for block in needed):
            return [None] * len(outputs)
        params, *rest = self.inputs
        cuts = {k: outputs[k] for k in self.cuts}
        return jax.jvp(lambda p: self.outputs([p, *rest], cuts), (params,), (dparams,))[1]


def counted(structure: GateStructure, slopes: list[Slopes], counts: Array | None, resets: Array | None) -> list[Slopes]:
    """Writes hidden steps into the slopes: zeros, and a one that holds the carry where it has a slope of its own."""
    if counts is None:
        return slopes
    masked: dict[int, Array] = {}

    def where_counted(slope: Array) -> Array:
        if id(slope) not in masked:  # what u and r share stays shared
            masked[id(slope)] = select(counts, slope, jnp.zeros_like(slope))
        return masked[id(slope)]

    slopes = [jax.tree.map(where_counted, group) for group in slopes]
    stays = held(counts, resets)
    for leaf in range(len(structure.carry_outs)):
        if carry_has_slope(structure, leaf):
            own = slopes[0].carry[leaf]
            slopes[0].carry[leaf] = own + stays.astype(own.dtype)
    return slopes


def held(counts: Array, resets: Array | None) -> Array:
    """Where the carry stays as it is, `[..., 1]`: neither counted nor reset."""
    return (~counts if resets is None else ~(counts | resets))[..., None]


def carry_has_slope(structure: GateStructure, leaf: int) -> bool:
    """Whether a leaf of the new carry has a slope with respect to its own predecessor that nobody else reads."""
    return not structure.shared and Block("carry", leaf, 0) in structure.needs[structure.carry_outs[leaf]]


def times(
    structure: GateStructure,
    slopes: Sequence[Slopes],
    *,
    carry: Leaves | None = None,
    u: Leaves | None = None,
    r: Leaves | None = None,
    drive: Leaves | None = None,
    cut: bool = False,
) -> Leaves:
    """The tangent of every output: drive + Σ slope × tangent over the blocks that it needs.

    Args:
      carry, u, r: tangents of the inputs' leaves, or `None` where they are zero.
      drive: a first summand for each output.
      cut: an output's tangent also enters those that are computed from it.
    """
    given = {"carry": carry, "u": u, "r": r}
    products: dict[tuple[int, str, int], Array] = {}

    def product(group: int, kind: str, leaf: int, tangent: Array) -> Array:
        if (group, kind, leaf) not in products:
            products[group, kind, leaf] = getattr(slopes[group], kind)[leaf] * tangent
        return products[group, kind, leaf]

    totals: Leaves = []
    for k, needed in enumerate(structure.needs):
        total = None if drive is None else drive[k]
        for kind, leaf in sorted({(block.kind, block.leaf) for block in needed}):
            source = (totals if cut else None) if kind == "cut" else given.get(kind)
            if source is None or source[leaf] is None:
                continue
            packed = product(k if structure.shared else 0, kind, leaf, source[leaf])
            blocks = [block.index for block in needed if block.kind == kind and block.leaf == leaf]
            total = sum_of(total, _sum_of_blocks(packed, blocks, structure.width))
        totals.append(total)
    return totals


def _sum_of_blocks(packed: Array, blocks: list[int], width: int) -> Array:
    """Adds up some of the blocks of `[..., nH]`, to `[..., H]`.

    Written as a sum over a block axis rather than of slices, since its transpose, the one thing that the backward loop
    does with it, is then a broadcast and joins the kernel around it; that of slices is a concatenation.
    """
    n = packed.shape[-1] // width
    if n == 1:
        return packed
    by_block = packed.reshape(*packed.shape[:-1], n, width)
    if len(blocks) < n:
        by_block = by_block * np.isin(np.arange(n), blocks).astype(packed.dtype)[:, None]
    return by_block.sum(-2)


def sum_of(a: Any, b: Any) -> Any:
    """a + b, where `None` is zero."""
    return b if a is None else a if b is None else a + b
