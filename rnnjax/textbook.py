"""The base of the cells of the catalogue: a cell says its shapes once and its equations once.

`weights` gives the shape of each parameter and how it is drawn, `states` the width of each part of the carry, and
`step` the equations, as in the paper. `init`, `initial_carry` and all checks follow from the shapes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import C, Cell, P, check_input, check_params, check_size, float_dtype, per_row
from rnnjax.initializers import Initializer, LeCunNormal, Orthogonal, per_gate

Activation = Literal["tanh", "relu", "linear", "sigmoid", "softplus", "hard_sigmoid"] | Callable[[Array], Array]
"""The name of a built-in activation, or any elementwise function of an array."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "linear": lambda z: z,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "hard_sigmoid": jax.nn.hard_sigmoid,
}


class Gated(NamedTuple):
    """Parameters of a cell with blocks of gates, which the cell's docstring names in order."""

    w_x: Array  # [D, blocks * H]
    w_h: Array  # [H, blocks * H]
    b: Array  # [blocks * H]


class HiddenAndCell(NamedTuple):
    """The carry of cells with two states."""

    h: Array  # [*batch, H] hidden state
    c: Array  # [*batch, H] cell state


@dataclasses.dataclass(frozen=True)
class Weight:
    """The shape of a parameter, and how it is drawn: block by block on the last axis.

    Attributes:
      shape: of the whole parameter.
      draw: an initializer of one block, or one constant for each block.
      blocks: the number of blocks, for an initializer.

    Example: two biases of three units, the second 1.

      >>> Weight((6,), (0.0, 1.0)).drawn(jax.random.key(0), jnp.float32).tolist()
      [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """

    shape: tuple[int, ...]
    draw: Callable[..., Array] | tuple[float, ...] = (0.0,)
    blocks: int = 1

    def drawn(self, key: Array, dtype: DTypeLike) -> Array:
        if not callable(self.draw):
            values = jnp.repeat(jnp.asarray(self.draw, dtype), self.shape[-1] // len(self.draw))
            return jnp.broadcast_to(values, self.shape) + jnp.zeros((), dtype)  # a buffer of its own
        *rows, columns = self.shape
        block: Any = (*rows, columns // self.blocks)
        return per_gate(self.draw, key, block, self.blocks, dtype)


def weight(shape: tuple[int, ...], draw: Callable[..., Array] | tuple[float, ...] = (0.0,), blocks: int = 1) -> Any:
    """A `Weight`, which stands for an array in a record of parameters."""
    return Weight(shape, draw, blocks)


def state(*shape: int) -> Any:
    """The shape of a row of a state, which stands for an array in a record of states."""
    return shape


@dataclasses.dataclass(frozen=True)
class TextbookCell(Cell[P, C]):
    """A cell given by shapes and a step. Subclasses define `weights`, `step` and, with several states, `states`.

    Attributes:
      hidden_size: H.
      w_x, w_h: initializers of the matrices that multiply the input and the carry, drawn block by block.
    """

    hidden_size: int
    w_x: Initializer = LeCunNormal()
    w_h: Initializer = Orthogonal()

    @property
    def knob(self) -> str:
        """What `with_knob` changes, for cells without a recurrent weight that a scale can multiply; else empty."""
        return ""

    def with_knob(self, params: P, scale: Array) -> P:
        """The parameters with the knob multiplied by `scale`; 1 changes nothing."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_size"):
                check_size(field.name, value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}; it must be a finite number.")

    def weights(self, input_size: int) -> Any:
        """The parameters, with a `weight` in the place of each array."""
        raise NotImplementedError

    def states(self, input_size: int) -> Any:
        """The carry, with a `state` in the place of each array; a single array of H units unless overridden."""
        return state(self.hidden_size)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> P:
        check_size("input_size", input_size)
        table, dtype = self.weights(input_size), float_dtype(dtype)
        leaves, tree = jax.tree.flatten(table, is_leaf=_is_weight)
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten([weight.drawn(key, dtype) for weight, key in zip(leaves, keys, strict=True)])

    def initial_carry(self, params: P, batch_shape: tuple[int, ...] = ()) -> C:
        self._check_params(params)
        dtype, states = jax.tree.leaves(params)[0].dtype, self.states(self.input_size_of(params))
        return jax.tree.map(lambda shape: jnp.zeros((*batch_shape, *shape), dtype), states, is_leaf=_is_shape)

    def check(self, params: P, carry: C, x: Array) -> None:
        """Raises if parameters, carry or input do not fit this cell; every `step` begins with it.

        Raises:
          ValueError: a shape does not fit.
          TypeError: a parameter is missing, or `x` is not of the parameters' dtype.
        """
        self._check_params(params)
        input_size = self.input_size_of(params)
        w_x: Any = jax.ShapeDtypeStruct((input_size,), jax.tree.leaves(params)[0].dtype)
        check_input("x", x, w_x)
        given, expected = jax.tree.leaves_with_path(carry), jax.tree.leaves(self.states(input_size), is_leaf=_is_shape)
        if len(given) != len(expected):
            raise ValueError(
                f"`carry` has {len(given)} arrays, but {type(self).__name__} has {len(expected)} states; "
                f"`cell.initial_carry(params, {x.shape[:-1]})` makes one that fits."
            )
        for (path, state), shape in zip(given, expected, strict=True):
            if jnp.shape(state) != (*x.shape[:-1], *shape):
                name = f"carry{jax.tree_util.keystr(path)}"
                raise ValueError(
                    f"`{name}` is {list(jnp.shape(state))}, but `x` is {list(x.shape)} and a row of this state is "
                    f"{list(shape)}: expected {[*x.shape[:-1], *shape]}; "
                    f"`cell.initial_carry(params, {x.shape[:-1]})` makes one that fits."
                )

    def input_size_of(self, params: P) -> int:
        """D, from the parameters."""
        given: Any = params
        return given.w_x.shape[0]

    def _check_params(self, params: P) -> None:
        has_w_x = jnp.ndim(getattr(params, "w_x", 0)) > 0
        table: Any = self.weights(self.input_size_of(params) if has_w_x else _ANY_WIDTH)
        shapes = {name: weight.shape for name, weight in table._asdict().items()}
        check_params(self, params, type(table), **shapes)

    def gated(
        self,
        input_size: int,
        blocks: int,
        *,
        carried: int | None = None,
        biases: Callable[..., Array] | tuple[float, ...] | None = None,
    ) -> Gated:
        """Weights of `Gated` parameters.

        Args:
          blocks: blocks of `w_x`, and of `w_h` and `b` unless they differ.
          carried: blocks of `w_h`.
          biases: the initial value of each block of `b`, or a function that draws all; zeros if left out.
        """
        size, carried = self.hidden_size, blocks if carried is None else carried
        biases = (0.0,) * blocks if biases is None else biases
        biased = blocks if callable(biases) else len(biases)
        return Gated(
            w_x=weight((input_size, blocks * size), self.w_x, blocks),
            w_h=weight((size, carried * size), self.w_h, carried),
            b=weight((biased * size,), biases),
        )


_ANY_WIDTH = 1024
"""Of inputs, where parameters without `w_x` do not tell."""


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, Weight)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and all(isinstance(n, int) for n in leaf)


KEEPING = "odds of keeping"
"""The knob of cells whose only factor of the carry is a gate of the input."""


def with_odds(b: Array, scale: Array, block: int, blocks: int) -> Array:
    """The bias of gates σ(.), with the odds σ/(1-σ) of one block multiplied by `scale`: log(scale) is added."""
    size = b.shape[-1] // blocks
    return b.at[..., block * size : (block + 1) * size].add(jnp.log(scale).astype(b.dtype))


def affine(x: Array, w: Array, b: Array) -> Array:
    """x w + b."""
    return x @ w + per_row(b, x)


def blocks(a: Array, count: int) -> list[Array]:
    """Equal blocks of the last axis."""
    return jnp.split(a, count, axis=-1)


def check_activation(activation: Any) -> None:
    """Raises if an activation is neither a function nor one of the names."""
    if not callable(activation) and activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}, or pass a function.")


def activate(activation: Activation, z: Array) -> Array:
    """φ(z), which must have the shape and dtype of z.

    Raises:
      ValueError: φ changes the shape or dtype.
    """
    if isinstance(activation, str):
        return ACTIVATIONS[activation](z)
    h = activation(z)
    if jnp.shape(h) != z.shape or jnp.result_type(h) != z.dtype:
        raise ValueError(
            f"`activation` maps {z.dtype} {list(z.shape)} to {jnp.result_type(h)} {list(jnp.shape(h))}; "
            "pass an elementwise function, such as `jnp.sin`."
        )
    return h
