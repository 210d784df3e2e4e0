"""The time loop of the `hoisted` engine, for the values alone, and with all that the derivative is built from."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.masking import StepInput, select, timed_step
from rnnjax.unroll.packing import cut_apart, is_blocks, packed_gate
from rnnjax.unroll.pointwise import GateStructure
from rnnjax.unroll.slopes import GateAtAllSteps, Leaves


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of one layer before any array is."""

    cell: Cell
    structure: GateStructure
    y_tree: Any  # how y is put together
    rows: tuple[int, ...]  # the batch shape: one axis or none
    reverse: bool
    unroll: int

    @property
    def read_by_y(self) -> list[int]:
        """The gate's distinct outputs that y has."""
        return sorted(set(self.structure.y_outs))

    def scan(self, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any) -> tuple[Any, Any]:
        return lax.scan(step, carry, inputs, reverse=self.reverse, unroll=self.unroll)


class Primal(NamedTuple):
    """A run of the recurrence, from which its derivative is built; arrays are `[T, *rows, ...]`."""

    params: PyTree
    us: PyTree
    rs: PyTree
    first: PyTree  # carry_0, `[*rows, H]`
    previous: PyTree  # carry_{t-1}, after a reset
    outputs: Leaves  # the distinct outputs of the gate
    remembered: dict[int, Array]  # t of the gate's activations, as in `PackedGate`
    counts: Array | None  # [T, *rows]
    resets: Array | None  # [T, *rows]


def plain_run(layer: Layer, params: PyTree, us: PyTree, carry: PyTree, counts: Array | None, resets: Array | None):
    """`(carry_T, ys)`."""
    step = timed_step(_projected(layer), params, layer.rows)
    return layer.scan(step, carry, StepInput(_cut(layer, params, us, carry), counts, resets))


def saving_run(
    layer: Layer, params: PyTree, us: PyTree, carry: PyTree, counts: Array | None, resets: Array | None
) -> tuple[PyTree, Primal]:
    """`(carry_T, primal)`.

    The loop has few outputs, as each costs a kernel a step. It stores the activations if the derivative can do with
    them, else r; and those leaves of the carry that cannot be had from these for all steps at once, as the LSTM's
    h_t = σ(o) tanh(c_t) can.
    """
    tree = jax.tree.structure(carry)
    step = timed_step(_projected(layer, for_derivative=True), params, layer.rows)
    kept = _to_be_kept(layer.structure) if counts is None else set(range(tree.num_leaves))

    def saving(carry: PyTree, inputs: StepInput):
        carry, saved = step(carry, inputs)
        return carry, ({i: leaf for i, leaf in enumerate(jax.tree.leaves(carry)) if i in kept}, saved)

    inputs = StepInput(_cut(layer, params, us, carry), counts, resets)
    last, (stored, (rs, remembered)) = layer.scan(saving, carry, inputs)
    if len(stored) < tree.num_leaves:
        stored = _completed(layer, stored, params, us, carry, rs, remembered)
    carries = [stored[leaf] for leaf in range(tree.num_leaves)]
    previous = _previous(layer, carry, jax.tree.unflatten(tree, carries))
    if resets is not None:
        start = layer.cell.initial_carry(params, layer.rows)
        start = jax.tree.map(lambda s, p: jnp.broadcast_to(s, p.shape), start, previous)
        previous = select(resets, start, previous)
    rs = _mixed(layer, params, previous) if rs is None else rs
    gate = GateAtAllSteps(layer.cell, layer.structure, params, previous, us, rs, remembered)
    # a held carry is not what the gate gave
    known = dict(zip(layer.structure.carry_outs, carries, strict=True)) if counts is None else {}
    outputs = [known.get(k, out) for k, out in enumerate(gate.outputs(gate.inputs, known))]
    return last, Primal(params, us, rs, carry, previous, outputs, remembered, counts, resets)


def row_of(tree: PyTree, lead: int) -> PyTree:
    """The shapes without the first `lead` axes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), tree)


def _cut(layer: Layer, params: PyTree, us: PyTree, carry: PyTree) -> PyTree:
    one = row_of(carry, len(layer.rows))
    return cut_apart(layer.cell, params, one, us, jax.eval_shape(layer.cell.mix, params, one))


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


def _previous(layer: Layer, first: PyTree, carries: PyTree) -> PyTree:
    """carry_{t-1} for all t, `[T, *rows, H]`, before a reset."""

    def shifted(one: Array, many: Array) -> Array:
        return jnp.concatenate([many[1:], one[None]] if layer.reverse else [one[None], many[:-1]])

    return jax.tree.map(shifted, first, carries)


def _mixed(layer: Layer, params: PyTree, carries: PyTree) -> PyTree:
    """r for all t. Where activations are stored, nobody reads its values, only its derivative, so it costs nothing."""
    lead = jax.tree.leaves(carries)[0].shape[:-1]
    rs = layer.cell.mix(params, jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), carries))
    return jax.tree.map(lambda r: r.reshape(*lead, *r.shape[1:]), rs)


@dataclasses.dataclass(frozen=True)
class _Projected:
    """The cell once its input is projected, x = u_t: what `timed_step` runs inside the loop."""

    layer: Layer
    for_derivative: bool = False  # y is (r, {}), or (None, t of the activations) where those will do

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.layer.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        r = self.layer.cell.mix(params, carry)
        gate = packed_gate(self.layer.cell, params, carry, x, r)
        before = [*jax.tree.leaves((params, carry)), *jax.tree.leaves(x, is_leaf=is_blocks)]
        of_r = jax.tree.leaves(r)
        outputs, ts = gate([*before, *of_r])
        n = len(self.layer.structure.carry_outs)
        new = jax.tree.unflatten(jax.tree.structure(carry), outputs[:n])
        if not self.for_derivative:
            return new, jax.tree.unflatten(self.layer.y_tree, outputs[n:])
        remembers = gate.remembers(range(len(before), len(before) + len(of_r)))
        return new, (r, {}) if remembers is None else (None, {i: ts[i] for i in remembers})


def _projected(layer: Layer, for_derivative: bool = False) -> Any:
    """`timed_step` asks for a cell, of which it uses no more than this has."""
    return _Projected(layer, for_derivative)
