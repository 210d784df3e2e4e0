"""The diagonals of the gates' Jacobian for all of time, and their product with a tangent.

Gates are elementwise, so the Jacobian of an output with respect to a block of an input is diagonal, and a VJP with
cotangents of ones returns it: diag(s)ᵀ 1 = s. The result is packed like the input, `[T, *rows, nH]`. If no block is
read by two outputs, a single VJP with ones for all outputs gives every diagonal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax._unroll.arguments import select
from rnnjax._unroll.equations import evaluate
from rnnjax._unroll.gates import Block, GateStructure
from rnnjax._unroll.reading import Reading

Leaves = list[Any]
"""The leaves of a tree, `None` where there is nothing to say."""


class Diagonals(NamedTuple):
    """∂output/∂input, one array for each leaf of an input; `None` for a leaf that no output reads."""

    carry: Leaves
    u: Leaves
    r: Leaves
    cut: Leaves  # for each output: the slope of later outputs with respect to it


class Gates:
    """The gates, over all of time or at one step: computes their distinct outputs from their inputs."""

    def __init__(
        self,
        reading: Reading,
        structure: GateStructure,
        fixed: list[Array],
        carry: list[Array],
        us: list[Array],
        rs: list[Array],
        ts: Mapping[int, Array],
        axes: int,
    ):
        """Args:
        carry: carry_{t-1}, after a reset; `[T, *rows, ...]`, or without T at one step.
        us, rs: the values computed from the input, and the results of the products.
        ts: by index, stored tanh values of an earlier run on the same inputs, which are not recomputed; their
          derivative is that of tanh, computed from these values.
        axes: the number of axes before those of one row.
        """
        self.reading, self.structure, self.fixed, self.axes = reading, structure, fixed, axes
        self.inputs = (carry, us, rs)
        self.ts = dict(ts)
        self.cuts = sorted({block.leaf for needed in structure.needs for block in needed if block.kind == "cut"})

    def outputs(self, known: Mapping[int, Any], as_inputs: bool = False) -> Leaves:
        """The distinct outputs. Outputs that read another output use its value in `known`, by index.

        Args:
          as_inputs: treat the stored tanh values as inputs, without a derivative through them.
        """
        return self._run(self.fixed, self.inputs, dict(known), as_inputs)

    def products(self) -> Leaves:
        """Recomputes the results of the products."""
        return self._run(self.fixed, self.inputs, {}, as_inputs=False, products=True)

    def _run(
        self,
        fixed: list[Array],
        inputs: tuple[Leaves, Leaves, Leaves],
        known: dict[int, Any],
        as_inputs: bool = False,
        products: bool = False,
    ) -> Leaves:
        reading, outs = self.reading, self.structure.outs
        equations, wanted = self.structure.equations, outs
        if products:
            equations, wanted = reading.inside, [p.out for p in reading.products]

        def one(fixed: list[Any], rows: Any) -> list[Any]:
            (carry, us, rs), known, ts = rows
            env = dict(zip(reading.fixed, fixed, strict=True))
            env.update(zip(reading.carry, carry, strict=True))
            env.update(zip(reading.us, us, strict=True))
            if not products:
                env.update([(p.out, r) for p, r in zip(reading.products, rs, strict=True)])
            rules: dict[Any, Callable[..., Any]] = {}
            for i, t in ts.items():
                if as_inputs:
                    env[reading.activations[i].t] = t
                else:
                    rules[reading.activations[i].t] = lambda x, t=t: _tanh_known(x, t)
            evaluate(equations, env, instead={outs[k]: v for k, v in known.items()}, rules=rules)
            return [env[v] for v in wanted]

        for _ in range(self.axes):
            one = jax.vmap(one, in_axes=(None, 0))
        return one(fixed, (inputs, known, self.ts))

    def slopes(self, outputs: Leaves) -> list[Diagonals]:
        """One `Diagonals` for all outputs, or one for each output if two of them read the same block.

        In the latter case, the kinds of input that are not shared are all in the first.
        """
        cuts = {k: outputs[k] for k in self.cuts}
        _, pull = jax.vjp(lambda inputs, cuts: self._run(self.fixed, inputs, cuts), self.inputs, cuts)
        ones = [jnp.ones_like(out) for out in outputs]
        together = self._diagonals(pull(ones), frozenset().union(*self.structure.needs))
        shared = self.structure.shared
        if not shared:
            return [together]
        zeros = [jnp.zeros_like(out) for out in outputs]
        found = []
        for k, needed in enumerate(self.structure.needs):
            own = self._diagonals(pull([*zeros[:k], ones[k], *zeros[k + 1 :]]), needed)
            rest = together if k == 0 else Diagonals(*[[None] * len(leaves) for leaves in together])
            found.append(rest._replace(**{kind: getattr(own, kind) for kind in shared}))
        return found

    def _diagonals(self, pulled: Any, needed: frozenset[Block]) -> Diagonals:
        (carry, us, rs), cuts = pulled
        read = {(block.kind, block.leaf) for block in needed}

        def kept(kind: str, leaves: Leaves) -> Leaves:
            return [leaf if (kind, i) in read else None for i, leaf in enumerate(leaves)]

        by_output = [cuts.get(k) for k in range(len(self.structure.needs))]
        return Diagonals(kept("carry", carry), kept("u", us), kept("r", rs), kept("cut", by_output))

    def through_params(self, outputs: Leaves, dfixed: list[Array]) -> Leaves:
        """∂output/∂params dparams, with the rest constant."""
        cuts = {k: outputs[k] for k in self.cuts}
        return jax.jvp(lambda fixed: self._run(fixed, self.inputs, cuts), (self.fixed,), (dfixed,))[1]


@jax.custom_jvp
def _tanh_known(x: Array, t: Array) -> Array:
    """tanh(x), whose value is known to be t."""
    return t


@_tanh_known.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, t = primals
    t = _tanh_known(x, t)
    return t, (1 - t * t) * tangents[0]


def counted(
    structure: GateStructure, slopes: list[Diagonals], counts: Array | None, resets: Array | None
) -> list[Diagonals]:
    """Applies masking to the slopes: zeros, and a one that keeps the carry if the carry has its own slope."""
    if counts is None:
        return slopes
    masked: dict[int, Array] = {}

    def where_counted(slope: Array) -> Array:
        if id(slope) not in masked:  # an array shared by u and r stays shared
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
    """Where the carry does not change, `[..., 1]`: masked and not reset."""
    return (~counts if resets is None else ~(counts | resets))[..., None]


def carry_has_slope(structure: GateStructure, leaf: int) -> bool:
    """Whether a leaf of the new carry has a slope with respect to its previous value, which no other output reads."""
    return "carry" not in structure.shared and Block("carry", leaf, 0) in structure.needs[structure.carry_outs[leaf]]


def times(
    structure: GateStructure,
    slopes: Sequence[Diagonals],
    *,
    carry: Leaves | None = None,
    u: Leaves | None = None,
    r: Callable[[int, Leaves], Any] | Leaves | None = None,
    drive: Leaves | None = None,
    cut: bool = False,
) -> Leaves:
    """The tangent of every output: drive + Σ slope × tangent over the blocks that it needs.

    Args:
      carry, u, r: tangents of the inputs' leaves, or `None` if zero; r may be a function of the leaf and of the
        outputs' tangents so far, since a product may multiply an output.
      drive: an initial summand for each output.
      cut: whether an output's tangent also enters outputs that are computed from it.
    """
    given = {"carry": carry, "u": u, "r": r if not callable(r) else None}
    products: dict[tuple[int, str, int], Array] = {}
    totals: Leaves = []

    def tangent_of(kind: str, leaf: int) -> Any:
        if kind == "cut":
            return totals[leaf] if cut else None
        if kind == "r" and callable(r):
            return r(leaf, totals)
        leaves = given.get(kind)
        return None if leaves is None else leaves[leaf]

    for k, needed in enumerate(structure.needs):
        total = None if drive is None else drive[k]
        for kind, leaf in sorted({(block.kind, block.leaf) for block in needed}):
            tangent = None if kind == "params" else tangent_of(kind, leaf)
            if tangent is None:
                continue
            group = k if kind in structure.shared else 0
            if (group, kind, leaf) not in products:
                products[group, kind, leaf] = getattr(slopes[group], kind)[leaf] * tangent
            starts = sorted([block.start for block in needed if block.kind == kind and block.leaf == leaf])
            total = sum_of(total, _sum_of_blocks(products[group, kind, leaf], starts, structure.widths[k]))
        totals.append(total)
    return totals


def _sum_of_blocks(packed: Array, starts: list[int], width: int) -> Array:
    """Sums some of the blocks of `[..., nH]`, to `[..., H]`.

    It is written as a sum over a block axis because the backward loop uses its transpose, which is then a broadcast
    that fuses with its neighbours. The transpose of slices would be a concatenation.
    """
    size = packed.shape[-1]
    if size == width:
        return packed
    if size % width or any([start % width for start in starts]):
        return sum([packed[..., start : start + width] for start in starts[1:]], packed[..., starts[0] :][..., :width])
    n, blocks = size // width, [start // width for start in starts]
    by_block = packed.reshape(*packed.shape[:-1], n, width)
    if len(blocks) < n:
        chosen = np.isin(np.arange(n), blocks).astype(packed.dtype)[:, None]
        by_block = by_block * jnp.broadcast_to(chosen, by_block.shape)
    return by_block.sum(-2)


def sum_of(a: Any, b: Any) -> Any:
    """a + b, where `None` is zero."""
    return b if a is None else a if b is None else a + b
