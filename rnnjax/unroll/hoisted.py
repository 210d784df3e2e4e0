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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.cell import Cell, PyTree
from rnnjax.unroll.masking import StepInput, select, timed_step
from rnnjax.unroll.mixing import mixed_tangent
from rnnjax.unroll.pointwise import GateStructure, read_gate, trace_gate
from rnnjax.unroll.timing import Timing
from rnnjax.unroll.tracing import evaluate


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
            return self.run(_Projected(self.cell), params, us, carry, counts, resets)

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

    def run(self, step_of: Cell, params, us, carry, counts, resets):
        step = timed_step(step_of, params, self.rows)
        return lax.scan(step, carry, StepInput(us, counts, resets), reverse=self.reverse, unroll=self.unroll)

    def saving_run(self, params, us, carry, counts, resets):
        """Like `run`, but returns all carries and all r, `[T, *rows, ...]`."""
        step = timed_step(_Projected(self.cell, give_r=True), params, self.rows)

        def saving(carry: PyTree, inputs: StepInput):
            carry, r = step(carry, inputs)
            return carry, (carry, r)

        return lax.scan(saving, carry, StepInput(us, counts, resets), reverse=self.reverse, unroll=self.unroll)[1]

    def before(self, first: PyTree, carries: PyTree) -> PyTree:
        """carry_{t-1} for all t, `[T, *rows, ...]`, before a reset."""

        def shifted(one: Array, many: Array) -> Array:
            return jnp.concatenate([many[1:], one[None]] if self.reverse else [one[None], many[:-1]])

        return jax.tree.map(shifted, first, carries)

    def jvp(self, structure: GateStructure, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
        cell, leaves = self.cell, jax.tree.leaves
        params, us, carry, counts, resets = primals
        dparams, dus, dcarry, _, _ = tangents
        carries, rs = self.saving_run(params, us, carry, counts, resets)
        previous = self.before(carry, carries)
        dprevious = None
        if resets is not None:
            start, dstart = jax.jvp(lambda p: cell.initial_carry(p, self.rows), (params,), (dparams,))
            over_time = jax.tree.map(lambda a: jnp.broadcast_to(a, (resets.shape[0], *a.shape)), (start, dstart))
            previous = select(resets, over_time[0], previous)
            dprevious = select(resets, over_time[1], jax.tree.map(jnp.zeros_like, previous))
        gate = trace_gate(cell, params, previous, us, rs)
        cuts = sorted({block.leaf for needed in structure.needs for block in needed if block.kind == "out"})

        n_carry = len(leaves(carry))
        carry_of = {out: leaf for leaf, out in reversed(list(enumerate(structure.carry_outs)))}

        def outputs(p, c, u, r, known):
            named = {gate.outs[k]: value for k, value in zip(cuts, known, strict=True)}
            values = evaluate(gate.closed, [*leaves(p), *leaves(c), *leaves(u), *leaves(r)], named)
            by_var = dict(zip(gate.closed.jaxpr.outvars, values, strict=True))
            return [by_var[v] for v in gate.outs]

        natural = evaluate(gate.closed, [*leaves(params), *leaves(previous), *leaves(us), *leaves(rs)])
        by_var = dict(zip(gate.closed.jaxpr.outvars, natural, strict=True))
        known = [leaves(carries)[carry_of[k]] if k in carry_of and counts is None else by_var[gate.outs[k]] for k in cuts]

        _, pull = jax.vjp(lambda c, u, r, q: outputs(params, c, u, r, q), previous, us, rs, known)
        ones = [jnp.ones_like(by_var[v]) for v in gate.outs]
        if structure.shared:
            slopes = [Slopes(*map(leaves, pull([o if i == k else jnp.zeros_like(o) for i, o in enumerate(ones)]))) for k in range(len(ones))]
        else:
            slopes = [Slopes(*map(leaves, pull(ones)))] * len(ones)

        # the drive
        flat = lambda tree: jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), tree)
        rows_of = lambda tree, like: jax.tree.map(lambda a, b: a.reshape(b.shape), tree, like)
        v = rows_of(jax.jvp(lambda p: cell.mix(p, flat(previous)), (params,), (dparams,))[1], rs)
        mix_tangent = mixed_tangent(cell, params, carry)
        if dprevious is not None:
            v = jax.tree.map(jnp.add, v, rows_of(jax.jvp(lambda c: cell.mix(params, c), (flat(previous),), (flat(dprevious),))[1], rs))
        drive = combine(structure, slopes, leaves(dprevious), leaves(dus), leaves(v), cuts)
        if any(b.kind == "params" for needed in structure.needs for b in needed):
            through = jax.jvp(lambda p: outputs(p, previous, us, rs, known), (params,), (dparams,))[1]
            drive = [a if d is None else a + d for a, d in zip(through, drive, strict=True)]
        drive = [jnp.zeros_like(o) if d is None else d for d, o in zip(drive, ones, strict=True)]

        hold = None
        if counts is not None:
            drive = select(counts, drive, [jnp.zeros_like(d) if dprevious is None or k not in carry_of else leaves(dprevious)[carry_of[k]] for k, d in enumerate(drive)])
            slopes = [select(counts, s, jax.tree.map(jnp.zeros_like, s)) for s in slopes]
            hold = (~counts if resets is None else ~counts & ~resets).astype(ones[0].dtype)[..., None]
        if resets is not None:
            slopes = [s._replace(carry=select(resets, jax.tree.map(jnp.zeros_like, s.carry), s.carry)) for s in slopes]
            slopes = [s._replace(r=select(resets, jax.tree.map(jnp.zeros_like, s.r), s.r)) for s in slopes]
        if not structure.shared:
            slopes = slopes[:1]
        needed = {(b.kind, b.leaf) for n in structure.needs for b in n}
        slopes = [Slopes(carry=[a if ("carry", i) in needed else None for i, a in enumerate(s.carry)], u=[None] * len(s.u),
            r=[a if ("r", i) in needed else None for i, a in enumerate(s.r)], out=s.out) for s in slopes]
        slopes = lax.optimization_barrier(slopes)

        y_outs = sorted(set(structure.y_outs))

        def step(dcarry, inputs):
            drive, slopes, hold = inputs
            if not structure.shared:
                slopes = slopes * len(structure.needs)
            dr = mix_tangent(jax.tree.unflatten(jax.tree.structure(carry), dcarry))
            douts = combine(structure, slopes, dcarry, [None] * len(slopes[0].u), leaves(dr), cuts, drive)
            new = [douts[k] for k in structure.carry_outs]
            if hold is not None:
                new = [n + hold * d for n, d in zip(new, dcarry, strict=True)]
            stacked = [new[carry_of[k]] if k in carry_of else douts[k] for k in y_outs]
            return new, stacked

        dlast, stacked = lax.scan(step, leaves(dcarry), (drive, slopes, hold), reverse=self.reverse, unroll=self.unroll)
        values = [leaves(carries)[carry_of[k]] if k in carry_of else by_var[gate.outs[k]] for k in y_outs]
        y_tree = jax.tree.structure(jax.eval_shape(cell.gate, params, previous, us, rs)[1])

        def assembled(many):
            by_out = dict(zip(y_outs, many, strict=True))
            tree = jax.tree.unflatten(y_tree, [by_out[k] for k in structure.y_outs])
            return tree if counts is None else select(counts, tree, jax.tree.map(jnp.zeros_like, tree))

        carry_tree = jax.tree.structure(carry)
        last = jax.tree.map(lambda a: a[0 if self.reverse else -1], carries)
        return (last, assembled(values)), (jax.tree.unflatten(carry_tree, dlast), assembled(stacked))


class Slopes(NamedTuple):
    """Diagonals of the gate's Jacobian, by input; leaves are packed like the input: `[T, *rows, nH]`."""

    carry: list[Any]
    u: list[Any]
    r: list[Any]
    out: list[Any]


def combine(structure: GateStructure, slopes: list[Slopes], dcarry, du, dr, cuts, drive=None):
    """dout = drive + the slopes times the tangents, each output in turn."""
    H = structure.width
    douts: list[Any] = []
    products: dict[Any, Any] = {}

    def product(k, kind, leaf, d):
        s = getattr(slopes[k], kind)[leaf]
        key = (id(slopes[k]), kind, leaf)
        if key not in products:
            products[key] = s * d
        return products[key]

    for k, needed in enumerate(structure.needs):
        total = None if drive is None else drive[k]
        for block in sorted(needed):
            if block.kind == "params":
                continue
            if block.kind == "out":
                d = douts[block.leaf]
                if d is None or drive is None:
                    continue
                p = product(k, "out", cuts.index(block.leaf), d)
            else:
                source = {"carry": dcarry, "u": du, "r": dr}[block.kind]
                if not source or source[block.leaf] is None:
                    continue
                p = product(k, block.kind, block.leaf, source[block.leaf])
            if p.shape[-1] != H:
                p = p[..., block.index * H : (block.index + 1) * H]
            total = p if total is None else total + p
        douts.append(total)
    return douts


@dataclasses.dataclass(frozen=True)
class _Projected:
    """The cell once its input is projected: what `timed_step` runs inside the loop."""

    cell: Cell
    give_r: bool = False

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, u: PyTree) -> tuple[PyTree, PyTree]:
        r = self.cell.mix(params, carry)
        carry, y = self.cell.gate(params, carry, u, r)
        return carry, r if self.give_r else y
