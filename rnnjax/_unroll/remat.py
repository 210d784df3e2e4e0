"""Rematerialisation: what to keep for the backward pass, what to compute again, and time cut into segments for it.

What is stored for the backward pass grows with the steps that are in flight at once. With `jax.checkpoint` around a
segment only the carry at its start is kept, and the segment is computed again when the backward pass comes to it. For
S segments of k = T / S steps, that is S carries and what the engine stores for k steps, in place of T; segments within
segments take that further, one more forward pass for each level. Without `jax.checkpoint` a cut still bounds what the
forward pass has in memory at once: the projected input of the `hoisted` engine.

`share_of_budget` and `cuts_of` turn the `checkpoint` of a call into cuts, `in_segments` runs what is cut, and
`footprint_of` reads from the equations of a backward pass how much memory it needs.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr
from jax.extend.core import Literal as Number

from rnnjax._unroll.arguments import (
    Masks,
    Part,
    Run,
    check_carry,
    is_causal,
    is_layer,
    settled,
    shapes_of,
    typed_mesh,
)
from rnnjax._unroll.equations import bytes_of
from rnnjax.cell import PyTree


@dataclasses.dataclass(frozen=True)
class MemoryBudget:
    """How many bytes a training step may need; time is cut, and cut again, until the estimate fits.

    With R bytes for a step of the engine's backward pass, C of carry, P of a step's input, output and the gradients of
    both, and n levels of segments k_1 > k_2 > ... > k_n,

        needed = C (ceil(T / k_1) + ceil(k_1 / k_2) + ...) + P (k_1 + ... + k_n) + R k_n

    and every level costs one more forward pass. The fewest levels that fit are taken, and of these the longest k_n.
    What no choice of segments can change is not counted: `xs`, the outputs and the gradients of both. (Where no
    such k_1 divides T, a copy of `xs` and of the outputs comes on top.)
    `rnnjax.explain` shows C, R, P and the lengths.

    Attributes:
      bytes: the budget for one call of `unroll`, all layers together.

    Example:

      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = rnnjax.unroll(cell, params, jnp.ones((1000, 3)), checkpoint=rnnjax.MemoryBudget(20_000))
      >>> ys.shape
      (1000, 4)
    """

    bytes: int

    def __post_init__(self) -> None:
        if isinstance(self.bytes, bool) or not isinstance(self.bytes, int) or self.bytes < 1:
            raise ValueError(f"bytes is {self.bytes!r}; it must be a positive integer, such as 2 * 2**30 for 2 GiB.")


Checkpoint = int | Literal["sqrt"] | MemoryBudget | None


def check_checkpoint(checkpoint: Any) -> None:
    """Refuses what is no policy.

    Raises:
      ValueError: a number of steps below 1, or an unknown word.
      TypeError: anything else that is no policy, True and False among it.
    """
    choices = 'a number of steps, "sqrt", `rnnjax.MemoryBudget(bytes=...)`, or None'
    if isinstance(checkpoint, MemoryBudget):
        return
    if isinstance(checkpoint, str):
        if checkpoint != "sqrt":
            raise ValueError(f"checkpoint is {checkpoint!r}; choose {choices}.")
    elif isinstance(checkpoint, bool) or not isinstance(checkpoint, int):
        raise TypeError(f"checkpoint is {checkpoint!r}; choose {choices}.")
    elif checkpoint < 1:
        raise ValueError(f"checkpoint is {checkpoint}; segments have at least one step: choose {choices}.")


def check_chunk(chunk: Any) -> None:
    """Refuses what is no number of steps: ValueError below 1, TypeError for anything but an integer."""
    if isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"chunk is {chunk!r}; it is the number of steps whose input is projected at once, or None.")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least one step, or None for all of time.")


class Cut(NamedTuple):
    """Time in segments of `length` steps each, `recomputed` in the backward pass or not."""

    length: int
    recomputed: bool


def share_of_budget(checkpoint: Checkpoint, engines: Run, whole: Part) -> float:
    """The share of what it would need uncut that each part may have; 1 without a budget, or where all of it fits.

    Raises:
      ValueError: no choice of segments gets below the budget.
    """
    if not isinstance(checkpoint, MemoryBudget):
        return 1.0
    budget = checkpoint.bytes
    if not all(isinstance(size, int) for size in whole.xs.shape):
        raise ValueError(f"checkpoint is {checkpoint}, but `xs` is {list(whole.xs.shape)}; bytes need numbers.")
    footprints = [footprint_of(engines, part) for part in parts_of(whole, is_causal)]
    uncut = sum(footprint.needed() for footprint in footprints)
    share = min(1.0, budget / max(uncut, 1))
    if any(lengths_within(footprint, share * footprint.needed()) is None for footprint in footprints):
        least = uncut * max(least_needed(footprint) / footprint.needed() for footprint in footprints)
        raise ValueError(
            f"checkpoint is {checkpoint}, but the backward pass needs at least {int(least) + 1} bytes "
            f"however `xs` {list(whole.xs.shape)} is cut in time (uncut {uncut}); allow more, or split the batch."
        )
    return share


def cuts_of(checkpoint: Checkpoint, chunk: int | None, engines: Run, part: Part, share: float) -> tuple[Cut, ...]:
    """How time is cut for one part, outermost first.

    Args:
      engines: run the part uncut.
      share: of what the part would need uncut, the share that a `MemoryBudget` leaves it.
    Raises:
      ValueError: the lengths depend on a T that is symbolic.
    """
    steps = part.xs.shape[0]
    lengths: tuple[int, ...] = ()
    if isinstance(checkpoint, MemoryBudget):
        if share < 1:
            footprint = footprint_of(engines, part)
            lengths = lengths_within(footprint, share * footprint.needed()) or ()
    elif checkpoint == "sqrt":
        if not isinstance(steps, int):
            raise ValueError(f'checkpoint is "sqrt", but T is {steps}, a symbol; say how many steps a segment has.')
        lengths = (sqrt_length(steps),)
    elif checkpoint is not None:
        lengths = (checkpoint,)
    cuts = [Cut(length, recomputed=True) for length in lengths]
    if chunk is not None:
        cuts.append(Cut(chunk, recomputed=False))
    return tuple(cut for cut in cuts if not isinstance(steps, int) or cut.length < steps)


def in_segments(run: Run, cuts: Sequence[Cut]) -> Run:
    """`run` over time that is cut, and cut again within each segment, outermost first. No cut is `run` itself.

    Steps that fill no whole segment are run last, and are not recomputed: what is stored for them is used up before
    the backward pass comes to the first segment. They do cost a copy of `xs` and `ys`, and the engine is compiled for
    them once more, so lengths that divide T are better.
    """
    if not cuts:
        return run
    (length, recomputed), inner = cuts[0], in_segments(run, cuts[1:])

    def segmented(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        steps = xs.shape[0]
        if isinstance(steps, int) and steps <= length:
            return inner(cell, params, carry, xs, masks)
        count, rest = steps // length, steps % length
        if not isinstance(rest, int):  # as under `jax.export`
            raise ValueError(f"T is {steps}, a symbol not known to be a multiple of {length}: call it {length} * t.")
        edge = rest if masks.reverse else steps - rest
        whole, end = (slice(edge, None), slice(edge)) if masks.reverse else (slice(edge), slice(edge, None))

        def segment(params: PyTree, carry: PyTree, inputs: tuple[Array, Masks]) -> tuple[PyTree, PyTree]:
            return inner(cell, params, carry, *inputs)

        if recomputed:  # the scan around it keeps XLA from merging the second computation with the first
            segment = jax.checkpoint(segment, prevent_cse=False)
        inputs = (xs, masks)
        segments = jax.tree.map(lambda a: a[whole].reshape(count, length, *a.shape[1:]), inputs)
        if typed_mesh((params, carry, inputs)) is not None:
            first = jax.tree.map(lambda a: a[0], segments)
            carry, _ = settled(lambda c: segment(params, c, first), carry)
        carry, ys = lax.scan(lambda c, i: segment(params, c, i), carry, segments, reverse=masks.reverse)
        ys = jax.tree.map(lambda y: y.reshape(count * length, *y.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, last = inner(cell, params, carry, *jax.tree.map(lambda a: a[end], inputs))
        order = (lambda y, z: [z, y]) if masks.reverse else (lambda y, z: [y, z])
        return carry, jax.tree.map(lambda y, z: jnp.concatenate(order(y, z)), ys, last)

    return segmented


class Footprint(NamedTuple):
    """What a backward pass needs at its worst moment, in bytes."""

    steps: int  # T
    carry: int  # C, the carry at one boundary between segments
    step: int  # R, what the engine needs for each of the steps that are in flight
    passing: int = 0  # P, of a step's input, output and their gradients: a segment has its own copy

    def needed(self, lengths: tuple[int, ...] = ()) -> int:
        """The estimate for segments of these lengths, outermost first; without any, R T."""
        total, steps = 0, self.steps
        for length in lengths:
            total += self.carry * math.ceil(steps / length)
            steps = min(steps, length)
            total += self.passing * steps
        return total + self.step * steps


MOST_LEVELS = 6


def sqrt_length(steps: int) -> int:
    """The length for "sqrt": ceil(√T), or up to twice that where it then divides T and no step is left over.

    Example:

      >>> sqrt_length(10_000), sqrt_length(500), sqrt_length(997)
      (100, 25, 32)
    """
    least = math.isqrt(steps - 1) + 1
    return next((length for length in range(least, 2 * least + 1) if steps % length == 0), least)


def lengths_within(footprint: Footprint, budget: float) -> tuple[int, ...] | None:
    """The lengths of nested segments, outermost first, for which `footprint.needed(lengths) <= budget`.

    n levels that cut q ways each have k_n = ceil(T / q^n); the fewest levels win, then lengths that leave no step over,
    then the least q. `None` if nothing fits.

    Example: an LSTM of 64 units and a batch of 8 in float32, 14 times [T, 8, 64] over 100,000 steps, 2.9 GB.

      >>> lstm = Footprint(steps=100_000, carry=2 * 2048, step=14 * 2048)
      >>> lengths_within(lstm, 1e9), lengths_within(lstm, 20e6), lengths_within(lstm, 2e6)
      ((25000,), (625,), (2000, 50))
    """
    for levels in range(MOST_LEVELS + 1):
        fitting: tuple[int, ...] | None = None
        for ways in _ways(footprint, levels):
            lengths = _balanced(footprint.steps, levels, ways)
            if footprint.needed(lengths) <= budget:
                fitting = lengths if fitting is None else fitting
                whole = _dividing(footprint.steps, lengths)
                if whole is not None and footprint.needed(whole) <= budget:
                    return whole
        if fitting is not None:
            return fitting
    return None


def least_needed(footprint: Footprint) -> int:
    """The least that any choice of segments brings the estimate to."""
    levels = range(MOST_LEVELS + 1)
    return min(footprint.needed(_balanced(footprint.steps, n, ways)) for n in levels for ways in _ways(footprint, n))


def _ways(footprint: Footprint, levels: int) -> range:
    """How many ways to cut at each level, up to where carries take as much as steps: finer costs more than it saves."""
    if levels == 0:
        return range(1, 2)
    steps, carry = footprint.steps, max(footprint.carry, 1)
    inside = (footprint.step * steps / carry) ** (1 / (levels + 1))  # C q = R k_n
    outside = (footprint.passing * steps / carry) ** 0.5  # C q = P k_1
    return range(2, math.ceil(min(max(inside, outside), steps ** (1 / levels))) + 1)


def _balanced(steps: int, levels: int, ways: int) -> tuple[int, ...]:
    """Each length is `ways` times the next, so that only the outermost cut can leave steps over."""
    innermost = math.ceil(steps / ways**levels)
    return tuple(innermost * ways**level for level in reversed(range(levels)))


def _dividing(steps: int, lengths: tuple[int, ...]) -> tuple[int, ...] | None:
    """The longest lengths, each at most as long as given and more than half of it, that divide T and each other."""
    found = []
    for length in lengths:
        steps = next((whole for whole in range(length, length // 2, -1) if steps % whole == 0), 0)
        if steps == 0:
            return None
        found.append(steps)
    return tuple(found)


def footprint_of(engines: Run, part: Part) -> Footprint:
    """The bytes that each step adds to the forward and backward pass of this part, uncut; and those of its carry.

    Traced for two short lengths of time, of which the difference counts. What is given and what is returned is counted
    apart, as `passing`: the inputs, the outputs, and the gradients of both.
    """

    def forward_and_backward(params: PyTree, carry: PyTree, xs: Array, masks: Any, cotangents: PyTree):
        def outputs(params: PyTree, carry: PyTree, xs: Array):
            return engines(part.cell, params, carry, xs, masks)

        ys, pullback = jax.vjp(outputs, params, carry, xs)
        return ys, pullback(cotangents)

    def peak_and_passing(steps: int) -> tuple[int, int]:
        over_time = part.xs, part.masks
        xs, masks = jax.tree.map(lambda a: jax.ShapeDtypeStruct((steps, *a.shape[1:]), a.dtype), over_time)
        given = part.params, part.carry, xs, masks
        cotangents = jax.eval_shape(lambda *of: engines(part.cell, *of), *given)
        alive = peak_bytes(jax.make_jaxpr(forward_and_backward)(*given, cotangents).jaxpr)
        return alive, 2 * (bytes_of(xs) + bytes_of(cotangents[1]))

    step, passing = (
        more - less for more, less in zip(peak_and_passing(_STEPS + 1), peak_and_passing(_STEPS), strict=True)
    )
    return Footprint(part.xs.shape[0], bytes_of(part.carry), step, passing)


_STEPS = 29
"""Enough that arrays over time outweigh what does not depend on it, such as the gradients of the parameters."""


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The most that is alive at once while the equations run in this order, inputs and outputs not counted.

    Each array is written once and freed after its last use; a loop has only its results. A compiler that fuses makes do
    with less, and rarely by much: what has to live through a loop must be written.

    Example: tanh(x) is needed until exp(x) is there, and both are 400 bytes.

      >>> import jax.numpy as jnp
      >>> peak_bytes(jax.make_jaxpr(lambda x: (jnp.tanh(x) * jnp.exp(x)).sum())(jnp.ones(100, "float32")).jaxpr)
      1200
    """
    outputs = {v for v in jaxpr.outvars if not isinstance(v, Number)}
    last_use: dict[Any, int] = {}
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        if any(v in outputs or v in last_use for v in eqn.outvars):
            for v in eqn.invars:
                if not isinstance(v, Number):
                    last_use.setdefault(v, i)
    free = outputs | set(jaxpr.invars) | set(jaxpr.constvars)
    alive = most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        alive += sum(bytes_of(v.aval) for v in eqn.outvars if v in last_use and v not in free)
        most = max(most, alive)
        done = {v for v in eqn.invars if not isinstance(v, Number) and last_use.get(v) == i and v not in free}
        alive -= sum(bytes_of(v.aval) for v in done)
    return most


def parts_of(whole: Part, where: Callable[[Any], bool]) -> list[Part]:
    """The outermost parts for which `where` holds, in the order in which they run; nothing is computed."""
    found = []

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if where(cell):
            found.append(Part(cell, *shapes_of((params, carry, xs, masks))))
            return _run_all(cell, params, carry, xs, masks)
        return cell.unroll_parts(run, params, carry, xs, masks)

    jax.eval_shape(lambda *arrays: run(whole.cell, *arrays), *whole[1:])
    return found


def _run_all(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
    """The shapes that an unroll gives, from one step; runs inside `jax.eval_shape` alone."""
    if not is_layer(cell):
        return cell.unroll_parts(_run_all, params, carry, xs, masks)
    y = check_carry(cell, params, carry, xs).y
    return carry, jax.tree.map(lambda leaf: jnp.zeros((xs.shape[0], *leaf.shape), leaf.dtype), y)
