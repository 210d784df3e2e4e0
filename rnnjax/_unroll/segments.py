"""Time cut into segments: an engine runs each of them, and a scan over segments hands the carry on.

What is stored for the backward pass grows with the steps that are in flight at once. With `jax.checkpoint` around a
segment only the carry at its start is kept, and the segment is computed again when the backward pass comes to it. For
S segments of k = T / S steps, that is S carries and what the engine stores for k steps, in place of T; segments within
segments take that further, one more forward pass for each level. Without `jax.checkpoint` a cut still bounds what the
forward pass has in memory at once: the projected input of the `hoisted` engine.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.parts import Run
from rnnjax._unroll.timing import Timing
from rnnjax.cell import PyTree


class Cut(NamedTuple):
    """Time in segments of `length` steps each, `recomputed` in the backward pass or not."""

    length: int
    recomputed: bool


def in_segments(run: Run, cuts: Sequence[Cut]) -> Run:
    """`run` over time that is cut, and cut again within each segment, outermost first. No cut is `run` itself.

    Steps that fill no whole segment are run last, and are not recomputed: what is stored for them is used up before
    the backward pass comes to the first segment. They do cost a copy of `xs` and `ys`, and the engine is compiled for
    them once more, so lengths that divide T are better.
    """
    if not cuts:
        return run
    (length, recomputed), inner = cuts[0], in_segments(run, cuts[1:])

    def segmented(cell: Any, params: PyTree, carry: PyTree, xs: Array, timing: Timing) -> tuple[PyTree, PyTree]:
        steps = xs.shape[0]
        if isinstance(steps, int) and steps <= length:
            return inner(cell, params, carry, xs, timing)
        count, rest = steps // length, steps % length
        if not isinstance(rest, int):  # as under `jax.export`
            raise ValueError(f"T is {steps}, a symbol not known to be a multiple of {length}: call it {length} * t.")
        edge = rest if timing.reverse else steps - rest
        whole, end = (slice(edge, None), slice(edge)) if timing.reverse else (slice(edge), slice(edge, None))

        def segment(params: PyTree, carry: PyTree, inputs: tuple[Array, Timing]) -> tuple[PyTree, PyTree]:
            return inner(cell, params, carry, *inputs)

        if recomputed:  # the scan around it keeps XLA from merging the second computation with the first
            segment = jax.checkpoint(segment, prevent_cse=False)
        inputs = (xs, timing)
        segments = jax.tree.map(lambda a: a[whole].reshape(count, length, *a.shape[1:]), inputs)
        carry, ys = lax.scan(lambda c, i: segment(params, c, i), carry, segments, reverse=timing.reverse)
        ys = jax.tree.map(lambda y: y.reshape(count * length, *y.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, last = inner(cell, params, carry, *jax.tree.map(lambda a: a[end], inputs))
        order = (lambda y, z: [z, y]) if timing.reverse else (lambda y, z: [y, z])
        return carry, jax.tree.map(lambda y, z: jnp.concatenate(order(y, z)), ys, last)

    return segmented
