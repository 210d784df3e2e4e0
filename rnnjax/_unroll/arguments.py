"""What `unroll` is given: checked, from shapes and dtypes alone, masked, and cut over a mesh.

`make_whole` makes a `Part` of the arguments of `unroll`, from which every engine starts. What it calls follows in that
order: cells and cells put together, `xs` and the carry, masking, meshes.

Three rules cover every combination of `lengths`, `mask`, `resets` and `reverse`, the same in every engine:
  - `lengths` says where a row ends. Nothing happens beyond it: no step, no reset.
  - `mask` masks steps within a row (interior gaps). A masked step holds the carry and gives exactly zero output.
  - `resets` cuts a row into episodes: the carry becomes the initial carry before that step, masked or not, in scan
    order.

Padding must be inert for values *and* gradients, NaN and inf in it included. Selecting afterwards is not enough:
0 × NaN in the backward pass is NaN. So the input of a masked step is replaced by zero *before* the step (`blank`), and
its carry and output are selected away after it (`timed_step`).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from rnnjax.cell import C, Cell, P, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masks:
    """What every engine needs to know about time. `None` stands for "no row is cut", "all count", "no reset".

    A pytree of its arrays, so that it can be cut along time as `xs` is.

    Attributes:
      inside: `[T, *batch]` bool, t < lengths.
      counts: `[T, *batch]` bool, inside and not hidden by the mask.
      resets: `[T, *batch]` bool, already without the flags beyond a row's end.
      reverse: each row runs from its own end to its start.
    """

    inside: Array | None = None
    counts: Array | None = None
    resets: Array | None = None
    reverse: bool = dataclasses.field(default=False, metadata={"static": True})

    def opposite(self) -> "Masks":
        """The same rows and episodes run in the other direction.

        A flag at step t, running forwards, marks a boundary between t - 1 and t; running backwards, the step that
        comes first behind that boundary is t - 1, so the flags move by one.
        """
        resets = self.resets
        if resets is not None:
            edge = jnp.zeros_like(resets[:1])
            resets = jnp.concatenate([edge, resets[:-1]] if self.reverse else [resets[1:], edge])
            resets = resets if self.inside is None else resets & self.inside
        return dataclasses.replace(self, resets=resets, reverse=not self.reverse)


Run = Callable[[Any, PyTree, PyTree, Array, Masks], tuple[PyTree, PyTree]]
"""`(cell, params, carry, xs, masks) -> (carry, ys)`: unroll one part with the options of the call under way."""


@runtime_checkable
class Composite(Protocol[P, C]):
    """Cells put together, such as a stack: says how its parts are run, and each part is unrolled on its own.

    Where an attribute `causal` is true, no output depends on a later input. Then time can be cut for all of the parts
    at once, and what one part hands to the next is not stored for all of time.
    """

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> P: ...

    def initial_carry(self, params: P, batch_shape: tuple[int, ...] = ()) -> C: ...

    def unroll_parts(self, run: Run, params: P, carry: C, xs: Array, masks: Masks) -> tuple[C, PyTree]: ...


class Part(NamedTuple):
    """A cell and the shapes of what it is unrolled with."""

    cell: Any
    params: PyTree
    carry: PyTree
    xs: Any  # [T, *batch, D]
    masks: Masks


def make_whole(
    cell: Cell | Composite,
    params: PyTree,
    carry: PyTree | None,
    xs: ArrayLike,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
) -> Part:
    """The arguments checked, padding blanked, and the initial carry in place of `None`."""
    check_cell(cell)
    xs = checked_xs(xs)
    masks = make_masks(xs, lengths, mask, resets, reverse)
    carry = cell.initial_carry(params, xs.shape[1:-1]) if carry is None else carry
    return Part(cell, params, rows_like(xs, carry, 1), blank(xs, masks), masks)


def check_cell(cell: Any) -> None:
    """Raises TypeError unless `cell` is a cell with a step of its own, or cells put together."""
    runs = hasattr(cell, "step") or hasattr(cell, "unroll_parts")
    if isinstance(cell, type) or not (runs or hasattr(cell, "gate")) or not hasattr(cell, "initial_carry"):
        raise TypeError(f"`cell` is {cell!r}; expected a cell itself, such as LSTM(hidden_size=64): see `rnnjax.Cell`.")
    for held in held_cells(cell):
        _check_step(held)


def held_cells(cell: Any) -> Iterator[Any]:
    """A cell, and the cells in its fields, and so on."""
    if isinstance(cell, tuple | list):
        for each in cell:
            yield from held_cells(each)
    elif hasattr(cell, "initial_carry") and not isinstance(cell, type):
        yield cell
        if dataclasses.is_dataclass(cell):
            for field in dataclasses.fields(cell):
                yield from held_cells(getattr(cell, field.name, None))


def _check_step(cell: Any) -> None:
    """Refuses a class that says its step in the parts of former versions, which nothing reads any more."""
    owners = type(cell).__mro__
    owns = [next((i for i, owner in enumerate(owners) if name in vars(owner)), None) for name in ("step", *_PARTS)]
    step, *parts = owns
    for name, owner in zip(_PARTS, parts, strict=True):
        if owner is not None and (step is None or owner < step):
            raise TypeError(
                f"{owners[owner].__name__} has `{name}` but no `step` of its own, and a cell is its step: write "
                "`def step(self, params, carry, x): ...; return carry, y`, with the matmuls in it; what can leave the "
                "time loop is read from it."
            )


_PARTS = ("gate", "mix", "project")


def is_causal(cell: Any) -> bool:
    """Whether time can be cut: a cell's can, and that of cells put together if they say so."""
    return not isinstance(cell, Composite) or bool(getattr(cell, "causal", False))


def is_layer(cell: Any) -> bool:
    """Whether an engine runs it as it is: no cells put together."""
    return not isinstance(cell, Composite)


def output_size(cell: Any, params: PyTree, input_size: int) -> int:
    """The width of a cell's outputs for inputs `[..., input_size]`, from the shapes of one step."""

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if isinstance(cell, Composite):
            return cell.unroll_parts(run, params, carry, xs, masks)
        carry, y = cell.step(params, carry, xs[0])
        return carry, jax.tree.map(lambda leaf: leaf[None], y)

    def outputs(params: PyTree) -> Array:
        xs = jnp.zeros((1, input_size), jax.tree.leaves(params)[0].dtype)
        return run(cell, params, cell.initial_carry(params), xs, Masks())[1]

    return jax.eval_shape(outputs, params).shape[-1]


def shapes_of(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def checked_xs(xs: ArrayLike) -> Array:
    """`xs` as an array `[T, *batch, D]` with T >= 1; raises ValueError otherwise."""
    xs = as_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(
            f"`xs` is {list(xs.shape)}; expected [T, *batch, D], time first and features last. "
            "For a single feature a step, pass `xs[..., None]`."
        )
    if xs.shape[0] == 0:
        raise ValueError(f"`xs` is {list(xs.shape)}: it has no time steps; T must be at least 1.")
    return xs


def as_array(name: str, value: ArrayLike) -> Array:
    """`value` as an array, NaN and all: under `debug_nans` an operation on it would be refused.

    Raises:
      TypeError: it makes no array, as a list of rows of unequal length; names the argument.
    """
    if isinstance(value, Array):
        return value
    try:
        return jax.device_put(value) if isinstance(value, np.ndarray) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` is a {type(value).__name__} that makes no array ({error}); rows of unequal length are padded to "
            "one length, and `lengths` says how long each is."
        ) from None


class Checked(NamedTuple):
    """What one step of a cell gives."""

    y: PyTree  # its shape
    closes_over: bool  # whether the cell refers to arrays that are not among its arguments


def check_carry(cell: Cell, params: PyTree, carry: PyTree, xs: Array) -> Checked:
    """Refuses a carry that is not shaped like the initial one, and a step that does not give its carry back.

    Raises:
      ValueError: another tree, or another shape (a missing batch axis would otherwise broadcast in silence).
      TypeError: another dtype.
    """
    batch_shape = xs.shape[1:-1]
    start, expected = jax.make_jaxpr(lambda p: cell.initial_carry(p, batch_shape), return_shape=True)(params)
    fix = f"`cell.initial_carry(params, {batch_shape})` makes one that fits `xs` {list(xs.shape)}"
    check_alike("`carry`", carry, expected, fix)

    def first(params: PyTree, carry: PyTree, xs: Array) -> tuple[PyTree, PyTree]:
        return cell.step(params, carry, lax.index_in_dim(xs, 0, keepdims=False))

    try:
        step, (new_carry, y) = jax.make_jaxpr(first, return_shape=True)(params, carry, xs)
    except (TypeError, ValueError) as error:  # it speaks of the step's `x`; the caller knows `xs`
        message = str(error).replace(f"`x` is {list(xs.shape[1:])}", f"`xs` is {list(xs.shape)}")
        message = message.replace("`x` is", "`xs` is").replace("`x.", "`xs.")
        if message == str(error):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from None
    fix = "a step must give back a carry of the same tree, shapes and dtypes as it was given"
    check_alike(f"the carry that {type(cell).__name__}.step returns", new_carry, expected, fix)
    return Checked(y, closes_over_arrays(start) or closes_over_arrays(step))


def check_alike(what: str, got: PyTree, expected: PyTree, fix: str) -> None:
    """Raises unless two trees agree in structure, shapes (ValueError) and dtypes (TypeError)."""
    got_leaves, got_tree = jax.tree.flatten_with_path(got)
    expected_leaves, expected_tree = jax.tree.flatten_with_path(expected)
    if got_tree != expected_tree:
        raise ValueError(f"{what} is {got_tree}, expected {expected_tree}; {fix}.")
    for (path, leaf), (_, wanted) in zip(got_leaves, expected_leaves, strict=True):
        name = what + jax.tree_util.keystr(path)
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        if shape != wanted.shape:
            raise ValueError(f"{name} is {list(shape)}, expected {list(wanted.shape)}; {fix}.")
        if dtype != wanted.dtype:
            raise TypeError(f"{name} is {dtype}, expected {wanted.dtype}; {fix}.")


def closes_over_arrays(closed: ClosedJaxpr) -> bool:
    """Whether a traced function refers to arrays that are not among its arguments."""
    if closed.consts:
        return True
    for eqn in closed.jaxpr.eqns:
        for value in eqn.params.values():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, ClosedJaxpr) and closes_over_arrays(each):
                    return True
    return False


def make_masks(
    xs: Array,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
) -> Masks:
    """Checks the four arguments against `xs` `[T, *batch, D]` and combines them.

    Raises:
      TypeError: `lengths` is not integer, `mask` or `resets` not boolean.
      ValueError: a shape does not fit, or `lengths`, when its values are known, is negative or beyond T.
    """
    inside = None if lengths is None else _inside(lengths, xs)
    mask = None if mask is None else _flags("mask", mask, xs)
    resets = None if resets is None else _flags("resets", resets, xs)
    if inside is not None and resets is not None:
        resets = resets & inside
    counts = mask if inside is None else inside if mask is None else inside & mask
    return Masks(inside=inside, counts=counts, resets=resets, reverse=reverse)


def _inside(lengths: ArrayLike, xs: Array) -> Array:
    given, lengths = lengths, as_array("lengths", lengths)
    steps, batch_shape = xs.shape[0], xs.shape[1:-1]
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"`lengths` is {lengths.dtype}; it counts steps: pass integers, such as `lengths.astype('int32')`."
        )
    if lengths.shape != batch_shape:
        swapped = len(batch_shape) == 1 and lengths.shape == (steps,)
        fix = "move time first in `xs`" if swapped else f"pass one length a row, {list(batch_shape)}"
        raise ValueError(
            f"`xs` is {list(xs.shape)} but `lengths` is {list(lengths.shape)}; "
            f"rnnjax is time-major, so `xs` holds {steps} steps of a batch of shape {list(batch_shape)}: {fix}."
        )
    if not isinstance(given, Tracer) and isinstance(steps, int):  # known under `jit` too, where it is no argument
        known = np.asarray(given)
        if known.size and (known.min() < 0 or known.max() > steps):
            raise ValueError(
                f"`lengths` runs from {known.min()} to {known.max()}, but `xs` {list(xs.shape)} has {steps} steps; "
                f"every length must lie in 0..{steps}."
            )
    largest = steps if isinstance(steps, int) else jnp.iinfo(jnp.int32).max  # a symbolic T, as under `jax.export`
    times = jnp.arange(steps, dtype=lengths.dtype if largest <= jnp.iinfo(lengths.dtype).max else jnp.int32)
    return times.reshape(steps, *(1 for _ in batch_shape)) < lengths.astype(times.dtype)[None]


def _flags(name: str, flags: ArrayLike, xs: Array) -> Array:
    flags = as_array(name, flags)
    expected = xs.shape[:-1]
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` is {flags.dtype}; it must be boolean: pass `{name}.astype(bool)`.")
    if flags.shape != expected:
        swapped = len(expected) == 2 and flags.shape == expected[::-1]
        fix = f"pass `{name}.T`, or move time first in `xs`" if swapped else f"pass [T, *batch] = {list(expected)}"
        raise ValueError(f"`xs` is {list(xs.shape)} but `{name}` is {list(flags.shape)}; rnnjax is time-major: {fix}.")
    return flags


def blank(xs: Array, masks: Masks) -> Array:
    """`xs` with an exact zero at every step that does not count. `[T, *batch, D]`."""
    return xs if masks.counts is None else jnp.where(masks.counts[..., None], xs, jnp.zeros_like(xs))


class StepInput(NamedTuple):
    """What one step sees; over all of time each leaf has a leading T. `None` where the `Masks` has none."""

    x: PyTree
    counts: Array | None
    resets: Array | None


def timed_step(
    cell: Cell, params: PyTree, batch_shape: tuple[int, ...]
) -> Callable[[PyTree, StepInput], tuple[PyTree, PyTree]]:
    """The cell's step with resets before it and holding after it, in the order that `jax.lax.scan` wants."""

    def step(carry: PyTree, inputs: StepInput) -> tuple[PyTree, PyTree]:
        if inputs.resets is not None:
            start = rows_like(inputs.x, cell.initial_carry(params, batch_shape), 0)
            carry = select(inputs.resets, start, carry)
        new_carry, y = cell.step(params, carry, inputs.x)
        if inputs.counts is None:
            return new_carry, y
        return select(inputs.counts, new_carry, carry), select(inputs.counts, y, jax.tree.map(jnp.zeros_like, y))

    return step


def select(flags: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Row by row, `on_true` where `flags` `[*batch]` holds, else `on_false`; leaves are `[*batch, ...]`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


# Meshes whose axes are part of an array's type: explicit ones, and those of a `shard_map` around the call. A loop over
# time needs a carry that keeps its type, and there a type says more than shape and dtype: along which axes of the mesh
# an array is cut (`jax.make_mesh`'s default, "explicit"), and along which it differs from device to device (inside
# `jax.shard_map`). A carry of zeros says neither, so it is given the type that a step gives it back in.

_MOST_TURNS = 4
"""One for each mesh axis that may spread from the input to the carry, or from one leaf to another, and one to see."""


def typed_mesh(tree: PyTree) -> Any:
    """The mesh that the arrays' types speak of, or None."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if not mesh.empty:
            return mesh
    return None


def rows_like(xs: Any, carry: PyTree, first: int) -> PyTree:
    """The carry `[*batch, ...]`, its batch axes cut over an explicit mesh as those of the input are.

    Args:
      xs: `[T, *batch, D]`, or one step of it.
      first: which axis of `xs` is the first of the batch, 1 or 0.
    """
    sharding, batch_shape = jax.typeof(xs).sharding, xs.shape[first:-1]
    batch = tuple(sharding.spec[first:-1])
    if not any(batch):
        return carry

    def cut(leaf: Any) -> Any:
        own = jax.typeof(leaf)
        if own.shape[: len(batch)] != batch_shape or any(own.sharding.spec):
            return leaf
        return jax.sharding.reshard(
            leaf, NamedSharding(sharding.mesh, PartitionSpec(*batch, *[None] * (own.ndim - len(batch))))
        )

    return jax.tree.map(cut, carry)


def settled(step: Callable[[PyTree], tuple[PyTree, PyTree]], carry: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """The carry in the type that `step` gives it back in, and the types of all that `step` gives.

    Raises:
      TypeError: there is none; each step gives back another type.
    """
    for _ in range(_MOST_TURNS):
        closed, shapes = jax.make_jaxpr(step, return_shape=True)(carry)
        types = jax.tree.structure(shapes).unflatten(closed.out_avals)
        again = jax.tree.map(_in_type_of, carry, types[0])
        if all([a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(carry), strict=True)]):
            return carry, types
        carry = again
    raise TypeError(
        "the carry is cut over the mesh otherwise after every step; give the cell parameters that are cut alike, or "
        "constrain its carry in the step with `jax.sharding.reshard`."
    )


def _in_type_of(leaf: Any, like: Any) -> Any:
    """`leaf`, cut and varying over the mesh as `like` is; the same object where it is so already."""
    own = jax.typeof(leaf)
    if own.sharding.spec != like.sharding.spec and not like.sharding.mesh.empty:
        leaf = jax.sharding.reshard(leaf, like.sharding)
    return _varying(leaf, like.manual_axis_type.varying)


def varying_alike(tree: PyTree) -> PyTree:
    """Every leaf varying over the axes of a `shard_map` over which any of them does.

    JAX does so at each operation. Ahead of a time loop it is done once, and the sum over devices, which is its
    transpose, once too, not at every step.
    """
    axes = frozenset().union(*[jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)])
    return jax.tree.map(lambda leaf: _varying(leaf, axes), tree) if axes else tree


def _varying(leaf: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - jax.typeof(leaf).manual_axis_type.varying))
    return lax.pcast(leaf, missing, to="varying") if missing else leaf


def explicit_axes(mesh: Mesh) -> tuple[str, ...]:
    """The names of the axes along which a type says that an array is cut."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple([name for name, kind in kinds if kind == AxisType.Explicit])


def sharding_over_time(aval: Any) -> NamedSharding:
    """How the outputs of all steps are cut, where one step's are of this type."""
    return NamedSharding(aval.sharding.mesh, PartitionSpec(None, *aval.sharding.spec))
