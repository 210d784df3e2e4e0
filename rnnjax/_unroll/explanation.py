"""Explains what `unroll` does with given arguments and why, and what it costs, from shapes alone."""

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
from rnnjax._unroll.equations import ELEMENTWISE, bytes_of
from rnnjax._unroll.newton import Parallel, is_real
from rnnjax._unroll.prediction import Prediction, predict
from rnnjax._unroll.remat import Checkpoint, Cut, cuts_of, footprint_of, parts_of, share_of_budget
from rnnjax.cell import Cell, PyTree, batch_shape_of, over_time


@dataclasses.dataclass(frozen=True)
class Layer:
    """One cell over all of time.

    Attributes:
      cell: the cell's repr.
      engine: "hoisted", "scan", "loop", "associative" or "parallel".
      why: the reason; if "auto" chose "scan", what keeps the hoisted engine from running the cell.
      forward_flops: 2 × T × batch × (D + H) × G × H for a cell with G gates: its matmuls over all of time.
      projected_bytes: the projected input that is in memory at once; 0 if each step projects its own input.
      prediction: what Newton's method in time would need, if an exponent is given and the carry is real.
    """

    cell: str
    engine: str
    why: str
    forward_flops: int
    projected_bytes: int
    prediction: Prediction | None = None


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Layers that share segments of time: a stack whose layers are all causal, or a single layer.

    Attributes:
      layers: in the order in which they run.
      steps: T.
      cuts: the lengths of segments, outermost first, and whether they are recomputed in the backward pass.
      carry_bytes: C, the carry, which is stored at every boundary between segments.
      step_bytes: R, the memory of the engines for each step of the innermost segment.
      passing_bytes: P, a step's input, output and the gradients of both, which each segment copies.
      backward_bytes: the peak memory of a training step, besides the inputs, outputs and their gradients.
      uncut_bytes: the same without remat, R T.
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
        """The number of additional forward passes in the backward pass."""
        return sum(cut.recomputed for cut in self.cuts)

    @property
    def forward_flops(self) -> int:
        return sum(layer.forward_flops for layer in self.layers)

    @property
    def training_flops(self) -> int:
        """The forward pass, twice that for the backward pass, and recomputation."""
        return (3 + self.recomputed) * self.forward_flops


@dataclasses.dataclass(frozen=True)
class Explanation:
    """An explanation of `unroll`, in consecutive parts; `print` it.

    Attributes:
      parts: the parts, each with its layers and its own segments of time.
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
        """The maximum over layers, since they run one after another."""
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
                if layer.prediction is not None:
                    lines.append(f"  in parallel, {layer.prediction}, {_scaled(layer.prediction.bytes, 'B')}")
            lines.append(f"  time: {_cuts(part)}")
            lines.append(
                f"  backward pass {_scaled(part.backward_bytes, 'B')} "
                f"({_scaled(part.step_bytes, 'B')} per step, {_scaled(part.carry_bytes, 'B')} per carry)"
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
    exponent: ArrayLike | None = None,
) -> Explanation:
    """Explains on which engine `rnnjax.unroll` runs each layer and why, its segments, and the expected bytes and FLOPs.

    It makes the same decisions as `unroll`, without computing anything. Bytes are estimated from the jaxprs of the
    forward and backward pass; for the built-in cells, XLA is within a fifth of them. `xs`, `ys` and their gradients
    come on top. If a loss needs only the last state, use the carry instead of `ys[-1]`.

    Args:
      As for `rnnjax.unroll`; arrays may be `jax.ShapeDtypeStruct`s.
      exponent: the leading Lyapunov exponent of the network with such inputs, in nats per step, given or measured
        (`rnnjax.gradients.leading_exponent`, of several rows the largest counts): adds what `rnnjax.Parallel` is
        expected to need.
    Returns:
      An `Explanation`; print it.
    Raises:
      ValueError, TypeError: as `rnnjax.unroll` for these shapes.

    Example: 10,000 steps of an LSTM, without drawing parameters.

      >>> import jax, rnnjax
      >>> cell = rnnjax.LSTM(hidden_size=64)
      >>> params = jax.eval_shape(lambda key: cell.init(key, 32, "float32"), jax.random.key(0))
      >>> xs = jax.ShapeDtypeStruct((10_000, 8, 32), "float32")
      >>> plan = rnnjax.explain(cell, params, xs, checkpoint="sqrt")
      >>> plan.layers[0].engine, plan.parts[0].cuts
      ('hoisted', (Cut(length=100, recomputed=True),))
      >>> plan.forward_flops == 2 * 10_000 * 8 * (32 + 64) * 4 * 64
      True
      >>> [rnnjax.explain(cell, params, xs, exponent=e).layers[0].prediction.converges for e in (-0.2, 0.1)]
      [True, False]
    """
    options = Options(engine, unroll, checkpoint, chunk)

    def whole_of(params: PyTree, carry: PyTree, xs: Any, lengths: Any, mask: Any, resets: Any):
        return make_whole(cell, params, carry, xs, lengths, mask, resets, reverse)[1:]

    whole = Part(cell, *jax.eval_shape(whole_of, *_shapes((params, carry, xs, lengths, mask, resets))))
    share = share_of_budget(options.checkpoint, on_engines(options), whole)
    return Explanation(tuple(_segmented(options, part, share, exponent) for part in parts_of(whole, is_causal)))


def _segmented(options: Options, part: Part, share: float, exponent: Any) -> Segmented:
    engines = on_engines(options)
    cuts = cuts_of(options.checkpoint, options.chunk, engines, part, share)
    footprint = footprint_of(engines, part)
    at_once = min([footprint.steps, *(cut.length for cut in cuts)])
    return Segmented(
        layers=tuple(_layer(options, layer, at_once, exponent) for layer in parts_of(part, is_layer)),
        steps=footprint.steps,
        cuts=cuts,
        carry_bytes=footprint.carry,
        step_bytes=footprint.step,
        passing_bytes=footprint.passing,
        backward_bytes=footprint.needed(tuple(cut.length for cut in cuts if cut.recomputed)),
        uncut_bytes=footprint.needed(),
    )


def _layer(options: Options, part: Part, at_once: int, exponent: Any) -> Layer:
    cell, steps, batch_shape = part.cell, part.xs.shape[0], batch_shape_of(part.cell, part.xs)
    choice = choose_engine(options.engine, cell, part.params, part.carry, part.xs)
    x = jax.ShapeDtypeStruct(part.xs.shape[1:], part.xs.dtype)
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
        prediction=None if exponent is None else _prediction(options, part, batch_shape, at_once, exponent),
    )


def _prediction(
    options: Options, part: Part, batch_shape: tuple[int, ...], at_once: int, exponent: Any
) -> Prediction | None:
    leaves = jax.tree.leaves(part.carry)
    if not is_real(part.carry):
        return None
    rows, numbers = math.prod(batch_shape), sum(math.prod(leaf.shape) for leaf in leaves)
    parallel = options.engine if isinstance(options.engine, Parallel) else Parallel()
    return predict(parallel, exponent, part.xs.shape[0], at_once, rows, numbers // rows, leaves[0].dtype)


def matmul_flops(function: Callable[..., Any], *args: Any, elementwise: bool = False) -> int:
    """2 m n k for every product of an m × k with a k × n matrix; arguments may be `jax.ShapeDtypeStruct`s.

    So is a convolution, with m places and n output channels; products with its padding count. Elementwise operations do
    not count, unless `elementwise`, then one for each number; a scan counts once per step, and a conditional counts as
    its most expensive branch.

    Example:

      >>> matmul_flops(lambda x, w: jax.nn.relu(x @ w), jnp.ones((5, 3)), jnp.ones((3, 4)))
      120
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr, elementwise)


def _flops(jaxpr: Jaxpr, elementwise: bool) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(_shape_of(eqn.invars[0])[axis] for axis in contracted)
            total += 2 * depth * math.prod(_shape_of(eqn.outvars[0]))
            continue
        if eqn.primitive.name == "conv_general_dilated":
            kernel, outputs = _shape_of(eqn.invars[1]), eqn.params["dimension_numbers"].rhs_spec[0]
            total += 2 * math.prod(kernel) // kernel[outputs] * math.prod(_shape_of(eqn.outvars[0]))
            continue
        inside = [_flops(inner, elementwise) for inner in _inner(eqn.params.values())]
        if inside:
            total += max(inside) if eqn.primitive.name == "cond" else sum(inside) * eqn.params.get("length", 1)
        elif elementwise and (eqn.primitive.name in ELEMENTWISE or eqn.primitive.name == "reduce_sum"):
            total += math.prod(_shape_of(eqn.invars[0] if eqn.primitive.name == "reduce_sum" else eqn.outvars[0]))
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
    """The shapes of arrays; lists and NumPy arrays get the dtypes of `jnp.asarray`."""
    return jax.tree.map(lambda a: a if isinstance(a, jax.ShapeDtypeStruct) else shapes_of(jnp.asarray(a)), tree)


def _cuts(part: Segmented) -> str:
    if not part.cuts:
        return f"{part.steps} steps, uncut"
    within = [f"{part.steps} steps"]
    for cut in part.cuts:
        within.append(f"segments of {cut.length}, recomputed" if cut.recomputed else f"chunks of {cut.length}")
    return " in ".join(within)


def _scaled(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000 or prefix == "T":
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    raise AssertionError
