"""Composites of cells: stacked layers, and bidirectional layers.

Both are frozen dataclasses like the cells they hold, so the nested repr shows the architecture. `unroll` runs each part
over all of time before the next. Parameters and carries are tuples with one entry per part.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import (
    Composite,
    Masks,
    Noise,
    Run,
    apart,
    draw_noise,
    is_causal,
    one_step,
    output_size,
    with_weights,
)
from rnnjax.cell import Cell, PyTree


@dataclasses.dataclass(frozen=True)
class Stack:
    """Stacked layers: the outputs of each layer are the inputs of the next.

    Attributes:
      cells: the layers, bottom to top; each a cell or a composite of cells.

    Example:

      >>> from rnnjax import GRU, LSTM, unroll
      >>> cell = Stack((LSTM(8), GRU(4)))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> (lstm_carry, gru_carry), ys = unroll(cell, params, jnp.ones((5, 2, 3)))
      >>> ys.shape, lstm_carry.c.shape, gru_carry.shape
      ((5, 2, 4), (2, 8), (2, 4))
    """

    cells: tuple[Cell | Composite, ...]

    def __post_init__(self) -> None:
        cells: Any = self.cells  # may have any type
        if not isinstance(cells, tuple) or not cells:
            raise ValueError(f"cells is {cells!r}; pass a tuple of at least one cell: Stack((LSTM(64), LSTM(64))).")

    @property
    def causal(self) -> bool:
        """Whether every layer is causal; if so, all layers can share remat segments."""
        return all(is_causal(cell) for cell in self.cells)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> tuple[PyTree, ...]:
        """One entry per layer; each layer's input size is the width of the outputs below it."""
        params: list[PyTree] = []
        for layer_key, cell in zip(jax.random.split(key, len(self.cells)), self.cells, strict=True):
            params.append(cell.init(layer_key, input_size, dtype))
            input_size = output_size(cell, params[-1], input_size)
        return tuple(params)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> tuple[PyTree, ...]:
        _check_parts("params", params, len(self.cells))
        return tuple(cell.initial_carry(p, batch_shape) for cell, p in zip(self.cells, params, strict=True))

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[tuple[PyTree, ...], PyTree]:
        """One step of every layer, bottom to top: maps `(carry_{t-1}, x_t)` to `(carry_t, y_t)`, y_t of the top layer.

        Raises:
          TypeError: a layer has no single step because it needs the whole sequence (`Bidirectional`).
        """
        carries: list[PyTree] = []
        x, noises = apart(x, len(self.cells))
        for cell, p, c, noise in zip(self.cells, params, carry, noises, strict=True):
            if not hasattr(cell, "step"):
                raise TypeError(f"{cell!r} needs the whole sequence and has no single step; use `rnnjax.unroll`.")
            c, x = one_step(cell, p, c, x, noise)
            carries.append(c)
        return tuple(carries), x

    def unroll_parts(
        self, run: Run, params: PyTree, carry: PyTree, xs: Array, masks: Masks
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        _check_parts("params", params, len(self.cells))
        _check_parts("carry", carry, len(self.cells))
        carries: list[PyTree] = []
        for index, (cell, p, c) in enumerate(zip(self.cells, params, carry, strict=True)):
            c, xs = run(cell, p, c, xs, masks.part(index))
            carries.append(c)
        return tuple(carries), xs

    def draw(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        """The noise of every layer."""
        found: list[Noise] = []
        for layer_key, cell, p in zip(jax.random.split(key, len(self.cells)), self.cells, params, strict=True):
            found.append(draw_noise(cell, layer_key, p, steps, batch_shape, input_size))
            input_size = output_size(cell, p, input_size)
        return Noise(tuple([noise.weights for noise in found]), tuple([noise.steps for noise in found]))

    def with_weights(self, params: PyTree, weights: PyTree) -> tuple[PyTree, ...]:
        """The parameters with the noise of every layer's weights."""
        return tuple([with_weights(*of) for of in zip(self.cells, params, weights, strict=True)])


class BothWays(NamedTuple):
    """Parameters or carries of the two directions of a `Bidirectional`."""

    forward: PyTree
    backward: PyTree


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """Runs one cell forwards and one backwards, and concatenates their outputs on the last axis: [forward, backward].

    Padding stays in place: the backward cell starts at each row's own end. With `resets`, both directions see the same
    episodes, so no state crosses a boundary.

    Example:

      >>> from rnnjax import GRU, unroll
      >>> cell = Bidirectional(GRU(4), GRU(6))
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = unroll(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 3]))
      >>> ys.shape, carry.backward.shape
      ((5, 2, 10), (2, 6))
    """

    forward: Cell | Composite
    backward: Cell | Composite

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> BothWays:
        key_forward, key_backward = jax.random.split(key)
        return BothWays(
            forward=self.forward.init(key_forward, input_size, dtype),
            backward=self.backward.init(key_backward, input_size, dtype),
        )

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> BothWays:
        _check_parts("params", params, 2)
        return BothWays(
            forward=self.forward.initial_carry(params[0], batch_shape),
            backward=self.backward.initial_carry(params[1], batch_shape),
        )

    def unroll_parts(self, run: Run, params: PyTree, carry: PyTree, xs: Array, masks: Masks) -> tuple[BothWays, PyTree]:
        _check_parts("params", params, 2)
        _check_parts("carry", carry, 2)
        carry_forward, ys_forward = run(self.forward, params[0], carry[0], xs, masks.part(0))
        carry_backward, ys_backward = run(self.backward, params[1], carry[1], xs, masks.part(1).opposite())
        return BothWays(carry_forward, carry_backward), jax.tree.map(_side_by_side, ys_forward, ys_backward)

    def draw(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        """The noise of both directions, in the order of the input."""
        keys = jax.random.split(key)
        cells = self.forward, self.backward
        found = [
            draw_noise(c, k, p, steps, batch_shape, input_size) for c, k, p in zip(cells, keys, params, strict=True)
        ]
        return Noise(tuple([noise.weights for noise in found]), tuple([noise.steps for noise in found]))

    def with_weights(self, params: PyTree, weights: PyTree) -> BothWays:
        """The parameters with the noise of both directions' weights."""
        return BothWays(*[with_weights(*of) for of in zip((self.forward, self.backward), params, weights, strict=True)])


def _side_by_side(forward: Array, backward: Array) -> Array:
    return jnp.concatenate([forward, backward], axis=-1)


def _check_parts(name: str, parts: PyTree, expected: int) -> None:
    kind, count = type(parts).__name__, len(parts) if hasattr(parts, "__len__") else None
    if not isinstance(parts, tuple) or count != expected:
        given = kind if count is None else f"{count} parts"
        raise ValueError(f"`{name}` is a {kind} of {given}; expected a tuple of {expected}, one per part.")
