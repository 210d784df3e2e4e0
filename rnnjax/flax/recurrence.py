"""Converts a Flax cell to an rnnjax cell by its hyperparameters, functions and dtypes.

Flax's LSTM, GRU and Elman cells with default functions and a single dtype are the same as rnnjax's. Cells with other
functions (`gate_fn`, `activation_fn`) or mixed precision, where Flax computes the two matmuls in `dtype` and keeps the
carry in `param_dtype`, become a `FlaxCell` (`cells.py`).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import Cell, PyTree
from rnnjax.cells import GRU, LSTM, Elman, ElmanParams, GRUParams, LSTMCarry, LSTMParams
from rnnjax.flax.cells import ElmanStep, FlaxCell, Function, GRUStep, LSTMStep, Started, StartingFrom, cast
from rnnjax.flax.layouts import misfit_of

Kind = Literal["lstm", "gru", "elman"]
_TANH = (jnp.tanh, jax.nn.tanh, jax.lax.tanh)
_SIGMOID = (jax.nn.sigmoid, jax.lax.logistic)
_RELU = (jax.nn.relu,)
_KIND_OF: dict[Kind, tuple[type, str]] = {
    "lstm": (LSTMParams, "an LSTMCell or OptimizedLSTMCell"),
    "gru": (GRUParams, "a GRUCell"),
    "elman": (ElmanParams, "a SimpleCell"),
}


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of a Flax cell that its step depends on."""

    kind: Kind
    size: int
    gate_fn: Function
    activation_fn: Function
    residual: bool
    dtype: DTypeLike | None

    @classmethod
    def known(cls, cell: Any, kinds: dict[type, Kind], module: type) -> "Hyperparameters | None":
        """Reads a Flax cell; `None` if the cell must run its own step.

        Args:
          kinds: Flax's cells with a built-in counterpart; subclasses do not count, since they may change anything.
          module: the module class; an activation that is a module may have parameters of its own.
        """
        if type(cell) not in kinds:
            return None
        functions = {name: getattr(cell, name) for name in ("gate_fn", "activation_fn") if hasattr(cell, name)}
        if any([isinstance(function, module) for function in functions.values()]):
            return None
        return cls(
            kind=kinds[type(cell)],
            size=cell.features if hasattr(cell, "features") else cell.hidden_features,
            gate_fn=functions.get("gate_fn", jax.nn.sigmoid),
            activation_fn=functions["activation_fn"],
            residual=getattr(cell, "residual", False),
            dtype=cell.dtype,
        )

    def check_params(self, cell: str, params: PyTree) -> None:
        """Raises if the parameters are for another kind or size of cell, where they could broadcast silently.

        Args:
          cell: the class name of the cell.
        Raises:
          ValueError: the kind or the size differs, or the arrays do not fit each other.
        """
        record, _ = _KIND_OF[self.kind]
        if type(params) is not record:
            found = next(name for other, name in _KIND_OF.values() if type(params) is other)
            raise ValueError(
                f"`cell` is a {cell} of {self.size} units, but its parameters are those of {found} (recurrent weights "
                f"{list(params.w_h.shape)}); load the checkpoint into the cell that it was saved from."
            )
        if params.w_h.shape[0] != self.size:
            raise ValueError(
                f"the recurrent weights are {list(params.w_h.shape)}, but the cell has {self.size} units; these "
                "parameters were made for another cell."
            )
        misfit = misfit_of(params)
        if misfit:
            raise ValueError(f"the parameters of this {cell} do not fit each other: {misfit}.")

    def plain_cell(self) -> Cell | None:
        """The equivalent built-in cell, if there is one."""
        if self.kind == "elman":
            if _is(self.activation_fn, _TANH) and not self.residual:
                return Elman(self.size, "tanh")
            if _is(self.activation_fn, _RELU) and not self.residual:
                return Elman(self.size, "relu")
            return None
        if _is(self.gate_fn, _SIGMOID) and _is(self.activation_fn, _TANH):
            return LSTM(self.size) if self.kind == "lstm" else GRU(self.size)
        return None

    def general_cell(self, carry_dtype: jnp.dtype, mix_dtype: jnp.dtype) -> "FlaxCell":
        if self.kind == "lstm":
            return FlaxCell(LSTM(self.size), LSTMStep(self.gate_fn, self.activation_fn), carry_dtype, mix_dtype)
        if self.kind == "gru":
            return FlaxCell(GRU(self.size), GRUStep(self.gate_fn, self.activation_fn), carry_dtype, mix_dtype)
        return FlaxCell(Elman(self.size), ElmanStep(self.activation_fn, self.residual), carry_dtype, mix_dtype)


def recurrence(
    hyperparameters: Hyperparameters,
    params: PyTree,
    carry: PyTree,
    inputs: Array,
    start: PyTree | None,
    batch_ndim: int,
) -> tuple[Cell, PyTree, Array]:
    """`(cell, params, inputs)` with all arrays in the dtypes in which Flax computes.

    Args:
      params: in rnnjax's layout, in their stored dtype.
      carry: in rnnjax's layout; a step keeps its dtype.
      start: the carry to which resets return, in rnnjax's layout; `None` for zero.
      batch_ndim: the number of batch axes of the carry.
    Raises:
      TypeError: a step would change the carry's dtype.
    """
    h = carry.h if isinstance(carry, LSTMCarry) else carry
    project_dtype = jnp.dtype(canonicalize_dtype(inputs, params.w_x, params.b, dtype=hyperparameters.dtype))
    mix_dtype = jnp.dtype(canonicalize_dtype(h, params.w_h, dtype=hyperparameters.dtype))
    carry_dtype = jnp.dtype(h.dtype)
    params = params._replace(
        w_x=params.w_x.astype(project_dtype), w_h=params.w_h.astype(mix_dtype), b=params.b.astype(project_dtype)
    )
    if isinstance(params, GRUParams):
        params = params._replace(b_hn=params.b_hn.astype(mix_dtype))
    inputs = inputs.astype(project_dtype)

    uniform = project_dtype == mix_dtype == carry_dtype
    cell = hyperparameters.plain_cell() if uniform else None
    if cell is None:
        cell = hyperparameters.general_cell(carry_dtype, mix_dtype)
        _check_dtype_kept(cell, params, carry, inputs)
    if start is not None:
        cell, params = StartingFrom(cell, batch_ndim), Started(params, cast(start, carry_dtype))
    return cell, params, inputs


def _is(function: Function, known: tuple[Function, ...]) -> bool:
    return any(function is other for other in known)


def _check_dtype_kept(cell: FlaxCell, params: PyTree, carry: PyTree, inputs: Array) -> None:
    step = jax.ShapeDtypeStruct(inputs.shape[-1:], inputs.dtype)
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[-1:], leaf.dtype), carry)
    after, _ = jax.eval_shape(cell.step, params, row, step)
    for leaf in jax.tree.leaves(after):
        if leaf.dtype != cell.carry_dtype:
            raise TypeError(
                f"the carry starts in {cell.carry_dtype} but a step returns it in {leaf.dtype}; give "
                f"`initial_carry` in {leaf.dtype}, or use the same `param_dtype` and `dtype` for the cell."
            )
