"""Shared parts of `rnnjax.gradients`: prepared sequences, steps with accurate derivatives, and finite steps.

`prepare` checks a sequence, applies masks, and puts it into scan order.

JAX differentiates tanh as (1 + y)(1 - y) and the logistic function as y (1 - y), with the rounded y. In float32 this
has an error of 6% at |x| = 8, and is exactly zero from |x| = 10 on (19 in float64), where the true derivative is small
but
nonzero: 1.7e-17 at |x| = 20. A measurement would take this for a vanished gradient. An `AccurateCell` evaluates a step
with the derivatives

    tanh'(x) = 4 e^(-2|x|)/(1 + e^(-2|x|))²            σ'(x) = e^(-|x|)/(1 + e^(-|x|))²

which are accurate throughout the range of floating point (|x| = 350, in float32 43). Cells and engines, which training
uses, keep JAX's derivatives.

A step is finite if its input, the carry before and after it, and, for a gradient of a loss, its output are finite. A
masked step counts as finite. The Jacobian of a non-finite step is unknown, but the computed one may look normal: the
derivative of a ReLU at NaN is 0, so an overflowing trajectory would look like one with inactive units. Therefore
results that pass through a non-finite step are NaN (`only_known`), and the number of finite steps is returned too. A
derivative that depends on neither carry nor input, as in a linear network, remains correct.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import (
    StepInput,
    blank,
    check_carry,
    check_cell,
    checked_xs,
    make_masks,
)
from rnnjax._unroll.equations import Equation, Value, evaluate, needed_for, traced, value_in
from rnnjax.cell import Cell, PyTree, batch_shape_of, held_cells
from rnnjax.gradients.adjoint_clipping import ClippedAdjoint

Loss = Callable[[PyTree], Array]
"""A scalar function of the outputs `ys` `[T, *batch, ...]`, which may use every step."""


class Sequence(NamedTuple):
    """A prepared sequence.

    Attributes:
      carry: the carry before the first step.
      inputs: leaves `[T, *batch, ...]` in scan order.
      loss: a function of the outputs in scan order (the user's loss takes outputs in input order).
      batch_shape: the batch axes.
    """

    carry: PyTree
    inputs: StepInput
    loss: Loss
    batch_shape: tuple[int, ...]


def prepare(
    cell: Cell,
    params: PyTree,
    carry: PyTree | None,
    xs: ArrayLike,
    loss: Loss,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
) -> Sequence:
    """Makes all checks of `rnnjax.unroll`, and those needed for gradients.

    Raises:
      TypeError: the cell has no single step (`Bidirectional`), or the carry is not float32 or float64.
      ValueError: as in `rnnjax.unroll`; also, when the loss is called, if it is not a real scalar.
    """
    check_has_step(cell)
    xs = checked_xs(xs, cell)
    batch_shape = batch_shape_of(cell, xs)
    masks = make_masks(xs, lengths, mask, resets, reverse, batch_shape)
    xs = blank(xs, masks)
    carry = cell.initial_carry(params, batch_shape) if carry is None else carry
    check_carry(cell, params, carry, xs)
    check_floating(carry)
    inputs = in_input_order(StepInput(xs, masks.counts, masks.resets), reverse)

    def checked_loss(ys: PyTree) -> Array:
        value = loss(in_input_order(ys, reverse))
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"`loss(ys)` is {dtype} {list(shape)}; it must be one floating-point number: sum or average over steps "
                "and rows."
            )
        return value

    return Sequence(carry, inputs, checked_loss, batch_shape)


def check_has_step(cell: Cell) -> None:
    """Raises TypeError if the cell has no single step and carry."""
    check_cell(cell)
    if not hasattr(cell, "step"):
        raise TypeError(
            f"{cell!r} has no single step, and so no single carry; measure its two cells one by one: use your loss as "
            "a function of the outputs of one cell, with the other's held fixed."
        )


def check_no_clipping(cell: Any) -> None:
    """Raises TypeError for a cell that clips its adjoint, or that contains one."""
    for held in held_cells(cell):
        if isinstance(held, ClippedAdjoint):
            raise TypeError(
                f"{held!r} clips its adjoint, which depends on the norm that is divided out here; pass the wrapped "
                "cell, or use `rnnjax.gradients.adjoint_by_perturbation`, which gives the clipped adjoint."
            )


def check_floating(carry: PyTree) -> None:
    """Raises TypeError if a part of the carry has no gradient, or a dtype with too little precision."""
    for path, leaf in jax.tree.leaves_with_path(carry):
        dtype, where = jnp.result_type(leaf), jax.tree_util.keystr(path)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"`carry`{where} is {dtype}, which has no gradient: keep counters and flags out of the carry (pass "
                "them in `xs`), or make them float32."
            )
        if dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"`carry`{where} is {dtype}; the log of a norm needs float32 or float64: "
                "draw parameters with `init(..., dtype='float32')` and cast `xs` to match."
            )


def in_input_order(tree: PyTree, reverse: bool) -> PyTree:
    """Converts leaves `[T, ...]` from scan order to input order, or back."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), tree) if reverse else tree


def inexact(tree: PyTree) -> list[Array]:
    """The leaves that have a gradient; outputs may also include counters and flags."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def gradient_of_outputs(loss: Loss, ys: PyTree) -> list[Array]:
    """dL/dy for each leaf of `inexact(ys)`."""
    leaves, tree = jax.tree.flatten(ys)
    which = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def of_these(given: list[Array]) -> Array:
        merged = list(leaves)
        for i, leaf in zip(which, given, strict=True):
            merged[i] = leaf
        return loss(tree.unflatten(merged))

    return jax.grad(of_these)([leaves[i] for i in which])


def outputs_in_carry(cell: Cell, params: PyTree, carry: PyTree, x: Array) -> list[int | None]:
    """For each leaf of `inexact(y)`, the leaf of the carry that it equals, if any: the LSTM's y is its h.

    If the output is part of the carry, a change of carry_t also changes y_t, so y_t contributes directly to
    dL/d(carry_t). In the traced step, y and the carry are then the same variable.
    """
    closed, (new_carry, y) = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    origins = _origins(closed.jaxpr, [(id(variable),) for variable in closed.jaxpr.invars])
    count = len(jax.tree.leaves(new_carry))
    in_carry, in_y = origins[:count], origins[count:]
    homes = [in_carry.index(origin) if origin in in_carry else None for origin in in_y]
    followed = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(y)]
    return [home for home, counts in zip(homes, followed, strict=True) if counts]


_CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
"""Primitives that wrap a function without changing its values."""


def _origins(program: Any, given: list[tuple], path: tuple = ()) -> list[tuple]:
    """A name for each output of a jaxpr, which is the same for two equal outputs, also inside a jitted step."""
    known = {id(variable): origin for variable, origin in zip(program.invars, given, strict=True)}

    def origin(variable: Any) -> tuple:
        return known.get(id(variable), (*path, id(variable)))

    for call in program.eqns:
        inner = call.params.get("jaxpr", call.params.get("call_jaxpr"))
        if call.primitive.name in _CALLS and inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            if len(inner.invars) == len(call.invars):
                found = _origins(inner, [origin(variable) for variable in call.invars], (*path, id(call)))
                known |= {id(variable): each for variable, each in zip(call.outvars, found, strict=True)}
    return [origin(variable) for variable in program.outvars]


@dataclasses.dataclass(frozen=True)
class AccurateCell:
    """The step and initial carry of a cell, with the derivatives above; for `timed_step`."""

    cell: Cell

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return accurate(self.cell.step)(params, carry, x)


def as_cell(accurate_cell: AccurateCell) -> Cell:
    """For the type checker: `timed_step` needs only these two methods of a cell."""
    return cast(Cell, accurate_cell)


def accurate(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, in which tanh and the logistic function have the derivatives above.

    Inside the function's own loops and branches (`lax.scan`, `lax.cond`), they keep JAX's derivatives.

    Example: at 20 the derivative of tanh is 1.7e-17, which JAX rounds to zero in float32.

      >>> float(jax.grad(jnp.tanh)(20.0)), float(jax.grad(accurate(jnp.tanh))(20.0))
      (0.0, 1.69934...e-17)
    """

    def run(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
        program, closed_over, result, _ = traced(lambda *leaves: function(*tree.unflatten(leaves)), *shapes)
        env = dict(zip(program.inputs, leaves, strict=True)) | dict(zip(program.closed_over, closed_over, strict=True))
        evaluate(program.equations, env, rules=accurate_rules(program.equations))
        return jax.tree.structure(result).unflatten([value_in(env, v) for v in program.outputs])

    return run


def accurate_rules(equations: list[Equation]) -> dict[Value, Callable[[Array], Array]]:
    """Rules for `evaluate` that give every tanh and logistic function the derivatives above."""
    instead = {"tanh": tanh, "logistic": logistic}
    return {eqn.output: instead[eqn.name] for eqn in equations if eqn.name in instead}


@jax.custom_jvp
def tanh(x: Array) -> Array:
    """`jnp.tanh` with an accurate derivative."""
    return jnp.tanh(x)


@tanh.defjvp
def _tanh_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    small = jnp.exp(-2 * jnp.abs(x))
    return tanh(x), dx * (4 * small / (1 + small) ** 2)


@jax.custom_jvp
def logistic(x: Array) -> Array:
    """`jax.nn.sigmoid` with an accurate derivative."""
    return jax.lax.logistic(x)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    small = jnp.exp(-jnp.abs(x))
    return logistic(x), dx * (small / (1 + small) ** 2)


class Reads(NamedTuple):
    """Whether a derivative of a step depends on the carry, and on the input."""

    carry: bool
    x: bool


class FiniteSteps(NamedTuple):
    """Which steps are finite, as `[T, *batch]` booleans in scan order.

    Attributes:
      carry: whether the carry before and after the step is finite, and the output if there is one.
      x: whether the input is finite.
    """

    carry: Array
    x: Array

    @property
    def count(self) -> Array:
        """`[*batch]` int32, the number of finite steps."""
        return (self.carry & self.x).sum(0, dtype=jnp.int32)

    def known(self, reads: Reads) -> Array | None:
        """`[T, *batch]`, whether a derivative with these dependencies is known at each step; None: at all steps."""
        flags = [flag for flag, read in zip(self, reads, strict=True) if read]
        return functools.reduce(jnp.logical_and, flags) if flags else None


def finite_steps(sequence: Sequence, carries: PyTree, last: PyTree, ys: list[Array]) -> FiniteSteps:
    """The finite steps of a trajectory in scan order.

    Args:
      carries: the carries before each step, leaves `[T, *batch, ...]`; `last`: the carry after the last step.
      ys: floating outputs, `[T, *batch, ...]`.
    """
    inputs, ndim = sequence.inputs, 1 + len(sequence.batch_shape)
    before = rows_finite(carries, ndim)
    after = jnp.concatenate([before[1:], rows_finite(last, ndim - 1)[None]])
    if inputs.resets is not None:
        before = before | inputs.resets
    found = FiniteSteps(before & after & rows_finite(ys, ndim), rows_finite(inputs.x, ndim))
    return found if inputs.counts is None else FiniteSteps(*(flag | ~inputs.counts for flag in found))


def rows_finite(tree: PyTree, batch_ndim: int) -> Array:
    """`[*batch]`, whether each row is finite in all leaves `[*batch, ...]`."""
    flags = [jnp.isfinite(leaf).all(tuple(range(batch_ndim, leaf.ndim))) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, flags)


def derivative_reads(derivative: Callable[..., Any], carry: PyTree, x: Any, *more: PyTree) -> list[Reads]:
    """The dependencies of each leaf of `derivative(carry, x, *more)`, from its jaxpr."""
    program = traced(derivative, *jax.tree.map(_shape, (carry, x, *more)))[0]
    carries = len(jax.tree.leaves(carry))
    of_carry, of_x = set(program.inputs[:carries]), program.inputs[carries]
    found: list[Reads] = []
    for output in program.outputs:
        read = {value for eqn in needed_for([output], program.equations) for value in eqn.inputs} | {output}
        found.append(Reads(bool(of_carry & read), of_x in read))
    return found


def pullback_reads(
    cell: Cell, params: PyTree, inputs: StepInput, carry: PyTree, followed: Callable[[PyTree], list[Array]]
) -> tuple[Reads, PyTree]:
    """The dependencies of a step's dL/d(carry), and of dL/dθ for each parameter: a `Reads`, and a tree of `Reads`.

    Args:
      followed: selects the leaves of an output that a loss may depend on.
    """
    leaves, tree = jax.tree.flatten(params)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    weights = [_shape(leaves[i]) for i in floating]
    carry, x = jax.tree.map(_shape, carry), jax.ShapeDtypeStruct(inputs.x.shape[1:], inputs.x.dtype)

    def step(weights: list[Array], carry: PyTree, x: Array) -> tuple[PyTree, list[Array]]:
        merged = list(leaves)
        for i, weight in zip(floating, weights, strict=True):
            merged[i] = weight
        new_carry, y = cell.step(tree.unflatten(merged), carry, x)
        return new_carry, followed(y)

    def pulled(carry: PyTree, x: Array, weights: list[Array], cotangents: PyTree) -> tuple[PyTree, PyTree]:
        return jax.vjp(lambda weights, carry: step(weights, carry, x), weights, carry)[1](cotangents)

    found = derivative_reads(pulled, carry, x, weights, jax.eval_shape(step, weights, carry, x))
    of_params = [Reads(False, False)] * len(leaves)
    for i, reads in zip(floating, found, strict=False):
        of_params[i] = reads
    return any_reads(found[len(floating) :]), tree.unflatten(of_params)


def any_reads(each: list[Reads]) -> Reads:
    return Reads(any([reads.carry for reads in each]), any([reads.x for reads in each]))


def known_boundaries(known: Array | None, resets: Array | None) -> Array | None:
    """`[T + 1, *batch]`: whether dL/d(carry) is known at each boundary, which requires all steps that it passes
    through.

    Nothing passes through a reset, so later steps do not matter there.
    """
    if known is None:
        return None

    def earlier(after: Array, at_t: tuple[Array, Array | None]) -> tuple[Array, Array]:
        before, reset = at_t
        passed = after if reset is None else after | reset
        return passed & before, passed & before

    before = jnp.concatenate([jnp.ones_like(known[:1]), known[:-1]])
    _, found = lax.scan(earlier, known[-1], (before, resets), reverse=True)
    return jnp.concatenate([found, known[-1:]])


def only_known(tree: PyTree, known: Array | None) -> PyTree:
    """Sets leaves `[*known, ...]` to NaN where they are not known, in value and derivative."""
    if known is None:
        return tree
    factor = jnp.where(known, 1.0, jnp.nan)

    def mark(leaf: Array) -> Array:
        return leaf * factor.astype(leaf.dtype).reshape(known.shape + (1,) * (leaf.ndim - known.ndim))

    return jax.tree.map(mark, tree)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
