"""The cell protocol, and the input checks that all cells share.

A cell defines its step as in a textbook. rnnjax traces the step to find what can leave the time loop and how to compute
its gradient (see `rnnjax.explain`).

Functions of one step take `(cell, params, carry, x)`, like `jax.lax.scan`. Functions over time take
`(cell, params, xs, ..., *, carry=None)`, because most calls start from the cell's initial carry.

Shape letters, used everywhere: T time steps, B batch, D input features, H hidden units, L layers, S seeds; `*batch` is
any number of batch axes, including none.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

PyTree = Any
"""Any pytree of arrays: parameters, carries, outputs."""


if TYPE_CHECKING:  # `Cell` without brackets means `Cell[Any, Any]`; Python 3.11 has no such defaults at run time
    from typing_extensions import TypeVar as TypeVarWithDefault

    P = TypeVarWithDefault("P", default=Any)
    C = TypeVarWithDefault("C", default=Any)
else:
    P, C = TypeVar("P"), TypeVar("C")

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


@runtime_checkable
class Cell(Protocol[P, C]):
    """A recurrent cell: hyperparameters as fields, pure functions as methods, and no arrays.

    Cells are frozen dataclasses, so they hash and compare by value. Equal cells share a compiled program, both as
    static arguments of a jitted function and in an eager `rnnjax.unroll`. As under `jax.jit`, Python values that `step`
    reads besides its arguments must not change; arrays that it closes over may change. `step` must treat batch rows
    independently, return a carry of the same shapes and dtypes as its input carry, and stay finite at x = 0 (masked
    steps get a zero input).

    Inputs are `[*batch, D]`. A cell of images or the like declares the sizes of their axes as `space`, a tuple; its
    inputs are `[*batch, *space, D]`. Carries and outputs may have any axes after the batch.

    For type checkers, `Cell` is generic in its parameters and carry: `LSTM` is a `Cell[LSTMParams, LSTMCarry]`.
    """

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> P:
        """Draws parameters for inputs `[..., input_size]`."""
        ...

    def initial_carry(self, params: P, batch_shape: tuple[int, ...] = ()) -> C:
        """The carry before the first step; every leaf is `[*batch_shape, ...]`."""
        ...

    def step(self, params: P, carry: C, x: Array) -> tuple[C, PyTree]:
        """One step: maps `(carry_{t-1}, x_t)` to `(carry_t, y_t)`."""
        ...


@dataclasses.dataclass(frozen=True)
class StepCell:
    """A cell made from functions; as fast as the same step in a class.

    Two `StepCell`s are equal if their functions are. Creating one from new lambdas before every eager `unroll`
    therefore compiles every time, and so does a step that closes over arrays. Create it once, or call `unroll` under
    `jax.jit`.

    Attributes:
      step_function: `(params, carry, x) -> (carry, y)`.
      initial_carry_function: `(params, batch_shape) -> carry`.
      init_function: `(key, input_size, dtype) -> params`; not needed if you create the parameters yourself.

    Example: a leaky integrator, h_t = a h_{t-1} + x_t.

      >>> leaky = StepCell(
      ...     step_function=lambda a, h, x: (a * h + x, a * h + x),
      ...     initial_carry_function=lambda a, batch_shape: jnp.zeros((*batch_shape, 1)),
      ... )
      >>> h, y = leaky.step(jnp.array(0.5), jnp.array([2.0]), jnp.array([1.0]))
      >>> float(y[0])
      2.0
    """

    step_function: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
    initial_carry_function: Callable[[PyTree, tuple[int, ...]], PyTree]
    init_function: Callable[[Array, int, DTypeLike | None], PyTree] | None = None

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        if self.init_function is None:
            raise TypeError("this StepCell has no init_function; pass one, or create the parameters yourself.")
        return self.init_function(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.initial_carry_function(params, batch_shape)

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.step_function(params, carry, x)


def over_time(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Raises a helpful TypeError for calls in the old argument order, `f(cell, params, carry, xs, ...)`.

    Args:
      function: takes `xs` (or a batch that holds it) by position, and `carry` as a keyword.
    Returns:
      The function with the check, and with the same signature and docstring.
    Raises:
      TypeError: when called with too many positional arguments, or with a carry in the place of `xs`.

    Example:

      >>> @over_time
      ... def steps(cell, params, xs, *, carry=None):
      ...     return len(xs)
      >>> steps("cell", "params", [1.0, 2.0])
      2
      >>> steps("cell", "params", None, [1.0, 2.0])
      Traceback (most recent call last):
      TypeError: steps takes (cell, params, xs, *, carry=None, ...); the carry is a keyword now: \
steps(cell, params, xs, carry=carry)
    """
    parameters = inspect.signature(function).parameters
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    place = positional.index("xs") if "xs" in positional else len(positional)
    default = "" if parameters["carry"].default is inspect.Parameter.empty else "=None"
    order, name = ", ".join(name for name in positional if name != "self"), getattr(function, "__name__", "this")

    def former(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if len(args) > len(positional) or any(name in kwargs for name in positional[: len(args)]):
            return True
        if len(args) <= place:
            return False
        # The carry is None or a tree. If it is a single array, `xs` is where a function such as `loss` should be.
        found, *rest = args[place:]
        return found is None or isinstance(found, tuple | dict) or not all(map(callable, rest))

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        if former(args, kwargs):
            raise TypeError(
                f"{name} takes ({order}, *, carry{default}, ...); the carry is a keyword now: "
                f"{name}({order}, carry=carry)"
            )
        return function(*args, **kwargs)

    return checked


def held_cells(cell: Any) -> Iterator[Any]:
    """A cell, and recursively the cells in its fields."""
    if isinstance(cell, tuple | list):
        for each in cell:  # pyright: ignore[reportUnknownVariableType]
            yield from held_cells(each)
    elif hasattr(cell, "initial_carry") and not isinstance(cell, type):
        yield cell
        if dataclasses.is_dataclass(cell):
            for field in dataclasses.fields(cell):
                yield from held_cells(getattr(cell, field.name, None))


def space_of(cell: Any) -> tuple[int, ...]:
    """The sizes of the axes between batch and features in a cell's inputs; none for most cells.

    A convolutional cell declares them as `space`. Those of a cell that holds others are those of the first that does.
    """
    return next((held.space for held in held_cells(cell) if hasattr(held, "space")), ())


def batch_shape_of(cell: Any, xs: Any, first: int = 1) -> tuple[int, ...]:
    """The batch axes of `xs` `[T, *batch, *space, D]`, which begin at `first`: 0 in the input of one step."""
    return xs.shape[first : xs.ndim - 1 - len(space_of(cell))]


def check_space(name: str, xs: Array, cell: Any, first: int = 1) -> None:
    """Raises ValueError unless `xs`, or one step of it (`first` = 0), has the axes of the cell's space."""
    space = space_of(cell)
    if space and (xs.ndim < first + len(space) + 1 or xs.shape[-1 - len(space) : -1] != space):
        raise ValueError(
            f"`{name}` is {list(xs.shape)}, but {cell!r} expects [{'T, ' * first}*batch, {', '.join(map(str, space))}, "
            f"D]; resize your data, or make the cell for its shape. For a single feature, pass `{name}[..., None]`."
        )


def per_row(b: Array, x: Array) -> Array:
    """Broadcasts a bias `b` `[N]` to `[*batch, N]`, for an input `x` `[*batch, D]`.

    JAX does the same in `x @ w + b`, but not under `jax.numpy_rank_promotion("raise")`.

    Example:

      >>> per_row(jnp.array([1.0, 2.0]), jnp.zeros((3, 5))).shape
      (3, 2)
    """
    return jnp.broadcast_to(b, (*x.shape[:-1], *b.shape))


def flat(tree: PyTree, batch_ndim: int = 0) -> Array:
    """Concatenates leaves `[*batch, ...]` to `[*batch, n]`."""
    leaves = [leaf.reshape(*leaf.shape[:batch_ndim], -1) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


def unflat(rows: Any, like: PyTree, batch_ndim: int = 0) -> PyTree:
    """Splits `[*leading, n]` into a tree like `like` (with `batch_ndim` batch axes), with leaves `[*leading, ...]`."""
    start = 0

    def take(leaf: Any) -> Any:
        nonlocal start
        own = leaf.shape[batch_ndim:]
        first, start = start, start + math.prod(own)
        return rows[..., first:start].reshape(*rows.shape[:-1], *own)

    return jax.tree.map(take, like)


def check_input(name: str, xs: Array, w_x: Array) -> None:
    """Raises if an input does not fit the parameters, where it could otherwise broadcast silently.

    Args:
      name: the caller's name of `xs`, for the message.
      xs: expected to be `[..., D]` in the dtype of `w_x`.
      w_x: the input weight `[D, ...]`.
    Raises:
      TypeError: `xs` is not floating, or not of the parameters' dtype.
      ValueError: `xs` has no feature axis, or its width is not D.
    """
    width = w_x.shape[0]
    dtype = w_x.dtype.name
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` is {xs.dtype}, but a recurrence needs floating-point input; "
            f"cast it with `{name}.astype({dtype!r})`, or embed tokens first (`jax.nn.one_hot`)."
        )
    if xs.ndim == 0 or xs.shape[-1] != width:
        raise ValueError(
            f"`{name}` is {list(xs.shape)}, but these parameters expect {width} features on its last axis; "
            f"pass `[..., {width}]`, or draw parameters for this width with `init(key, input_size=...)`."
        )
    if xs.dtype != w_x.dtype:
        raise TypeError(
            f"`{name}` is {xs.dtype} and the parameters are {dtype}; both must have the same dtype: cast with "
            f"`{name}.astype({dtype!r})`, or draw parameters with `init(..., dtype={xs.dtype.name!r})`."
        )


def check_state(name: str, state: Array, x: Array, size: int) -> None:
    """Raises if a part of the carry does not fit the rows of the input, where it could otherwise broadcast silently.

    Args:
      name: the caller's name of `state`, for the message.
      state: expected to be `[*batch, size]`.
      x: the input of the step, `[*batch, D]`.
      size: the number of units.
    Raises:
      ValueError: `state` has another shape.
    """
    expected = (*x.shape[:-1], size)
    if jnp.shape(state) != expected:
        raise ValueError(
            f"`{name}` is {list(jnp.shape(state))}, but `x` is {list(x.shape)} and the parameters have {size} units: "
            f"expected {list(expected)}; `cell.initial_carry(params, {x.shape[:-1]})` makes one that fits."
        )


def check_params(cell: object, params: Any, kind: type, **shapes: tuple[int | str, ...]) -> None:
    """Raises if `params` are not parameters of this cell, where they could otherwise broadcast silently.

    Any object with the fields of `kind` is accepted, such as a record to which a subclass adds fields.

    Args:
      cell: the cell, whose class and `hidden_size` appear in the message.
      params: the parameters.
      kind: the return type of `cell.init`, a `NamedTuple` such as `LSTMParams`.
      **shapes: the shape of each field; an axis given as a string, such as "D", may have any length.
    Raises:
      TypeError: `params` lacks a field.
      ValueError: a field has the wrong shape.
    """
    of = f"{type(cell).__name__}(hidden_size={getattr(cell, 'hidden_size', '?')})"
    fix = "draw them with this cell's `init(key, input_size)`, or use the cell that they were drawn for."
    for name, expected in shapes.items():
        leaf = getattr(params, name, None)
        if leaf is None:
            raise TypeError(
                f"`params` are {type(params).__name__} without `{name}`, but {of} expects {kind.__name__}; {fix}"
            )
        shape = jnp.shape(leaf)
        wanted = tuple([n if isinstance(e, str) else e for n, e in zip(shape, expected, strict=False)])
        if shape != wanted or len(shape) != len(expected):
            raise ValueError(
                f"`params.{name}` of these {type(params).__name__} is {list(shape)}, but {of} expects "
                f"{kind.__name__} with [{', '.join(map(str, expected))}]; {fix}"
            )


def check_size(name: str, size: Any) -> None:
    """Raises if a size is not a positive integer."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{name} is {size!r}; it must be a positive integer.")


def float_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """`dtype`, or JAX's default float if None; raises if it is not floating point."""
    resolved = jnp.dtype(jax.dtypes.canonicalize_dtype(float if dtype is None else dtype))
    if not jnp.issubdtype(resolved, jnp.floating):
        raise TypeError(f"dtype is {resolved}; parameters must be floating point, such as float32 or bfloat16.")
    return resolved


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """`dtype`, or float32 for half precision. (Strict dtype promotion forbids `promote_types`.)"""
    given = jnp.dtype(dtype)
    return jnp.dtype("float32") if given.itemsize < 4 else given


class Alone:
    """A cell that equals no other, for steps that close over arrays: programs compiled with the former are not used."""

    def __init__(self, cell: Cell):
        self.cell = cell

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)
