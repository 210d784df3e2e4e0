"""The fast engine: every matmul that needs no carry leaves the time loop, in the forward pass *and* in the derivative.

A cell is `project`, `mix` and `gate`, so a step is carry_t, y_t = gate(params, carry_{t-1}, u_t, r_t) with
r_t = mix(params, carry_{t-1}), and all u_t come from one call of `project`. The derivative is another recurrence,

    dr_t   = mix(params, dcarry_{t-1}) + v_t               v_t = mix(dparams, carry_{t-1}), one matmul for all T
    dout_t = drive_t + Σ S_t dr_t + Σ C_t dcarry_{t-1} + Σ Q_t dout'_t

linear in (dcarry, dparams, du), with v and the drive computed for all T before the loop. The slopes S, C and Q are the
diagonals of the gate's Jacobian, for all T at once too: since a gate is pointwise, one VJP of it with ones for
cotangents gives them. As this is a custom *JVP*, JAX derives the rest from it: reverse mode is its transpose, in which
the gradient of the recurrent weight is one matmul over all of time, and forward mode and second derivatives keep
working. A cell has nothing to add: all of it is read from the three functions' equations.

    tracing.py    those equations              slopes.py     the diagonals, and their product with a tangent
    pointwise.py  what the gate depends on     saving.py     the forward pass that a derivative is built from
    packing.py    the gate in fewer kernels    tangent.py    the recurrence of the derivative
    mixing.py     mix's derivative
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.footprints import bytes_of
from rnnjax._unroll.masking import select
from rnnjax._unroll.mixing import mixed_tangent
from rnnjax._unroll.packing import packed_gate, widths_of_cuts
from rnnjax._unroll.pointwise import GateStructure, read_gate
from rnnjax._unroll.saving import Layer, plain_run, row_of, saving_run
from rnnjax._unroll.slopes import Leaves
from rnnjax._unroll.tangent import linearize, run_tangent
from rnnjax._unroll.timing import Timing
from rnnjax.cell import Cell, PyTree


def unroll_hoisted(
    cell: Cell, params: PyTree, carry: PyTree, xs: Array, timing: Timing, *, unroll: int = 1
) -> tuple[PyTree, PyTree]:
    """All batch axes become one, or none for a single row, and the input projection is one matmul over all of time.

    Raises:
      NotHoistable: the cell's gate is not pointwise, or its mix is not affine in the carry.
    """
    steps, batch_shape, features = xs.shape[0], xs.shape[1:-1], xs.shape[-1]
    size = xs[0, ..., 0].size
    rows = () if size == 1 else (size,)  # a matmul of one row is slower than one of a vector

    def to_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(batch_shape)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *rows, *leaf.shape[drop:]), tree)

    def from_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(rows)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *batch_shape, *leaf.shape[drop:]), tree)

    counts, resets = to_rows((timing.counts, timing.resets), (steps,))
    xs = xs.reshape(steps, *rows, features)
    carry, ys = _recurrence(cell, rows, timing.reverse, unroll, params, xs, to_rows(carry), counts, resets)
    return from_rows(carry), from_rows(ys, (steps,))


def _recurrence(cell: Cell, rows: tuple[int, ...], reverse: bool, unroll: int, *operands: Any) -> tuple[PyTree, PyTree]:
    """The loop over time of one layer; operands are params, xs, the first carry, counts and resets, in rows."""
    params, xs, carry, _, _ = operands
    layer = _read_layer(cell, rows, reverse, unroll, params, xs, carry)
    mixed_tangent(cell, params, carry)  # what it refuses, it refuses here, not when somebody differentiates

    @jax.custom_jvp
    def run(*operands: Any) -> tuple[PyTree, PyTree]:
        return plain_run(layer, *operands)

    @run.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
        return _run_jvp(layer, primals, tangents)

    return run(*operands)


def _read_layer(
    cell: Cell, rows: tuple[int, ...], reverse: bool, unroll: int, params: PyTree, xs: Array, carry: PyTree
) -> Layer:
    """All that is to be known of a cell, from its equations for one row."""
    one, x = row_of(carry, len(rows)), row_of(xs, 1 + len(rows))
    u, r = jax.eval_shape(cell.project, params, x), jax.eval_shape(cell.mix, params, one)
    structure = read_gate(cell, params, one, u, r)
    gate = packed_gate(cell, params, one, u, r)
    before, of_r = len(jax.tree.leaves((params, one, u))), jax.tree.leaves(r)
    return Layer(
        cell=cell,
        structure=structure,
        y_tree=jax.tree.structure(jax.eval_shape(cell.gate, params, one, u, r)[1]),
        rows=rows,
        reverse=reverse,
        unroll=unroll,
        widths=tuple(widths_of_cuts(cell, params, one, u, r)),
        remembers=gate.remembers(range(before, before + len(of_r))) is not None,
        slopes_in_loop=_large(structure, rows, of_r),
    )


_LARGE_STEP = 12_000
"""From this many bytes of slopes of r a step on they are computed in the loop.

Measured on two cores, forward and backward: 8 rows of 64 LSTM units (8 kB) are a tie, one row (1 kB) is 1.6 times
slower so, 16 rows of 128 units (32 kB) are 1.1 times faster, 64 rows of 256 GRU units (196 kB) 1.2 times.
"""


def _large(structure: GateStructure, rows: tuple[int, ...], r: list[Any]) -> bool:
    blocks = {block for needed in structure.needs for block in needed}
    if any(block.kind == "params" for block in blocks) or len({b for b in blocks if b.kind == "r"}) < 2:
        return False  # one block needs no more passes over memory after the loop than in it
    size = math.prod(rows)
    return isinstance(size, int) and size * bytes_of(r) >= _LARGE_STEP


def _run_jvp(layer: Layer, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    params, xs = primals[:2]
    dparams, dxs, dcarry, _, _ = tangents
    last, primal = saving_run(layer, *primals)
    dus = jax.jvp(layer.project, (params, xs), (dparams, dxs))[1]
    linear, scale = linearize(layer, primal, dparams, dus)
    dcarry = [d if c is None else c * d for d, c in zip(jax.tree.leaves(dcarry), scale, strict=True)]
    dlast, dys = run_tangent(layer, primal, linear, dcarry)

    def as_ys(leaves: Leaves) -> PyTree:
        by_output = dict(zip(layer.read_by_y, leaves, strict=True))
        ys = jax.tree.unflatten(layer.y_tree, [by_output[k] for k in layer.structure.y_outs])
        return ys if primal.counts is None else select(primal.counts, ys, jax.tree.map(jnp.zeros_like, ys))

    return (last, as_ys([primal.outputs[k] for k in layer.read_by_y])), (dlast, as_ys(dys))
