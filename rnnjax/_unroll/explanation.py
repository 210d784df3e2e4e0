"""What `unroll` would do with these arguments and why, and what it would cost, from shapes alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import Composite, Part, is_causal, is_layer, make_whole, shapes_of
from rnnjax._unroll.contract import Engine, Options, choose_engine, on_engines
from rnnjax._unroll.equations import bytes_of
from rnnjax._unroll.remat import Checkpoint, Cut, cuts_of, footprint_of, parts_of, share_of_budget
from rnnjax.cell import Cell, PyTree, over_time


@dataclasses.dataclass(frozen=True)
class Layer:
    """One cell over all of time.

    Attributes:
      cell: the cell's repr.
      engine: "hoisted", "scan" or "loop".
      why: the reason for it; for "scan" where "auto" was asked for, what keeps the hoisted engine from serving.
      forward_flops: 2 × T × batch × (D + H) × G × H for a cell of G gates: its matmuls, once over all of time.
      projected_bytes: the projected input that the engine has in memory at once; 0 where each step projects its own.
    """

    cell: str
    engine: str
    why: str
    forward_flops: int
    projected_bytes: int


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Layers for which time is cut as one: a stack whose layers are all causal, or a single layer.

    Attributes:
      layers: in the order in which they run.
      steps: T.
      cuts: the lengths of segments, outermost first, and whether they are computed again in the backward pass.
      carry_bytes: C, of the carry, stored at every boundary between segments.
      step_bytes: R, what the engines need for each of the steps that are in flight.
      passing_bytes: P, of a step's input, output and the gradients of both, of which each segment has a copy.
      backward_bytes: what a training step needs at its worst moment, beyond the inputs, outputs and their gradients.
      uncut_bytes: the same without any checkpoint, R T.
    """

    layers: tuple[Layer, ...]
    steps: int
    cuts: tuple[Cut, ...]
    carry_bytes: int
    step_bytes: int
    passing_bytes: int
    backward_bytes: int
    uncut_bytes: int

    @property
    def recomputed(self) -> int:
        """How many more forward passes the backward pass takes."""
        return sum(cut.recomputed for cut in self.cuts)

    @property
    def forward_flops(self) -> int:
        return sum(layer.forward_flops for layer in self.layers)

    @property
    def training_flops(self) -> int:
        """Forward, twice that backward, and what is computed again."""
        return (3 + self.recomputed) * self.forward_flops


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `unroll` does, in parts that follow each other; `print` it.

    Attributes:
      parts: each with its layers and its own segments of time.
    """

    parts: tuple[Segmented, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for part in self.parts for layer in part.layers)

    @property
    def forward_flops(self) -> int:
        return sum(part.forward_flops for part in self.parts)

    @property
    def training_flops(self) -> int:
        return sum(part.training_flops for part in self.parts)

    @property
    def backward_bytes(self) -> int:
        return sum(part.backward_bytes for part in self.parts)

    @property
    def projected_bytes(self) -> int:
        """Layers run one after the other, so the largest of them."""
        return max(layer.projected_bytes for layer in self.layers)

    def __str__(self) -> str:
        lines = []
        for part in self.parts:
            for layer in part.layers:
                lines.append(f"{layer.cell}")
                lines.append(f"  {layer.engine} ({layer.why})")
                lines.append(
                    f"  forward {_scaled(layer.forward_flops, 'FLOP')}, "
                    f"projected input {_scaled(layer.projected_bytes, 'B')}"
                )
            lines.append(f"  time: {_cuts(part)}")
            lines.append(
                f"  backward pass {_scaled(part.backward_bytes, 'B')} "
                f"({_scaled(part.step_bytes, 'B')} a step in flight, {_scaled(part.carry_bytes, 'B')} a carry)"
                + (f", uncut {_scaled(part.uncut_bytes, 'B')}" if part.recomputed else "")
            )
        forward, training = _scaled(self.forward_flops, "FLOP"), _scaled(self.training_flops, "FLOP")
        backward = _scaled(self.backward_bytes, "B")
        lines.append(f"total: forward {forward}, training step {training}, backward pass {backward}")
        return "\n".join(lines)


@over_time
def explain(
    cell: Cell | Composite,
    params: PyTree,
    xs: ArrayLike | jax.ShapeDtypeStruct,
    *,
    carry: PyTree | None = None,
    lengths: ArrayLike | jax.ShapeDtypeStruct | None = None,
    mask: ArrayLike | jax.ShapeDtypeStruct | None = None,
    resets: ArrayLike | jax.ShapeDtypeStruct | None = None,
    reverse: bool = False,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
    unroll: int = 1,
) -> Explanation:
    """Which engine `rnnjax.unroll` runs each layer on and why, how it cuts time, and the bytes and FLOPs to expect.

    It asks the same functions as `unroll` does and computes nothing. Bytes are read from the equations of the forward
    and backward pass; XLA comes within a fifth of them for the built-in cells. `xs`, `ys` and their gradients come on
    top, whatever is chosen: where a loss needs the last state alone, read it from the carry rather than from `ys[-1]`.

    Args:
      As `rnnjax.unroll`; arrays may be `jax.ShapeDtypeStruct`s.
    Returns:
      An `Explanation`; its `str` is meant to be read.
    Raises:
      ValueError, TypeError: as `rnnjax.unroll` does for these shapes.

    Example: 10,000 steps of an LSTM, without drawing a parameter.

      >>> import jax, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=64)
      >>> params = jax.eval_shape(lambda key: cell.init(key, 32, "float32"), jax.random.key(0))
      >>> xs = jax.ShapeDtypeStruct((10_000, 8, 32), "float32")
      >>> plan = rnnjax.explain(cell, params, xs, checkpoint="sqrt")
      >>> plan.layers[0].engine, plan.parts[0].cuts
      ('hoisted', (Cut(length=100, recomputed=True),))
      >>> plan.forward_flops == 2 * 10_000 * 8 * (32 + 64) * 4 * 64
      True
    """
    options = Options(engine, unroll, checkpoint, chunk)

    def whole_of(params: PyTree, carry: PyTree, xs: Any, lengths: Any, mask: Any, resets: Any):
        return make_whole(cell, params, carry, xs, lengths, mask, resets, reverse)[1:]

    whole = Part(cell, *jax.eval_shape(whole_of, *_shapes((params, carry, xs, lengths, mask, resets))))
    share = share_of_budget(options.checkpoint, on_engines(options), whole)
    return Explanation(tuple(_segmented(options, part, share) for part in parts_of(whole, is_causal)))


def _segmented(options: Options, part: Part, share: float) -> Segmented:
    engines = on_engines(options)
    cuts = cuts_of(options.checkpoint, options.chunk, engines, part, share)
    footprint = footprint_of(engines, part)
    at_once = min([footprint.steps, *(cut.length for cut in cuts)])
    return Segmented(
        layers=tuple(_layer(options, layer, at_once) for layer in parts_of(part, is_layer)),
        steps=footprint.steps,
        cuts=cuts,
        carry_bytes=footprint.carry,
        step_bytes=footprint.step,
        passing_bytes=footprint.passing,
        backward_bytes=footprint.needed(tuple(cut.length for cut in cuts if cut.recomputed)),
        uncut_bytes=footprint.needed(),
    )


def _layer(options: Options, part: Part, at_once: int) -> Layer:
    cell, (steps, *batch_shape, features), dtype = part.cell, part.xs.shape, part.xs.dtype
    choice = choose_engine(options.engine, cell, part.params, part.carry, part.xs)
    x = jax.ShapeDtypeStruct((*batch_shape, features), dtype)
    projected = 0
    if choice.found is not None:
        reading = choice.found.reading
        pieces = reading.us if reading.gates is None else reading.in_loop.pieces
        projected = at_once * math.prod(batch_shape) * bytes_of(pieces)
    return Layer(
        cell=repr(cell),
        engine=choice.engine,
        why=choice.why,
        forward_flops=steps * matmul_flops(cell.step, part.params, part.carry, x),
        projected_bytes=projected,
    )


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """2 m n k for every product of an m × k with a k × n matrix; arguments may be `jax.ShapeDtypeStruct`s.

    What is pointwise is left out, a scan counts for each of its steps, and of a conditional the dearest branch counts.

    Example:

      >>> matmul_flops(lambda x, w: jax.nn.relu(x @ w), jnp.ones((5, 3)), jnp.ones((3, 4)))
      120
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(_shape_of(eqn.invars[0])[axis] for axis in contracted)
            total += 2 * depth * math.prod(_shape_of(eqn.outvars[0]))
            continue
        inside = [_flops(inner) for inner in _inner(eqn.params.values())]
        if inside:
            total += max(inside) if eqn.primitive.name == "cond" else sum(inside) * eqn.params.get("length", 1)
    return total


def _inner(values: Any) -> list[Jaxpr]:
    found = []
    for value in values:
        if isinstance(value, ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, Jaxpr):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _inner(value)
    return found


def _shape_of(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _shapes(tree: PyTree) -> PyTree:
    """Arrays by their shapes; `jnp.asarray`'s dtypes for lists and NumPy arrays."""
    return jax.tree.map(lambda a: a if isinstance(a, jax.ShapeDtypeStruct) else shapes_of(jnp.asarray(a)), tree)


def _cuts(part: Segmented) -> str:
    if not part.cuts:
        return f"{part.steps} steps, uncut"
    within = [f"{part.steps} steps"]
    for cut in part.cuts:
        within.append(f"segments of {cut.length}, computed again" if cut.recomputed else f"chunks of {cut.length}")
    return " in ".join(within)


def _scaled(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000 or prefix == "T":
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    raise AssertionError
