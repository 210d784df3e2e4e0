"""Normalisation of features over units, and of weights over their columns."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import output_size
from rnnjax.cell import PyTree, float_dtype, per_row
from rnnjax.wrappers.base import Step, Wrapper, hidden_of, parameter_of, with_hidden, with_parameters


class LayerNormParams(NamedTuple):
    """Parameters of a `LayerNorm`.

    Attributes:
      cell: the cell's parameters.
      gain, bias: of the normalised features.
    """

    cell: PyTree
    gain: Array
    bias: Array


@dataclasses.dataclass(frozen=True)
class LayerNorm(Wrapper):
    """Normalises the input, the hidden state or the output over its features, with a gain and a bias.

        norm(a) = gain (a - mean(a)) / sqrt(var(a) + epsilon) + bias

    Attributes:
      where: "input" (before the cell), "state" (inside: the h_{t-1} that the cell sees), or "output".
      epsilon: keeps the variance from zero.

    Reference: Ba, Kiros and Hinton, Layer normalization, 2016 (arXiv:1607.06450). `rnnjax.cells.LayerNormLSTM` is the
    paper's LSTM, which normalises inside of the gates.
    """

    where: Literal["input", "state", "output"] = "input"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.where not in ("input", "state", "output"):
            raise ValueError(f"where is {self.where!r}; choose 'input', 'state' or 'output'.")

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> LayerNormParams:
        dtype, params = float_dtype(dtype), self.cell.init(key, input_size, dtype)
        size = input_size
        if self.where == "output":
            size = output_size(self.cell, params, input_size)
        elif self.where == "state":
            size = jax.eval_shape(lambda p: hidden_of(self.cell.initial_carry(p)), params).shape[-1]
        return LayerNormParams(params, jnp.ones(size, dtype), jnp.zeros(size, dtype))

    def inner(self, params: LayerNormParams) -> PyTree:
        return params.cell

    def replaced(self, params: LayerNormParams, inner: PyTree) -> LayerNormParams:
        return params._replace(cell=inner)

    def around(
        self, step: Step, params: LayerNormParams, carry: PyTree, x: Array, noise: PyTree
    ) -> tuple[PyTree, PyTree]:
        norm = functools.partial(self._normalised, params)
        if self.where == "input":
            return step(params.cell, carry, norm(x))
        if self.where == "state":
            return step(params.cell, with_hidden(carry, norm(hidden_of(carry))), x)
        carry, y = step(params.cell, carry, x)
        return carry, norm(y)

    def _normalised(self, params: LayerNormParams, a: Array) -> Array:
        a = a - a.mean(-1, keepdims=True)
        a = a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + self.epsilon)
        return a * per_row(params.gain, a) + per_row(params.bias, a)


class WeightNormParams(NamedTuple):
    """Parameters of a `WeightNorm`.

    Attributes:
      cell: the cell's parameters, whose directions matter.
      gains: the norm of every column of each named matrix.
    """

    cell: PyTree
    gains: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class WeightNorm(Wrapper):
    """Parametrises matrices by the direction and the norm of their columns: w = g v / |v|.

    At initialisation w is what the cell draws.

    Attributes:
      names: the matrices.

    Reference: Salimans and Kingma, Weight normalization, NeurIPS 2016 (arXiv:1602.07868), eq. 2.
    """

    names: tuple[str, ...] = ("w_h",)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> WeightNormParams:
        params = self.cell.init(key, input_size, dtype)
        return WeightNormParams(
            params, tuple([_norms(parameter_of(self, params, name))[..., 0, :] for name in self.names])
        )

    def inner(self, params: WeightNormParams) -> PyTree:
        found = {name: parameter_of(self, params.cell, name) for name in self.names}
        scaled = {
            name: v * (gain[..., None, :] / _norms(v))
            for (name, v), gain in zip(found.items(), params.gains, strict=True)
        }
        return with_parameters(self, params.cell, scaled)

    def replaced(self, params: WeightNormParams, inner: PyTree) -> WeightNormParams:
        norms = tuple([_norms(parameter_of(self, inner, name))[..., 0, :] for name in self.names])
        return WeightNormParams(inner, norms)


def _norms(w: Array) -> Array:
    """The norm of each column, [..., 1, columns]."""
    return jnp.sqrt((w * w).sum(-2, keepdims=True))
