"""Composites of cells: stacked layers, and bidirectional layers.

Both are frozen dataclasses like the cells they hold, so the nested repr shows the architecture. `unroll` runs each part
over all of time before the next. Parameters and carries are tuples with one entry per part.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import (
    Composite,
    Masks,
    Noise,
    Noisy,
    Run,
    apart,
    draw_noise,
    dtype_of,
    is_causal,
    keep,
    one_step,
    output_size,
    with_weights,
)
from rnnjax.cell import Cell, PyTree

Skips = Literal["none", "residual", "input"]
Merge = Literal["concatenate", "sum", "mean", "product"]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Stacked layers: the outputs of each layer are the inputs of the next; with dropout and skip connections.

        y^1 = layer_1(x)         y^l = layer_l(m^l y^{l-1})                  for l = 2..L
                                 y^l = layer_l(m^l y^{l-1}) + y^{l-1}        skip="residual"
                                 y^l = layer_l((m^l y^{l-1}, x))             skip="input"

    `unroll` runs layer after layer, each over all of time. `rnnjax.step`, or a `jax.lax.scan` over `step`, runs all
    layers one step at a time, as for streams; both give the same numbers, noise included (`rnnjax.draw_noise`).

    Attributes:
      cells: the layers, bottom to top; each a cell or a composite of cells.
      dropout: the probability with which an element of m^l is zero; the others are 1 / (1 - dropout). It is drawn for
        every step and row, as in PyTorch, if `unroll` gets a `key` or `noise`; without them m^l = 1, the expectation.
        The inputs of the first layer and the outputs of the last are not dropped. For masks that are the same at all
        steps, wrap the layers: `wrappers.Dropout(cell, rate, tied=True)`.
      skip: "none"; "residual", where all layers need one width; or "input", for layers that also see the stack's input.

    References: dropout: Zaremba, Sutskever and Vinyals, Recurrent neural network regularization, 2014
    (arXiv:1409.2329). Residual: Wu et al., Google's neural machine translation system, 2016 (arXiv:1609.08144), eq. 6.
    Input: Graves, Generating sequences with recurrent neural networks, 2013 (arXiv:1308.0850), eq. 2.

    Example:

      >>> from rnnjax import GRU, LSTM, unroll
      >>> cell = Stack((LSTM(8), GRU(4)), dropout=0.5)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> (lstm_carry, gru_carry), ys = unroll(cell, params, jnp.ones((5, 2, 3)), key=jax.random.key(1))
      >>> ys.shape, lstm_carry.c.shape, gru_carry.shape
      ((5, 2, 4), (2, 8), (2, 4))
    """

    cells: tuple[Cell | Composite, ...]
    dropout: float = 0.0
    skip: Skips = "none"

    def __post_init__(self) -> None:
        cells: Any = self.cells  # may have any type
        if not isinstance(cells, tuple) or not cells:
            raise ValueError(f"cells is {cells!r}; pass a tuple of at least one cell: Stack((LSTM(64), LSTM(64))).")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        _check_choice("skip", self.skip, Skips)

    @classmethod
    def of(
        cls,
        cell: Callable[[int], Cell | Composite],
        sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        skip: Skips = "none",
    ) -> Self:
        """A stack with one layer per width.

        Args:
          cell: makes a layer of a width: a class such as `LSTM`, or a function such as `lambda n: Elman(n, "relu")`.
          sizes: the widths, bottom to top.
          dropout, skip: of the stack.
        Raises:
          TypeError: `cell` is a cell and not a class, or `sizes` is one number.

        Example:

          >>> from rnnjax import GRU
          >>> Stack.of(GRU, (64, 32)) == Stack((GRU(64), GRU(32)))
          True
        """
        given: Any = sizes
        if not callable(cell):
            raise TypeError(f"`cell` is {cell!r}; pass what makes a layer of a width: Stack.of(LSTM, (64, 32)).")
        if isinstance(given, int):
            raise TypeError(f"`sizes` is {given}; pass the width of every layer: Stack.of(LSTM, ({given}, {given})).")
        return cls(tuple([cell(size) for size in given]), dropout, skip)

    @property
    def causal(self) -> bool:
        """Whether every layer is causal; if so, all layers can share remat segments."""
        return all(is_causal(cell) for cell in self.cells)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> tuple[PyTree, ...]:
        """One entry per layer; each layer's input size is the width of what it is given."""
        params: list[PyTree] = []
        width = input_size
        for layer_key, cell in zip(jax.random.split(key, len(self.cells)), self.cells, strict=True):
            given = self._given(len(params), width, input_size)
            params.append(cell.init(layer_key, given, dtype))
            below, width = width, output_size(cell, params[-1], given)
            if len(params) > 1 and self.skip == "residual":
                _check_residual(cell, below, width)
        return tuple(params)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> tuple[PyTree, ...]:
        _check_parts("params", params, len(self.cells))
        return tuple(cell.initial_carry(p, batch_shape) for cell, p in zip(self.cells, params, strict=True))

    def step(self, params: PyTree, carry: PyTree, x: Array | Noisy) -> tuple[tuple[PyTree, ...], PyTree]:
        """One step of every layer, bottom to top: maps `(carry_{t-1}, x_t)` to `(carry_t, y_t)`, y_t of the top layer.

        Args:
          params, carry: one entry per layer.
          x: `[*batch, D]`, or a `Noisy` with the noise of this step.
        Raises:
          TypeError: a layer has no single step because it needs the whole sequence (`Bidirectional`).
        """
        given, (*noises, kept) = apart(x, len(self.cells) + 1)

        def layer(index: int, cell: Any, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            if not hasattr(cell, "step"):
                raise TypeError(f"{cell!r} needs the whole sequence and has no single step; use `rnnjax.unroll`.")
            return one_step(cell, params, carry, x, noises[index])

        return self._through(layer, params, carry, given, kept)

    def unroll_parts(
        self, run: Run, params: PyTree, carry: PyTree, xs: Array, masks: Masks
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        _check_parts("params", params, len(self.cells))
        _check_parts("carry", carry, len(self.cells))

        def layer(index: int, cell: Any, params: PyTree, carry: PyTree, xs: Array) -> tuple[PyTree, PyTree]:
            return run(cell, params, carry, xs, masks.part(index))

        return self._through(layer, params, carry, xs, masks.part(len(self.cells)).noise)

    def _through(
        self, layer: Callable[..., tuple[PyTree, PyTree]], params: PyTree, carry: PyTree, x: Array, kept: PyTree
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        """Every layer, bottom to top, over one step or over all of them; `kept` has m^l of the layers above the first.

        At masked steps x and all outputs are zero, and so are their sums.
        """
        carries: list[PyTree] = []
        y: PyTree = x
        for index, (cell, p, c) in enumerate(zip(self.cells, params, carry, strict=True)):
            below = y
            if index and kept:
                y = y * kept[index - 1]
            if index and self.skip == "input":
                y = jnp.concatenate([y, x], axis=-1)
            c, y = layer(index, cell, p, c, y)
            if index and self.skip == "residual":
                _check_residual(cell, below.shape[-1], y.shape[-1])
                y = below + y
            carries.append(c)
        return tuple(carries), y

    def _given(self, index: int, below: int, input_size: int) -> int:
        """The width of what a layer is given: the outputs `below`, and the stack's input if it skips."""
        return below + input_size if index and self.skip == "input" else below

    def draw(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        """The noise of every layer, and the dropout between them."""
        found: list[Noise] = []
        kept: list[Array] = []
        keys, width = jax.random.split(key, len(self.cells)), input_size
        for index, (cell, p) in enumerate(zip(self.cells, params, strict=True)):
            if index and self.dropout:
                of_mask = jax.random.fold_in(key, len(keys) + index)  # below are the keys of layers
                mask = keep(of_mask, self.dropout, (*batch_shape, width), steps, False, dtype_of(params[index - 1]))
                kept.append(mask / (1 - self.dropout))
            given = self._given(index, width, input_size)
            found.append(draw_noise(cell, keys[index], p, steps, batch_shape, given))
            width = output_size(cell, p, given)
        return Noise(tuple([noise.weights for noise in found]), (*[noise.steps for noise in found], tuple(kept)))

    def with_weights(self, params: PyTree, weights: PyTree) -> tuple[PyTree, ...]:
        """The parameters with the noise of every layer's weights."""
        return tuple([with_weights(*of) for of in zip(self.cells, params, weights, strict=True)])


class BothWays(NamedTuple):
    """Parameters or carries of the two directions of a `Bidirectional`."""

    forward: PyTree
    backward: PyTree


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """Runs one cell forwards and one backwards over the same inputs, and merges their outputs.

    Padding stays in place: the backward cell starts at each row's own end. With `resets`, both directions see the same
    episodes, so no state crosses a boundary.

    Attributes:
      forward, backward: cells or composites of cells.
      merge: "concatenate" on the last axis, [forward, backward]; or "sum", "mean" or "product", for which both outputs
        need the same width.

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
    merge: Merge = "concatenate"

    def __post_init__(self) -> None:
        _check_choice("merge", self.merge, Merge)

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
        return BothWays(carry_forward, carry_backward), jax.tree.map(self._merged, ys_forward, ys_backward)

    def _merged(self, forward: Array, backward: Array) -> Array:
        if self.merge == "concatenate":
            return jnp.concatenate([forward, backward], axis=-1)
        if forward.shape != backward.shape:
            raise ValueError(
                f"the outputs of {self.forward!r} have {forward.shape[-1]} features and those of {self.backward!r} "
                f'{backward.shape[-1]}, but merge is "{self.merge}"; give both one width, or use merge="concatenate".'
            )
        if self.merge == "product":
            return forward * backward
        return forward + backward if self.merge == "sum" else 0.5 * (forward + backward)

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


def _check_choice(name: str, given: Any, choices: Any) -> None:
    if given not in get_args(choices):
        raise ValueError(f"{name} is {given!r}; choose one of {', '.join(map(repr, get_args(choices)))}.")


def _check_residual(cell: Any, below: int, width: int) -> None:
    if below != width:
        raise ValueError(
            f'the layer {cell!r} has {width} outputs and the one below it {below}, but skip="residual" adds them; give '
            'all layers one width, or use skip="input".'
        )


def _check_parts(name: str, parts: PyTree, expected: int) -> None:
    kind, count = type(parts).__name__, len(parts) if hasattr(parts, "__len__") else None
    if not isinstance(parts, tuple) or count != expected:
        given = kind if count is None else f"{count} parts"
        raise ValueError(f"`{name}` is a {kind} of {given}; expected a tuple of {expected}, one per part.")
