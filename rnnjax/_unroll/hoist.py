"""The fast engine: every matmul that needs no carry leaves the time loop, in the forward pass *and* in the derivative.

What a step's equations allow is in its `Reading`. Where the gates between the products are pointwise, the derivative is
a recurrence with diagonal slopes (`derivative.py`), and all of these are computed for all T at once, too. As this is a
custom *JVP*, JAX derives the rest from it: reverse mode is its transpose, in which the gradient of a recurrent weight
is one matmul over all of time, and forward mode and second derivatives keep working. Where they are not pointwise, the
weights' gradients leave the loop all the same (`any_gates.py`).

    reading.py    what leaves the loop            diagonals.py   slopes, and their product with a tangent
    gates.py      what the gates depend on        forward.py     the forward pass that a derivative is built from
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.any_gates import run_any_gates
from rnnjax._unroll.derivative import tangents
from rnnjax._unroll.footprints import bytes_of
from rnnjax._unroll.forward import Inputs, Layer, Outputs, outputs_of, plain_run, remembered, saving_run
from rnnjax._unroll.gates import GateStructure
from rnnjax._unroll.masking import Masks
from rnnjax._unroll.reading import Read, Reading
from rnnjax.cell import Cell, PyTree


def unroll_hoisted(
    found: Read,
    cell: Cell,
    params: PyTree,
    carry: PyTree,
    xs: Array,
    masks: Masks,
    *,
    unroll: int = 1,
    carries: bool = False,
) -> tuple[PyTree, PyTree, PyTree]:
    """`(carry, ys, carries)`; all batch axes become one, or none for a single row."""
    reading = found.reading
    steps, batch_shape, features = xs.shape[0], xs.shape[1:-1], xs.shape[-1]
    size = xs[0, ..., 0].size
    rows = () if size == 1 else (size,)  # a matmul of one row is slower than one of a vector

    def to_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(batch_shape)
        return jax.tree.map(lambda leaf: jnp.reshape(leaf, (*lead, *rows, *jnp.shape(leaf)[drop:])), tree)

    def from_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(rows)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *batch_shape, *leaf.shape[drop:]), tree)

    start = None
    if masks.resets is not None:
        start = jax.tree.leaves(to_rows(cell.initial_carry(params, batch_shape)))
    counts, resets = to_rows((masks.counts, masks.resets), (steps,))
    inputs = Inputs(
        reading.fixed_values(params, found.closed_over),
        xs.reshape(steps, *rows, features),
        jax.tree.leaves(to_rows(carry)),
        counts,
        resets,
        start,
    )
    if reading.gates is None:
        out = run_any_gates(reading, inputs, rows, masks.reverse, unroll, carries)
    else:
        out = _recurrence(make_layer(reading, reading.gates, rows, masks.reverse, unroll, carries), inputs)
    tree = jax.tree.structure(carry)
    last, ys = tree.unflatten(from_rows(out.last)), reading.y_tree.unflatten(from_rows(out.ys, (steps,)))
    return last, ys, tree.unflatten(from_rows(out.carries, (steps,))) if carries else None


def make_layer(
    reading: Reading, structure: GateStructure, rows: tuple[int, ...], reverse: bool, unroll: int, carries: bool
) -> Layer:
    return Layer(
        reading=reading,
        structure=structure,
        rows=rows,
        reverse=reverse,
        unroll=unroll,
        carries=carries,
        remembers=remembered(reading),
        slopes_in_loop=_large(reading, structure, rows),
    )


def _recurrence(layer: Layer, inputs: Inputs) -> Outputs:
    """The loop over time of one layer."""

    @jax.custom_jvp
    def run(*inputs: Any) -> Outputs:
        return plain_run(layer, Inputs(*inputs))

    @run.defjvp
    def _(primals: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Outputs, Outputs]:
        inputs = Inputs(*primals)
        last, primal = saving_run(layer, inputs)
        dlast, dstacked = tangents(layer, primal, Inputs(*given))
        carries = primal.carries if layer.carries else None
        out = outputs_of(layer, last, primal.outputs, inputs.counts, carries)
        return out, outputs_of(layer, dlast, dstacked, inputs.counts)

    return run(*inputs)


_LARGE_STEP = 12_000
"""From this many bytes of slopes of r a step on they are computed in the loop.

Measured on two cores, forward and backward: 8 rows of 64 LSTM units (8 kB) are a tie, one row (1 kB) is 1.6 times
slower so, 16 rows of 128 units (32 kB) are 1.1 times faster, 64 rows of 256 GRU units (196 kB) 1.2 times.
"""


def _large(reading: Reading, structure: GateStructure, rows: tuple[int, ...]) -> bool:
    blocks = {block for needed in structure.needs for block in needed if block.kind == "r"}
    if structure.reads_params or len(blocks) < 2:
        return False  # one block needs no more passes over memory after the loop than in it
    size = math.prod(rows)
    return isinstance(size, int) and size * bytes_of([p.out for p in reading.products]) >= _LARGE_STEP
