"""The fast engine: every matmul that needs no carry leaves the time loop, in the forward pass *and* in the derivative.

A cell is `project`, `mix` and `gate`, so a step is carry_t, y_t = gate(params, carry_{t-1}, u_t, r_t) with
r_t = mix(params, carry_{t-1}), and all u_t come from one call of `project`. The derivative is another recurrence,

    dr_t = mix(params, dcarry_{t-1}) + v_t                    v_t = mix(dparams, carry_{t-1}), one matmul for all T
    dout_t = e_t + Σ S_t dr_t + Σ C_t dcarry_{t-1} + Σ Q_t dout_t'

linear in (dcarry, dparams, du), with v and e computed for all T before the loop. The slopes S, C and Q are the
diagonals of the gate's Jacobian (`pointwise.py`), for all T at once too: since a gate is pointwise, one VJP of it with
ones for cotangents gives them. As this is a custom *JVP*, JAX derives the rest from it: reverse mode is its transpose,
in which dW_h is one matmul over all of time, and forward mode and second derivatives keep working.

`mask`, `lengths` and `resets` cost nothing inside that loop: they are multiplied into the slopes. A step that does not
count has S = Q = e = 0 and holds dcarry; a reset sets the coefficients of dcarry_{t-1} to zero.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.masking import StepInput, select, timed_step
from rnnjax.unroll.mixing import mixed_tangent
from rnnjax.unroll.packing import cut_apart, is_blocks, packed_gate, whole
from rnnjax.unroll.pointwise import GateStructure, read_gate
from rnnjax.unroll.slopes import GateAtAllSteps, Leaves
from rnnjax.unroll.tangent import Primal, linearize, run_tangent
from rnnjax.unroll.timing import Timing


def unroll_hoisted(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, timing: Timing, *, unroll: int = 1
) -> tuple[PyTree, PyTree]:
    """All batch axes become one, or none for a single row, and the input projection is one matmul over all of time.

    Raises:
      NotHoistable: the cell's gate is not pointwise, or its mix is not affine in the carry.
    """
    steps, batch_shape, features = xs.shape[0], xs.shape[1:-1], xs.shape[-1]
    size = xs[0, ..., 0].size
    rows = () if size == 1 else (size,)

    def to_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(batch_shape)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *rows, *leaf.shape[drop:]), tree)

    def from_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(rows)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *batch_shape, *leaf.shape[drop:]), tree)

    us = cell.project(params, xs.reshape(steps * size, features))
    us = jax.tree.map(lambda u: u.reshape(steps, *rows, *u.shape[1:]), us)
    recurrence = Recurrence(cell, rows, timing.reverse, unroll)
    counts, resets = to_rows((timing.counts, timing.resets), (steps,))
    carry, ys = recurrence(params, us, to_rows(carry), counts, resets)
    return from_rows(carry), from_rows(ys, (steps,))


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The loop over time of one layer whose input is projected already."""

    cell: Cell
    rows: tuple[int, ...]
    reverse: bool
    unroll: int

    def __call__(self, params: PyTree, us: PyTree, carry: PyTree, counts: Array | None, resets: Array | None):
        structure = self.structure(params, us, carry)
        mixed_tangent(self.cell, params, carry)  # raises here rather than when somebody differentiates

        @jax.custom_jvp
        def run(params, us, carry, counts, resets):
            return self.run(structure, params, us, carry, counts, resets)

        @run.defjvp
        def _(primals, tangents):
            return self.jvp(structure, primals, tangents)

        return run(params, us, carry, counts, resets)

    def structure(self, params: PyTree, us: PyTree, carry: PyTree) -> GateStructure:
        def row(tree: PyTree, drop: int) -> PyTree:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[drop:], leaf.dtype), tree)

        one = row(carry, len(self.rows))
        r = jax.eval_shape(self.cell.mix, params, one)
        return read_gate(self.cell, params, one, row(us, 1 + len(self.rows)), r)

    def run(self, structure: GateStructure, params: PyTree, us: PyTree, carry: PyTree, counts: Array | None, resets: Array | None):
        """`(carry_T, ys)`."""
        step = timed_step(_Projected(self.cell, structure), params, self.rows)
        us = self.cut_apart(params, us, carry)
        return lax.scan(step, carry, StepInput(us, counts, resets), reverse=self.reverse, unroll=self.unroll)

    def saving_run(self, structure: GateStructure, params, us, carry, counts, resets) -> tuple[PyTree, Primal]:
        """The last carry, and everything that the derivative is built from.

        Few outputs of the loop, as each costs a kernel a step: what the gate computes without carry_{t-1} from what is
        stored (the LSTM's h_t from c_t and r_t) is computed again for all steps at once.
        """
        leaves, tree = jax.tree.leaves, jax.tree.structure(carry)
        step = timed_step(_Projected(self.cell, structure, for_derivative=True), params, self.rows)
        kept = set(range(tree.num_leaves)) if counts is not None else _to_be_kept(structure)

        def saving(carry: PyTree, inputs: StepInput):
            carry, saved = step(carry, inputs)
            return carry, ([leaf for i, leaf in enumerate(leaves(carry)) if i in kept], saved)

        inputs = StepInput(self.cut_apart(params, us, carry), counts, resets)
        last, (stored, (rs, ts)) = lax.scan(saving, carry, inputs, reverse=self.reverse, unroll=self.unroll)
        stored = dict(zip(sorted(kept), stored, strict=True))
        if len(stored) < tree.num_leaves:
            nothing = jax.tree.map(lambda leaf: jnp.zeros((self.steps(us), *leaf.shape), leaf.dtype), carry)
            no_rs = self.mixed(params, nothing) if rs is None else rs
            gate = GateAtAllSteps(self.cell, structure, params, nothing, us, no_rs, ts)
            at = {structure.carry_outs[leaf]: value for leaf, value in stored.items()}
            outputs = gate.outputs(gate.inputs, list(at.values()), list(at), as_inputs=True)
            stored = {leaf: stored.get(leaf, outputs[k]) for leaf, k in enumerate(structure.carry_outs)}
        carries = [stored[leaf] for leaf in range(tree.num_leaves)]
        previous = self.before(carry, jax.tree.unflatten(tree, carries))
        if resets is not None:
            start = self.cell.initial_carry(params, self.rows)
            previous = select(resets, jax.tree.map(lambda s, p: jnp.broadcast_to(s, p.shape), start, previous), previous)
        rs = self.mixed(params, previous) if rs is None else rs
        gate = GateAtAllSteps(self.cell, structure, params, previous, us, rs, ts)
        known = dict(zip(structure.carry_outs, carries, strict=True)) if counts is None else {}
        outputs = gate.outputs(gate.inputs, list(known.values()), list(known))
        ys = outputs if counts is not None else [known.get(k, out) for k, out in enumerate(outputs)]
        return last, Primal(params, us, rs, carry, previous, ys, ts, counts, resets)

    def mixed(self, params: PyTree, carries: PyTree) -> PyTree:
        """r for all t. Where t of the activations are stored, nobody reads its value, only its derivative."""
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), carries)
        shape = jax.tree.leaves(carries)[0].shape[:-1]
        return jax.tree.map(lambda r: r.reshape(*shape, *r.shape[1:]), self.cell.mix(params, rows))

    def cut_apart(self, params: PyTree, us: PyTree, carry: PyTree) -> PyTree:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[len(self.rows) :], leaf.dtype), carry)
        return cut_apart(self.cell, params, one, us, jax.eval_shape(self.cell.mix, params, one))

    def steps(self, us: PyTree) -> int:
        return jax.tree.leaves(us)[0].shape[0]

    def before(self, first: PyTree, carries: PyTree) -> PyTree:
        """carry_{t-1} for all t, `[T, *rows, ...]`, before a reset."""

        def shifted(one: Array, many: Array) -> Array:
            return jnp.concatenate([many[1:], one[None]] if self.reverse else [one[None], many[:-1]])

        return jax.tree.map(shifted, first, carries)

    def jvp(self, structure: GateStructure, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
        dparams, dus, dcarry, _, _ = tangents
        last, primal = self.saving_run(structure, *primals)
        linear, first = linearize(self.cell, structure, primal, dparams, dus, self.reverse)
        dcarry = [d if c is None else c * d for d, c in zip(jax.tree.leaves(dcarry), first, strict=True)]
        dlast, stacked = run_tangent(self.cell, structure, primal, linear, dcarry, self.reverse, self.unroll)

        y_outs = sorted(set(structure.y_outs))
        y_tree = jax.tree.structure(jax.eval_shape(self.cell.gate, primal.params, primal.previous, primal.us, primal.rs)[1])

        def assembled(leaves: Leaves) -> PyTree:
            by_out = dict(zip(y_outs, leaves, strict=True))
            ys = jax.tree.unflatten(y_tree, [by_out[k] for k in structure.y_outs])
            return ys if primal.counts is None else select(primal.counts, ys, jax.tree.map(jnp.zeros_like, ys))

        return (last, assembled([primal.outputs[k] for k in y_outs])), (dlast, assembled(stacked))


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


@dataclasses.dataclass(frozen=True)
class _Projected:
    """The cell once its input is projected: what `timed_step` runs inside the loop."""

    cell: Cell
    structure: GateStructure
    for_derivative: bool = False  # y is (r, None), or (None, t of the activations) where those will do

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, u: PyTree) -> tuple[PyTree, PyTree]:
        r = self.cell.mix(params, carry)
        gate = packed_gate(self.cell, params, carry, u, r)
        args = [*jax.tree.leaves((params, carry)), *jax.tree.leaves(u, is_leaf=is_blocks), *jax.tree.leaves(r)]
        values, ts = gate(args)
        new = jax.tree.unflatten(jax.tree.structure(carry), values[: len(self.structure.carry_outs)])
        if self.for_derivative:
            remembered = gate.remembers(range(len(args) - len(jax.tree.leaves(r)), len(args)))
            return new, (r, {}) if remembered is None else (None, {i: ts[i] for i in remembered})
        y_tree = jax.tree.structure(jax.eval_shape(self.cell.gate, params, carry, whole(u), r)[1])
        return new, jax.tree.unflatten(y_tree, values[len(self.structure.carry_outs) :])
