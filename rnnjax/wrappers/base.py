"""The base of all wrappers: a cell around a cell, random or not."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import Noise, apart, draw_noise, is_causal, one_step, with_weights
from rnnjax.cell import PyTree

Step = Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
"""`(params, carry, x) -> (carry, y)`."""


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A cell around a cell. Subclasses define `around`, and some of the other methods.

    Attributes:
      cell: a cell with a single step, or a `Stack` of such cells.
    """

    cell: Any

    def __post_init__(self) -> None:
        if not is_causal(self.cell) or not hasattr(self.cell, "step"):
            raise TypeError(
                f"`cell` is {self.cell!r}, which has no single step; wrap its parts instead, as in "
                f"Bidirectional({type(self).__name__}(GRU(8)), {type(self).__name__}(GRU(8)))."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "rate" and not 0 <= value <= self._highest_rate:
                raise ValueError(
                    f"rate is {value}; it must be in 0..{self._highest_rate:g}, and less than 1 for a dropout."
                )

    _highest_rate = 1.0

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> PyTree:
        """The cell's parameters."""
        return self.cell.init(key, input_size, dtype)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The cell's initial carry."""
        return self.cell.initial_carry(self.inner(params), batch_shape)

    def inner(self, params: PyTree) -> PyTree:
        """The parameters of the cell, from those of the wrapper."""
        return params

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        """One step; `step` is the cell's, and `noise` is `None` for the expectation."""
        return step(self.inner(params), carry, x)

    def noise(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        """What this wrapper itself draws."""
        return Noise()

    def weighted(self, params: PyTree, weights: PyTree) -> PyTree:
        """The parameters with what this wrapper has drawn for them."""
        return params

    def step(self, params: PyTree, carry: PyTree, x: Any) -> tuple[PyTree, PyTree]:
        x, (own, inner) = apart(x, 2)

        def step(params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            return one_step(self.cell, params, carry, x, inner)

        return self.around(step, params, carry, x, own)

    def draw(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        """The noise of this wrapper and of the cell."""
        key, key_inner = jax.random.split(key)
        own = self.noise(key, params, steps, batch_shape, input_size)
        inner = draw_noise(self.cell, key_inner, self.inner(params), steps, batch_shape, input_size)
        return Noise((own.weights, inner.weights), (own.steps, inner.steps))

    def with_weights(self, params: PyTree, weights: PyTree) -> PyTree:
        own, inner = weights
        if jax.tree.leaves(own):
            params = self.weighted(params, own)
        return self.replaced(params, with_weights(self.cell, self.inner(params), inner))

    def replaced(self, params: PyTree, inner: PyTree) -> PyTree:
        """The parameters with those of the cell replaced."""
        return inner


def hidden_of(carry: PyTree) -> Array:
    """The hidden state: the leaf named h, or the first one."""
    return carry.h if hasattr(carry, "h") else jax.tree.leaves(carry)[0]


def with_hidden(carry: PyTree, h: Array) -> PyTree:
    if hasattr(carry, "h"):
        return carry._replace(h=h)
    leaves, tree = jax.tree.flatten(carry)
    return tree.unflatten([h, *leaves[1:]])


def parameter_of(wrapper: Any, params: PyTree, name: str) -> Array:
    """A parameter by its name, in the record or in the records that it holds."""
    if hasattr(params, name):
        return getattr(params, name)
    for field in ("cell", "rnn"):
        if hasattr(params, field):
            return parameter_of(wrapper, getattr(params, field), name)
    raise ValueError(
        f"{wrapper!r} needs the parameter `{name}`, but the parameters are {type(params).__name__} with "
        f"{', '.join(getattr(params, '_fields', ())) or 'no names'}; pass the names of its recurrent matrices."
    )


def with_parameters(wrapper: Any, params: PyTree, fields: dict[str, Array]) -> PyTree:
    if all(hasattr(params, name) for name in fields):
        return params._replace(**fields)
    field = "cell" if hasattr(params, "cell") else "rnn"
    return params._replace(**{field: with_parameters(wrapper, getattr(params, field), fields)})
