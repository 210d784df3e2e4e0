"""Rematerialisation (remat): splits time into segments, which the backward pass recomputes.

The memory of the backward pass grows with the number of steps whose values are stored. With `jax.checkpoint` around a
segment, only the carry at its start is stored, and the backward pass recomputes the segment. With S segments of
k = T / S steps, this needs S carries and the values of k steps instead of T. Nested segments need even less, with one
more forward pass per level. Without `jax.checkpoint`, segments still bound the memory of the forward pass: the
projected input of the hoisted engine.

`share_of_budget` and `cuts_of` turn the `checkpoint` argument into cuts, `in_segments` runs the segments, and
`footprint_of` estimates the memory of a backward pass from its jaxpr.
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
    """The number of bytes that a training step may use; time is split into nested segments until the estimate fits.

    With R bytes for a step of the engine's backward pass, C for the carry, P for a step's input, output and their
    gradients, and n levels of segments k_1 > k_2 > ... > k_n,

        needed = C (ceil(T / k_1) + ceil(k_1 / k_2) + ...) + P (k_1 + ... + k_n) + R k_n

    and every level costs one more forward pass. The smallest number of levels that fits is used, with the longest k_n.
    `xs`, the outputs and their gradients do not count, since segments cannot change them. (If k_1 cannot divide T, a
    copy of `xs` and of the outputs comes on top.) `rnnjax.explain` shows C, R, P and the lengths.

    Attributes:
      bytes: the budget for one call of `unroll`, for all layers together.

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
    """Checks the `checkpoint` argument.

    Raises:
      ValueError: a number of steps below 1, or an unknown string.
      TypeError: any other invalid value, including True and False.
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
    """Checks the `chunk` argument: ValueError below 1, TypeError for anything but an integer."""
    if isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"chunk is {chunk!r}; it must be the number of steps per input projection, or None.")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least one step, or None for all of time.")


class Cut(NamedTuple):
    """A split of time into segments of `length` steps, which are `recomputed` in the backward pass or not."""

    length: int
    recomputed: bool


def share_of_budget(checkpoint: Checkpoint, engines: Run, whole: Part) -> float:
    """The share of its uncut memory that each part may use; 1 without a budget, or if everything fits.

    Raises:
      ValueError: no choice of segments meets the budget.
    """
    if not isinstance(checkpoint, MemoryBudget):
        return 1.0
    budget = checkpoint.bytes
    if not all(isinstance(size, int) for size in whole.xs.shape):
        raise ValueError(
            f"checkpoint is {checkpoint}, but `xs` is {list(whole.xs.shape)}; a budget in bytes needs numbers."
        )
    footprints = [footprint_of(engines, part) for part in parts_of(whole, is_causal)]
    uncut = sum(footprint.needed() for footprint in footprints)
    share = min(1.0, budget / max(uncut, 1))
    if any(lengths_within(footprint, share * footprint.needed()) is None for footprint in footprints):
        least = uncut * max(least_needed(footprint) / footprint.needed() for footprint in footprints)
        raise ValueError(
            f"checkpoint is {checkpoint}, but the backward pass needs at least {int(least) + 1} bytes "
            f"for any segments of `xs` {list(whole.xs.shape)} in time (uncut {uncut}); allow more, or split the batch."
        )
    return share


def cuts_of(checkpoint: Checkpoint, chunk: int | None, engines: Run, part: Part, share: float) -> tuple[Cut, ...]:
    """The cuts of one part, outermost first.

    Args:
      engines: runs the part uncut.
      share: the share of its uncut memory that a `MemoryBudget` allows.
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
            raise ValueError(f'checkpoint is "sqrt", but T is {steps}, a symbol; give the number of steps per segment.')
        lengths = (sqrt_length(steps),)
    elif checkpoint is not None:
        lengths = (checkpoint,)
    cuts = [Cut(length, recomputed=True) for length in lengths]
    if chunk is not None:
        cuts.append(Cut(chunk, recomputed=False))
    return tuple(cut for cut in cuts if not isinstance(steps, int) or cut.length < steps)


def in_segments(run: Run, cuts: Sequence[Cut]) -> Run:
    """`run` over nested segments of time, outermost first; without cuts, `run` itself.

    Remaining steps that do not fill a segment run last and are not recomputed, because the backward pass frees their
    values before it reaches the first segment. They cost a copy of `xs` and `ys`, and the engine compiles again for
    them, so lengths that divide T are better.
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

        if recomputed:  # the surrounding scan keeps XLA from merging the recomputation with the original
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
    """The peak memory of a backward pass, in bytes."""

    steps: int  # T
    carry: int  # C, the carry at one boundary between segments
    step: int  # R, the memory of the engine for each step of the innermost segment
    passing: int = 0  # P, a step's input, output and their gradients, which each segment copies

    def needed(self, lengths: tuple[int, ...] = ()) -> int:
        """The estimate for segments of these lengths, outermost first; R T without segments."""
        total, steps = 0, self.steps
        for length in lengths:
            total += self.carry * math.ceil(steps / length)
            steps = min(steps, length)
            total += self.passing * steps
        return total + self.step * steps


MOST_LEVELS = 6


def sqrt_length(steps: int) -> int:
    """The segment length for "sqrt": ceil(√T), or a length up to twice that which divides T.

    Example:

      >>> sqrt_length(10_000), sqrt_length(500), sqrt_length(997)
      (100, 25, 32)
    """
    least = math.isqrt(steps - 1) + 1
    return next((length for length in range(least, 2 * least + 1) if steps % length == 0), least)


def lengths_within(footprint: Footprint, budget: float) -> tuple[int, ...] | None:
    """The lengths of nested segments, outermost first, for which `footprint.needed(lengths) <= budget`.

    With n levels of q segments each, k_n = ceil(T / q^n). Fewer levels are preferred, then lengths that divide T, then
    the smallest q. `None` if nothing fits.

    Example: an LSTM with 64 units and a batch of 8 in float32 over 100,000 steps: 14 arrays [T, 8, 64], or 2.9 GB.

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
    """The smallest estimate for any choice of segments."""
    levels = range(MOST_LEVELS + 1)
    return min(footprint.needed(_balanced(footprint.steps, n, ways)) for n in levels for ways in _ways(footprint, n))


def _ways(footprint: Footprint, levels: int) -> range:
    """The numbers of segments per level to try, up to where carries need as much memory as steps."""
    if levels == 0:
        return range(1, 2)
    steps, carry = footprint.steps, max(footprint.carry, 1)
    inside = (footprint.step * steps / carry) ** (1 / (levels + 1))  # C q = R k_n
    outside = (footprint.passing * steps / carry) ** 0.5  # C q = P k_1
    return range(2, math.ceil(min(max(inside, outside), steps ** (1 / levels))) + 1)


def _balanced(steps: int, levels: int, ways: int) -> tuple[int, ...]:
    """Lengths that are each `ways` times the next, so that only the outermost cut can have remaining steps."""
    innermost = math.ceil(steps / ways**levels)
    return tuple(innermost * ways**level for level in reversed(range(levels)))


def _dividing(steps: int, lengths: tuple[int, ...]) -> tuple[int, ...] | None:
    """The longest lengths that divide T and each other, each at most as long as given and more than half of it."""
    found = []
    for length in lengths:
        steps = next((whole for whole in range(length, length // 2, -1) if steps % whole == 0), 0)
        if steps == 0:
            return None
        found.append(steps)
    return tuple(found)


def footprint_of(engines: Run, part: Part) -> Footprint:
    """The bytes that each step adds to the forward and backward pass of this part, uncut, and the bytes of its carry.

    They are the difference between traces for two short lengths. The inputs, the outputs and their gradients are
    counted separately, as `passing`.
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
"""Long enough that arrays over time outweigh arrays without time, such as the gradients of the parameters."""


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The peak memory while the equations run in this order, without inputs and outputs.

    Each array is written once and freed after its last use; a loop counts only its results. A fusing compiler needs
    less, but rarely much less, since arrays that live through a loop must be written.

    Example: tanh(x) is alive until exp(x) is computed, and both have 400 bytes.

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
    """The outermost parts for which `where` is true, in the order in which they run, without computing anything."""
    found = []

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if where(cell):
            found.append(Part(cell, *shapes_of((params, carry, xs, masks))))
            return _run_all(cell, params, carry, xs, masks)
        return cell.unroll_parts(run, params, carry, xs, masks)

    jax.eval_shape(lambda *arrays: run(whole.cell, *arrays), *whole[1:])
    return found


def _run_all(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
    """The result shapes of an unroll, from one step; only for use inside `jax.eval_shape`."""
    if not is_layer(cell):
        return cell.unroll_parts(_run_all, params, carry, xs, masks)
    y = check_carry(cell, params, carry, xs).y
    return carry, jax.tree.map(lambda leaf: jnp.zeros((xs.shape[0], *leaf.shape), leaf.dtype), y)
