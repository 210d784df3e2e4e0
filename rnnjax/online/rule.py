"""What all rules share: their two functions, and the checks of their arguments."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import check_cell
from rnnjax.cell import Cell, PyTree
from rnnjax.online.moment import LossGradient, Moment, Stepped, begin


class Rule:
    """A learning rule that gives the gradient of each step's loss at that step; a frozen value, without arrays.

    A rule of your own defines `_start`, the trace of the cell's initial carry, and `_advance`, one step.
    """

    def init(
        self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...] = (), *, input_size: int | None = None
    ) -> Any:
        """The trace that belongs to the cell's initial carry.

        Args:
          cell: a cell with a single step, or a `Stack` or `Readout` of such cells.
          params: its parameters.
          batch_shape: the batch axes.
          input_size: D, only needed where the parameters do not tell it.
        Returns:
          The trace, a tree of arrays.
        Raises:
          TypeError: the cell has no single step (`Bidirectional`), or the rule is not defined for it.
          ValueError: `input_size` is needed.
        """
        check_cell(cell)
        if not hasattr(cell, "step"):
            raise TypeError(
                f"{cell!r} needs the whole sequence and has no single step, so it cannot be learned online; learn its "
                "forward cell alone, or use `jax.grad` through `rnnjax.unroll`."
            )
        return self._start(cell, params, batch_shape, input_size)

    def step(
        self,
        cell: Cell,
        params: PyTree,
        carry: PyTree,
        trace: Any,
        x: ArrayLike,
        dloss: LossGradient,
        *,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        key: Array | None = None,
    ) -> Stepped:
        """One step, the gradient of its loss, and the trace after it.

        Args:
          cell, params: as in `init`. A random wrapper, such as dropout, takes the expectation.
          carry: before the step.
          trace: of `init`, or of the step before.
          x: `[*batch, D]`.
          dloss: gives dL_t/dy_t at y_t, like y_t; such as `jax.grad(loss)`.
          mask, resets: `[*batch]` booleans, as in `rnnjax.step`. A masked row adds no gradient; a reset clears its
            trace.
          key: for rules that draw random numbers.
        Returns:
          A `Stepped`: `(carry, trace, gradient, y)`.
        Raises:
          TypeError, ValueError: as `init` and `rnnjax.step`; also if the trace or `dloss(y)` does not fit, or a key is
            missing.
        """
        return self._advance(begin(cell, params, carry, x, mask, resets), trace, dloss, key)

    @property
    def random(self) -> bool:
        """Whether `step` needs a key."""
        return False

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Any:
        raise NotImplementedError

    def _advance(self, moment: Moment, trace: Any, dloss: LossGradient, key: Array | None) -> Stepped:
        raise NotImplementedError


def need_key(rule: Rule, key: Array | None) -> Array:
    if key is None:
        raise ValueError(f"{rule!r} draws random numbers at every step; pass `key`, a new one for each step.")
    return key
