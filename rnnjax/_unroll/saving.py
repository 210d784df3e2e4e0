"""The time loop of the `hoisted` engine, for the values alone, and with all that the derivative is built from."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.masking import StepInput, select, timed_step
from rnnjax._unroll.mixing import mixed_leaves
from rnnjax._unroll.packing import cut_apart, is_blocks, packed_gate
from rnnjax._unroll.pointwise import GateStructure
from rnnjax._unroll.projecting import ProjectRest, project_ahead
from rnnjax._unroll.slopes import GateAtAllSteps, Slopes, counted
from rnnjax.cell import Cell, PyTree


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of one layer before any array is.

    Attributes:
      structure, y_tree: what the gate depends on; how y is put together.
      rows: the batch shape, one axis or none.
      widths: for each leaf of u, the blocks that the gate cuts it into, if it does nothing else with it.
      remembers: the derivative can do with the activations in place of r.
      slopes_in_loop: the saving run computes the slopes of a step right after it, while its arrays are in cache.
    """

    cell: Cell
    structure: GateStructure
    y_tree: Any
    rows: tuple[int, ...]
    reverse: bool
    unroll: int
    widths: tuple[tuple[int, ...] | None, ...]
    remembers: bool
    slopes_in_loop: bool

    @property
    def read_by_y(self) -> list[int]:
        """The gate's distinct outputs that y has."""
        return sorted(set(self.structure.y_outs))

    def scan(self, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
        return lax.scan(step, carry, inputs, reverse=self.reverse, unroll=self.unroll)

    def project(self, params: PyTree, xs: Array) -> PyTree:
        """u for all steps of all rows, `[T, *rows, ...]`, with one axis for them in the matmul."""
        us = self.cell.project(params, xs.reshape(-1, xs.shape[-1]))
        return jax.tree.map(lambda u: u.reshape(*xs.shape[:-1], *u.shape[1:]), us)


class Primal(NamedTuple):
    """A run of the recurrence, from which its derivative is built; arrays are `[T, *rows, ...]`."""

    params: PyTree
    first: PyTree  # carry_0, `[*rows, H]`
    previous: PyTree  # carry_{t-1}, after a reset; zeros for leaves that nobody reads
    outputs: dict[int, Array]  # the distinct outputs of the gate, those that y has among them
    slopes: list[Slopes]  # hidden steps are written into them
    gate: GateAtAllSteps | None  # None where the slopes were computed in the loop
    counts: Array | None  # [T, *rows]
    resets: Array | None  # [T, *rows]


def plain_run(layer: Layer, params: PyTree, xs: Array, carry: PyTree, counts: Array | None, resets: Array | None):
    """`(carry_T, ys)`."""
    pieces, rest = _projected_ahead(layer, params, xs)
    projected: Any = _Projected(layer, rest)  # `timed_step` uses no more of a cell than this has
    if counts is None:
        step = timed_step(projected, params, layer.rows)
        return layer.scan(step, carry, StepInput(pieces, counts, resets))
    in_carry = {out: leaf for leaf, out in enumerate(layer.structure.carry_outs)}

    def step_held(carry: PyTree, inputs: StepInput):
        """The outputs of hidden steps are made zero after the loop: that is one kernel a step less, and one in all."""
        if inputs.resets is not None:
            carry = select(inputs.resets, layer.cell.initial_carry(params, layer.rows), carry)
        new, y = projected.step(params, carry, inputs.x)
        held = select(jnp.asarray(inputs.counts), new, carry)
        leaves, outs = jax.tree.leaves(held), layer.structure.y_outs
        ys = [
            leaves[in_carry[out]] if out in in_carry else leaf
            for leaf, out in zip(jax.tree.leaves(y), outs, strict=True)
        ]
        return held, jax.tree.unflatten(layer.y_tree, ys)

    last, ys = layer.scan(step_held, carry, StepInput(pieces, counts, resets))
    return last, select(counts, ys, jax.tree.map(jnp.zeros_like, ys))


def saving_run(
    layer: Layer, params: PyTree, xs: Array, carry: PyTree, counts: Array | None, resets: Array | None
) -> tuple[PyTree, Primal]:
    """`(carry_T, primal)`."""
    run = _run_with_slopes if layer.slopes_in_loop else _run_then_slopes
    return run(layer, params, xs, carry, counts, resets)


def _run_with_slopes(
    layer: Layer, params: PyTree, xs: Array, carry: PyTree, counts: Array | None, resets: Array | None
) -> tuple[PyTree, Primal]:
    """Every step leaves its slopes and what `mix` and y read; the passes over memory of `_run_then_slopes` are saved.

    The loop has more kernels a step. Where a step is large that is cheaper than to read its arrays again later.
    """
    structure, tree = layer.structure, jax.tree.structure(carry)
    pieces, rest = _projected_ahead(layer, params, xs)
    read = mixed_leaves(layer.cell, params, carry)
    kept = read | {leaf for leaf, out in enumerate(structure.carry_outs) if out in structure.y_outs}
    elsewhere = [out for out in layer.read_by_y if out not in structure.carry_outs]
    alike: list[set[int]] = []  # for each group of slopes: the leaves of u that have the slope of r's

    # Stored as [..., n, H], so that XLA does not start this loop and the one that runs backwards from one array of
    # zeros, of which it would make a copy.
    def split(slope: Array) -> Array:
        return slope.reshape(*slope.shape[:-1], -1, structure.width)

    def joined(slope: Array) -> Array:
        return slope.reshape(*slope.shape[:-2], -1)

    def saving(carry: PyTree, inputs: StepInput):
        if inputs.resets is not None:
            carry = select(inputs.resets, layer.cell.initial_carry(params, layer.rows), carry)
        u, r = rest(inputs.x), layer.cell.mix(params, carry)
        gate = GateAtAllSteps(layer.cell, structure, params, carry, u, r, {})
        outputs = gate.outputs(gate.inputs, {})
        slopes = counted(structure, gate.slopes(outputs), inputs.counts, inputs.resets)
        alike[:] = [{i for i, (a, b) in enumerate(zip(s.u, s.r, strict=False)) if a is b} for s in slopes]
        slopes = jax.tree.map(split, [_without(s, same) for s, same in zip(slopes, alike, strict=True)])
        new = jax.tree.unflatten(tree, [outputs[out] for out in structure.carry_outs])
        new = new if inputs.counts is None else select(inputs.counts, new, carry)
        leaves = jax.tree.leaves(new)
        return new, ({leaf: leaves[leaf] for leaf in kept}, {out: outputs[out] for out in elsewhere}, slopes)

    last, (stored, outputs, slopes) = layer.scan(saving, carry, StepInput(pieces, counts, resets))
    slopes = [_with(s, same) for s, same in zip(jax.tree.map(joined, slopes), alike, strict=True)]
    steps = xs.shape[0]
    carries = [
        stored[i] if i in stored else jnp.zeros((steps, *leaf.shape), leaf.dtype)
        for i, leaf in enumerate(jax.tree.leaves(carry))
    ]
    previous = _previous(layer, params, carry, jax.tree.unflatten(tree, carries), resets)
    outputs |= {structure.carry_outs[leaf]: value for leaf, value in stored.items()}
    return last, Primal(params, carry, previous, outputs, slopes, None, counts, resets)


def _without(slopes: Slopes, alike: set[int]) -> Slopes:
    """Leaves out the slopes of u that r has too, so that they are stored once."""
    return slopes._replace(u=[None if i in alike else leaf for i, leaf in enumerate(slopes.u)])


def _with(slopes: Slopes, alike: set[int]) -> Slopes:
    return slopes._replace(u=[slopes.r[i] if i in alike else leaf for i, leaf in enumerate(slopes.u)])


def _run_then_slopes(
    layer: Layer, params: PyTree, xs: Array, carry: PyTree, counts: Array | None, resets: Array | None
) -> tuple[PyTree, Primal]:
    """The slopes of all steps at once, after the loop.

    The loop has few outputs, as each costs a kernel a step. It stores the activations if the derivative can do with
    them, else r; and those leaves of the carry that cannot be had from these for all steps at once, as the LSTM's
    h_t = σ(o) tanh(c_t) can.
    """
    tree = jax.tree.structure(carry)
    us = layer.project(params, xs)  # where activations are stored nobody reads its values
    if layer.remembers:
        pieces, rest = _projected_ahead(layer, params, xs)
    else:
        pieces, rest = cut_apart(us, layer.widths), _as_it_is
    projected: Any = _Projected(layer, rest, for_derivative=True)
    step = timed_step(projected, params, layer.rows)
    kept = _to_be_kept(layer.structure) if counts is None else set(range(tree.num_leaves))

    def saving(carry: PyTree, inputs: StepInput):
        carry, saved = step(carry, inputs)
        return carry, ({i: leaf for i, leaf in enumerate(jax.tree.leaves(carry)) if i in kept}, saved)

    last, (stored, (rs, remembered)) = layer.scan(saving, carry, StepInput(pieces, counts, resets))
    if len(stored) < tree.num_leaves:
        stored = _completed(layer, stored, params, us, carry, rs, remembered)
    carries = [stored[leaf] for leaf in range(tree.num_leaves)]
    previous = _previous(layer, params, carry, jax.tree.unflatten(tree, carries), resets)
    rs = _mixed(layer, params, previous) if rs is None else rs
    gate = GateAtAllSteps(layer.cell, layer.structure, params, previous, us, rs, remembered)
    # a held carry is not what the gate gave
    known = dict(zip(layer.structure.carry_outs, carries, strict=True)) if counts is None else {}
    outputs = [known.get(k, out) for k, out in enumerate(gate.outputs(gate.inputs, known))]
    slopes = counted(layer.structure, gate.slopes(outputs), counts, resets)
    return last, Primal(params, carry, previous, dict(enumerate(outputs)), slopes, gate, counts, resets)


def row_of(tree: PyTree, lead: int) -> PyTree:
    """The shapes without the first `lead` axes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), tree)


def _to_be_kept(structure: GateStructure) -> set[int]:
    """The leaves of the carry that cannot be computed from u, r and the others without carry_{t-1}."""
    kept: set[int] = set()
    from_carry: set[int] = set()  # outputs that read carry_{t-1}, also through one that is not stored
    for out, needed in enumerate(structure.needs):
        if any(block.kind == "carry" or (block.kind == "cut" and block.leaf in from_carry) for block in needed):
            stored = {leaf for leaf, of in enumerate(structure.carry_outs) if of == out}
            kept |= stored
            from_carry |= set() if stored else {out}
    return kept


def _completed(
    layer: Layer,
    stored: dict[int, Array],
    params: PyTree,
    us: PyTree,
    carry: PyTree,
    rs: PyTree | None,
    remembered: dict[int, Array],
) -> dict[int, Array]:
    """All leaves of the carry at all steps, from those that are stored; none of the others reads carry_{t-1}."""
    steps = jax.tree.leaves(us)[0].shape[0]
    unread = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), carry)
    rs = _mixed(layer, params, unread) if rs is None else rs
    gate = GateAtAllSteps(layer.cell, layer.structure, params, unread, us, rs, remembered)
    known = {layer.structure.carry_outs[leaf]: value for leaf, value in stored.items()}
    outputs = gate.outputs(gate.inputs, known, as_inputs=True)
    return {leaf: stored[leaf] if leaf in stored else outputs[k] for leaf, k in enumerate(layer.structure.carry_outs)}


def _previous(layer: Layer, params: PyTree, first: PyTree, carries: PyTree, resets: Array | None) -> PyTree:
    """carry_{t-1} for all t, `[T, *rows, H]`, after a reset."""

    def shifted(one: Array, many: Array) -> Array:
        return jnp.concatenate([many[1:], one[None]] if layer.reverse else [one[None], many[:-1]])

    previous = jax.tree.map(shifted, first, carries)
    if resets is None:
        return previous
    start = layer.cell.initial_carry(params, layer.rows)
    return select(resets, jax.tree.map(lambda s, p: jnp.broadcast_to(s, p.shape), start, previous), previous)


def _mixed(layer: Layer, params: PyTree, carries: PyTree) -> PyTree:
    """r for all t. Where activations are stored, nobody reads its values, only its derivative, so it costs nothing."""
    lead = jax.tree.leaves(carries)[0].shape[:-1]
    rs = layer.cell.mix(params, jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), carries))
    return jax.tree.map(lambda r: r.reshape(*lead, *r.shape[1:]), rs)


def _projected_ahead(layer: Layer, params: PyTree, xs: Array) -> tuple[list[Any], ProjectRest]:
    """What of the projection is computed for all steps, `[T, *rows, ...]`, and what is left to do in the loop."""
    widths = layer.widths[0] if len(layer.widths) == 1 else None
    pieces = project_ahead(layer.cell, params, xs.reshape(-1, xs.shape[-1]), widths)
    pieces = jax.tree.map(lambda piece: piece.reshape(*xs.shape[:-1], *piece.shape[1:]), pieces)
    return pieces, ProjectRest(layer.cell, params, row_of(xs, 1), widths)


def _as_it_is(us: PyTree) -> PyTree:
    return us


@dataclasses.dataclass(frozen=True, eq=False)
class _Projected:
    """The cell once its input is projected ahead, x being the pieces of u_t: what `timed_step` runs inside the loop."""

    layer: Layer
    rest: Callable[[Any], PyTree]
    for_derivative: bool = False  # y is (r, {}), or (None, t of the activations) where those will do

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.layer.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        u, r = self.rest(x), self.layer.cell.mix(params, carry)
        gate = packed_gate(self.layer.cell, params, carry, u, r)
        before = [*jax.tree.leaves((params, carry)), *jax.tree.leaves(u, is_leaf=is_blocks)]
        of_r = jax.tree.leaves(r)
        outputs, ts = gate([*before, *of_r])
        n = len(self.layer.structure.carry_outs)
        new = jax.tree.unflatten(jax.tree.structure(carry), outputs[:n])
        if not self.for_derivative:
            return new, jax.tree.unflatten(self.layer.y_tree, outputs[n:])
        remembers = gate.remembers(range(len(before), len(before) + len(of_r)))
        return new, (r, {}) if remembers is None else (None, {i: ts[i] for i in remembers})
