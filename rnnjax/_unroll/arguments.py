"""Checks the arguments of `unroll` from shapes and dtypes, and handles masks and meshes.

`make_whole` turns the arguments of `unroll` into a `Part`, from which every engine starts. The functions that it calls
follow in that order: cells and composites, `xs` and the carry, masking, meshes.

Masking, the same in every engine, for values and gradients:
  - `lengths` gives the end of each row. After it there are no steps and no resets.
  - `mask` masks steps within a row (gaps). A masked step does not change the carry and outputs exactly zero.
  - `resets` splits a row into episodes: the carry is reset to the initial carry before that step, masked or not, in
    scan order.

Padding must not affect values *or* gradients, even if it has NaN or inf. Selecting after the step is not enough, since
0 × NaN in the backward pass is NaN. So the input of a masked step is set to zero *before* the step (`blank`), and its
carry and output are discarded after it (`timed_step`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from rnnjax._unroll.noise import Noise, draw_noise, one_step, with_weights
from rnnjax.cell import C, Cell, P, PyTree, batch_shape_of, check_space, held_cells, space_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masks:
    """Masks and resets for an engine. `None` means that all rows have full length, no step is masked, or no resets.

    It is a pytree of its arrays, so that it can be split along time like `xs`.

    Attributes:
      inside: `[T, *batch]` bool, t < lengths.
      counts: `[T, *batch]` bool, False at masked steps: inside and not masked by `mask`.
      resets: `[T, *batch]` bool, False after the end of a row.
      noise: drawn randomness of the steps, every leaf `[T, *batch, ...]`; for a composite, one entry for each part.
      reverse: whether each row runs from its own end to its start.
    """

    inside: Array | None = None
    counts: Array | None = None
    resets: Array | None = None
    noise: PyTree = None
    reverse: bool = dataclasses.field(default=False, metadata={"static": True})

    def opposite(self) -> "Masks":
        """The same rows and episodes in the other direction.

        Forwards, a reset at step t marks a boundary between t - 1 and t. Backwards, the first step after that boundary
        is t - 1, so resets are shifted by one.
        """
        resets = self.resets
        if resets is not None:
            edge = jnp.zeros_like(resets[:1])
            resets = jnp.concatenate([edge, resets[:-1]] if self.reverse else [resets[1:], edge])
            resets = resets if self.inside is None else resets & self.inside
        return dataclasses.replace(self, resets=resets, reverse=not self.reverse)

    def part(self, index: int) -> "Masks":
        """The same for a part of a composite, with that part's noise."""
        return self if self.noise is None else dataclasses.replace(self, noise=self.noise[index])


Run = Callable[[Any, PyTree, PyTree, Array, Masks], tuple[PyTree, PyTree]]
"""`(cell, params, carry, xs, masks) -> (carry, ys)`: unrolls one part with the options of the current call."""


@runtime_checkable
class Composite(Protocol[P, C]):
    """A composite of cells, such as a stack, which defines how its parts are unrolled.

    If its attribute `causal` is true, no output depends on a later input. Then all parts share the same segments of
    time, and the values that one part passes to the next are not stored for all of time.
    """

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> P: ...

    def initial_carry(self, params: P, batch_shape: tuple[int, ...] = ()) -> C: ...

    def unroll_parts(self, run: Run, params: P, carry: C, xs: Array, masks: Masks) -> tuple[C, PyTree]: ...


class Part(NamedTuple):
    """A cell and the shapes of its arguments."""

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
    key: Array | None = None,
    noise: Noise | None = None,
) -> Part:
    """Checks the arguments, blanks padding, draws noise, and replaces a carry of `None` by the initial carry."""
    check_cell(cell)
    xs = checked_xs(xs, cell)
    batch_shape = batch_shape_of(cell, xs)
    masks = make_masks(xs, lengths, mask, resets, reverse, batch_shape)
    if key is not None and noise is not None:
        raise ValueError("both `key` and `noise` are given; pass a key to draw noise, or noise that is drawn already.")
    if key is not None:
        noise = draw_noise(cell, key, params, xs.shape[0], batch_shape, xs.shape[-1])
    if noise is not None:
        _check_noise(noise, (xs.shape[0], *batch_shape))
        params = with_weights(cell, params, noise.weights)
        masks = dataclasses.replace(masks, noise=noise.steps)
    carry = cell.initial_carry(params, batch_shape) if carry is None else carry
    return Part(cell, params, rows_like(xs, carry, 1, len(batch_shape)), blank(xs, masks), masks)


def _check_noise(noise: Any, lead: tuple[int, ...]) -> None:
    """Raises unless the noise is a `Noise` for these steps and rows."""
    if not isinstance(noise, Noise):
        raise TypeError(f"`noise` is a {type(noise).__name__}; pass what `rnnjax.draw_noise` returns.")
    for path, leaf in jax.tree.leaves_with_path(noise.steps):
        if leaf.shape[: len(lead)] != lead:
            raise ValueError(
                f"`noise.steps{jax.tree_util.keystr(path)}` is {list(leaf.shape)}, but `xs` has the leading axes "
                f"{list(lead)}; draw it for these steps and rows."
            )


def check_cell(cell: Any) -> None:
    """Raises TypeError if `cell` is not a cell instance (for example a class), or has no step of its own."""
    runs = hasattr(cell, "step") or hasattr(cell, "unroll_parts")
    if isinstance(cell, type) or not (runs or hasattr(cell, "gate")) or not hasattr(cell, "initial_carry"):
        raise TypeError(
            f"`cell` is {cell!r}; expected a cell instance, such as LSTM(hidden_size=64): see `rnnjax.Cell`."
        )
    for held in held_cells(cell):
        _check_step(held)


def _check_step(cell: Any) -> None:
    """Raises for a class that defines the methods of earlier versions (`gate`, ...) instead of a step."""
    owners = type(cell).__mro__
    owns = [next((i for i, owner in enumerate(owners) if name in vars(owner)), None) for name in ("step", *_PARTS)]
    step, *parts = owns
    for name, owner in zip(_PARTS, parts, strict=True):
        if owner is not None and (step is None or owner < step):
            raise TypeError(
                f"{owners[owner].__name__} has `{name}` but no `step` of its own: write "
                "`def step(self, params, carry, x): ...; return carry, y`, including the matmuls; rnnjax moves what it "
                "can out of the time loop."
            )


_PARTS = ("gate", "mix", "project")


def is_causal(cell: Any) -> bool:
    """Whether time can be split into segments: always for a cell, and for composites that are causal."""
    return not isinstance(cell, Composite) or bool(getattr(cell, "causal", False))


def is_layer(cell: Any) -> bool:
    """Whether it is a single layer for an engine, and not a composite."""
    return not isinstance(cell, Composite)


def output_size(cell: Any, params: PyTree, input_size: int) -> int:
    """The size of the last axis of a cell's outputs for inputs `[..., input_size]`, from the shapes of one step."""

    def run(cell: Any, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[PyTree, PyTree]:
        if isinstance(cell, Composite):
            return cell.unroll_parts(run, params, carry, xs, masks)
        carry, y = cell.step(params, carry, xs[0])
        return carry, jax.tree.map(lambda leaf: leaf[None], y)

    def outputs(params: PyTree) -> Array:
        xs = jnp.zeros((1, *space_of(cell), input_size), jax.tree.leaves(params)[0].dtype)
        return run(cell, params, cell.initial_carry(params), xs, Masks())[1]

    return jax.eval_shape(outputs, params).shape[-1]


def shapes_of(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def checked_xs(xs: ArrayLike, cell: Any = None) -> Array:
    """`xs` as an array `[T, *batch, D]` (`[T, *batch, *space, D]`) with T >= 1; raises ValueError otherwise."""
    xs = as_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(
            f"`xs` is {list(xs.shape)}; expected [T, *batch, D], time first and features last. "
            "For a single feature per step, pass `xs[..., None]`."
        )
    if xs.shape[0] == 0:
        raise ValueError(f"`xs` is {list(xs.shape)}: it has no time steps; T must be at least 1.")
    check_space("xs", xs, cell)
    return xs


def as_array(name: str, value: ArrayLike) -> Array:
    """`value` as an array, without operations on it, which `debug_nans` would reject for NaN.

    Raises:
      TypeError: it cannot be converted to an array, for example a list of rows of unequal length.
    """
    if isinstance(value, Array):
        return value
    try:
        return jax.device_put(value) if isinstance(value, np.ndarray) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` is a {type(value).__name__} that is not an array ({error}); pad rows of unequal length to one "
            "length, and pass `lengths`."
        ) from None


class Checked(NamedTuple):
    """Results of tracing one step of a cell."""

    y: PyTree  # its shape
    closes_over: bool  # whether the cell refers to arrays that are not among its arguments


def check_carry(cell: Cell, params: PyTree, carry: PyTree, xs: Array, noise: PyTree = None) -> Checked:
    """Raises unless the carry is like the initial carry, and the step returns a carry like its input carry.

    Args:
      noise: of all steps, leaves `[T, *batch, ...]`.
    Raises:
      ValueError: the tree or a shape differs (a missing batch axis could otherwise broadcast silently).
      TypeError: a dtype differs.
    """
    batch_shape = batch_shape_of(cell, xs)
    start, expected = jax.make_jaxpr(lambda p: cell.initial_carry(p, batch_shape), return_shape=True)(params)
    fix = f"`cell.initial_carry(params, {batch_shape})` makes one that fits `xs` {list(xs.shape)}"
    check_alike("`carry`", carry, expected, fix)

    def first(params: PyTree, carry: PyTree, *over_time: PyTree) -> tuple[PyTree, PyTree]:
        now = jax.tree.map(lambda leaf: lax.index_in_dim(leaf, 0, keepdims=False), over_time)
        return one_step(cell, params, carry, *now)

    try:
        step, (new_carry, y) = jax.make_jaxpr(first, return_shape=True)(params, carry, xs, noise)
    except (TypeError, ValueError) as error:  # the message names the step's `x`; the caller passed `xs`
        message = str(error).replace(f"`x` is {list(xs.shape[1:])}", f"`xs` is {list(xs.shape)}")
        message = message.replace("`x` is", "`xs` is").replace("`x.", "`xs.")
        if message == str(error):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from None
    check_returned(cell, new_carry, expected)
    return Checked(y, closes_over_arrays(start) or closes_over_arrays(step))


def check_returned(cell: Cell, new_carry: PyTree, expected: PyTree) -> None:
    """Raises unless the carry that a step returns is like its input carry."""
    fix = "a step must return a carry of the same tree, shapes and dtypes as its input carry"
    check_alike(f"the carry that {type(cell).__name__}.step returns", new_carry, expected, fix)


def check_alike(what: str, got: PyTree, expected: PyTree, fix: str) -> None:
    """Raises unless two trees have equal structure and shapes (ValueError) and dtypes (TypeError)."""
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
    batch_shape: tuple[int, ...] | None = None,
) -> Masks:
    """Checks the four arguments against `xs` `[T, *batch, D]` and combines them.

    Args:
      batch_shape: by default, all axes of `xs` but the first and the last.
    Raises:
      TypeError: `lengths` is not integer, `mask` or `resets` not boolean.
      ValueError: a shape does not fit, or `lengths`, when its values are known, is negative or beyond T.
    """
    batch_shape = xs.shape[1:-1] if batch_shape is None else batch_shape
    inside = None if lengths is None else _inside(lengths, xs, batch_shape)
    mask = None if mask is None else _flags("mask", mask, xs, batch_shape)
    resets = None if resets is None else _flags("resets", resets, xs, batch_shape)
    if inside is not None and resets is not None:
        resets = resets & inside
    counts = mask if inside is None else inside if mask is None else inside & mask
    return Masks(inside=inside, counts=counts, resets=resets, reverse=reverse)


def _inside(lengths: ArrayLike, xs: Array, batch_shape: tuple[int, ...]) -> Array:
    given, lengths, steps = lengths, as_array("lengths", lengths), xs.shape[0]
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` is {lengths.dtype}; it must hold integers: pass `lengths.astype('int32')`.")
    if lengths.shape != batch_shape:
        swapped = len(batch_shape) == 1 and lengths.shape == (steps,)
        fix = "move time first in `xs`" if swapped else f"pass one length per row, {list(batch_shape)}"
        raise ValueError(
            f"`xs` is {list(xs.shape)} but `lengths` is {list(lengths.shape)}; "
            f"rnnjax is time-major, so `xs` holds {steps} steps of a batch of shape {list(batch_shape)}: {fix}."
        )
    if not isinstance(given, Tracer) and isinstance(steps, int):  # known under `jit` too, unless it is an argument
        known = np.asarray(given)
        if known.size and (known.min() < 0 or known.max() > steps):
            raise ValueError(
                f"`lengths` runs from {known.min()} to {known.max()}, but `xs` {list(xs.shape)} has {steps} steps; "
                f"every length must be in 0..{steps}."
            )
    largest = steps if isinstance(steps, int) else jnp.iinfo(jnp.int32).max  # a symbolic T, as under `jax.export`
    times = jnp.arange(steps, dtype=lengths.dtype if largest <= jnp.iinfo(lengths.dtype).max else jnp.int32)
    return times.reshape(steps, *(1 for _ in batch_shape)) < lengths.astype(times.dtype)[None]


def _flags(name: str, flags: ArrayLike, xs: Array, batch_shape: tuple[int, ...]) -> Array:
    flags = as_array(name, flags)
    expected = (xs.shape[0], *batch_shape)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` is {flags.dtype}; it must be boolean: pass `{name}.astype(bool)`.")
    if flags.shape != expected:
        swapped = len(expected) == 2 and flags.shape == expected[::-1]
        fix = f"pass `{name}.T`, or move time first in `xs`" if swapped else f"pass [T, *batch] = {list(expected)}"
        raise ValueError(f"`xs` is {list(xs.shape)} but `{name}` is {list(flags.shape)}; rnnjax is time-major: {fix}.")
    return flags


def blank(xs: Array, masks: Masks) -> Array:
    """`xs` `[T, *batch, ...]` with masked steps set to exactly zero."""
    return xs if masks.counts is None else select(masks.counts, xs, jnp.zeros_like(xs))


class StepInput(NamedTuple):
    """The inputs of one step; over all of time, each leaf has a leading T. `None` where the `Masks` has `None`."""

    x: PyTree
    counts: Array | None
    resets: Array | None


def timed_step(
    cell: Cell, params: PyTree, batch_shape: tuple[int, ...]
) -> Callable[[PyTree, StepInput], tuple[PyTree, PyTree]]:
    """The cell's step with resets before it and masking after it, with the signature of `jax.lax.scan`."""

    def step(carry: PyTree, inputs: StepInput) -> tuple[PyTree, PyTree]:
        if inputs.resets is not None:
            start = cell.initial_carry(params, batch_shape)
            start = rows_like(jax.tree.leaves(inputs.x)[0], start, 0, len(batch_shape))
            carry = select(inputs.resets, start, carry)
        new_carry, y = cell.step(params, carry, inputs.x)
        if inputs.counts is None:
            return new_carry, y
        return select(inputs.counts, new_carry, carry), select(inputs.counts, y, jax.tree.map(jnp.zeros_like, y))

    return step


def select(flags: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Selects `on_true` in rows where `flags` `[*batch]` is True, else `on_false`; leaves are `[*batch, ...]`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


# Meshes whose axes are part of an array's type: explicit meshes, and those of a `shard_map` around the call. A loop
# over time needs a carry of constant type. On these meshes, a type also tells along which axes an array is sharded
# (explicit axes, the default of `jax.make_mesh`), or along which it varies between devices (inside `jax.shard_map`). A
# carry of zeros has neither, so it is cast to the type that a step returns.

_MOST_TURNS = 4
"""One iteration for each mesh axis that may spread from the input or a leaf to another leaf, and one to confirm."""


def typed_mesh(tree: PyTree) -> Any:
    """The mesh in the arrays' types, or None."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if not mesh.empty:
            return mesh
    return None


def rows_like(xs: Any, carry: PyTree, first: int, batch_ndim: int) -> PyTree:
    """Shards the batch axes of the carry `[*batch, ...]` over an explicit mesh like those of the input.

    Args:
      xs: `[T, *batch, ...]`, or one step of it.
      first: the first batch axis of `xs`, 1 or 0.
    """
    sharding, end = jax.typeof(xs).sharding, first + batch_ndim
    batch_shape, batch = xs.shape[first:end], tuple(sharding.spec[first:end])
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
    """Casts the carry to the type that `step` returns; also returns the types of all results of `step`.

    Raises:
      TypeError: there is no such type, because every step changes it.
    """
    for _ in range(_MOST_TURNS):
        closed, shapes = jax.make_jaxpr(step, return_shape=True)(carry)
        types = jax.tree.structure(shapes).unflatten(closed.out_avals)
        again = jax.tree.map(_in_type_of, carry, types[0])
        if all([a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(carry), strict=True)]):
            return carry, types
        carry = again
    raise TypeError(
        "the sharding of the carry changes at every step; shard the parameters alike, or "
        "constrain the carry in the step with `jax.sharding.reshard`."
    )


def _in_type_of(leaf: Any, like: Any) -> Any:
    """`leaf` with the sharding and varying axes of `like`; the same object if it has them already."""
    own = jax.typeof(leaf)
    if own.sharding.spec != like.sharding.spec and not like.sharding.mesh.empty:
        leaf = jax.sharding.reshard(leaf, like.sharding)
    return _varying(leaf, like.manual_axis_type.varying)


def varying_alike(tree: PyTree) -> PyTree:
    """Makes every leaf vary over all `shard_map` axes over which any leaf varies.

    JAX does this at each operation. Doing it once before a time loop means that its transpose, a sum over devices, also
    runs once and not at every step.
    """
    axes = frozenset().union(*[jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)])
    return jax.tree.map(lambda leaf: _varying(leaf, axes), tree) if axes else tree


def _varying(leaf: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - jax.typeof(leaf).manual_axis_type.varying))
    return lax.pcast(leaf, missing, to="varying") if missing else leaf


def explicit_axes(mesh: Mesh) -> tuple[str, ...]:
    """The names of the explicit axes, along which types include the sharding."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple([name for name, kind in kinds if kind == AxisType.Explicit])


def sharding_over_time(aval: Any) -> NamedSharding:
    """The sharding of the outputs of all steps, given the type of one step's."""
    return NamedSharding(aval.sharding.mesh, PartitionSpec(None, *aval.sharding.spec))
