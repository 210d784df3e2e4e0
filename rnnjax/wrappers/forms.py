"""Connections around a cell, its precision, and constraints of its parameters."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import PyTree, float_dtype
from rnnjax.wrappers.base import Step, Wrapper, parameter_of, with_parameters


@dataclasses.dataclass(frozen=True)
class Residual(Wrapper):
    """Adds the input to the output: y_t = x_t + cell's y_t, which must have the same width."""

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        carry, y = step(params, carry, x)
        if y.shape != x.shape:
            raise ValueError(
                f"the output is {list(y.shape)} and the input {list(x.shape)}; a residual connection needs equal "
                "widths: use `Skip`, or a `Readout` of the cell."
            )
        return carry, x + y


@dataclasses.dataclass(frozen=True)
class Skip(Wrapper):
    """Puts the input beside the output: y_t = (cell's y_t, x_t)."""

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        carry, y = step(params, carry, x)
        return carry, jnp.concatenate([y, x], axis=-1)


@dataclasses.dataclass(frozen=True)
class Standardized(Wrapper):
    """Standardises the input: x_t ← (x_t - mean) / deviation. Both are constants, saved with the model and not trained.

    Example:

      >>> import rnnjax
      >>> rows = [[[1.0, 5.0], [3.0, 5.0]], [[5.0, 5.0]]]
      >>> Standardized.of(rnnjax.GRU(4), rows).mean
      (3.0, 5.0)
    """

    mean: tuple[float, ...] = (0.0,)  # of each feature, or one for all
    deviation: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, cell: Any, rows: Sequence[Any]) -> "Standardized":
        """With the mean and standard deviation over all steps of rows `[T_n, D]`, 1 for a feature that is constant."""
        steps = np.concatenate([np.asarray(row, np.float64) for row in rows])
        deviation = steps.std(axis=0)
        return cls(cell, tuple(steps.mean(axis=0).tolist()), tuple(np.where(deviation > 0, deviation, 1).tolist()))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        if not jnp.issubdtype(x.dtype, jnp.floating):  # the constants would be rounded to integers
            raise TypeError(f"the input of Standardized is {x.dtype}; convert `xs` to floats, such as float32.")
        for name, numbers in {"mean": self.mean, "deviation": self.deviation}.items():
            if len(numbers) not in (1, x.shape[-1]):
                raise ValueError(f"{name} has {len(numbers)} numbers, but the input has {x.shape[-1]} features.")
        mean, deviation = (jnp.array(each, x.dtype) for each in (self.mean, self.deviation))
        return step(params, carry, (x - mean) / deviation)


@dataclasses.dataclass(frozen=True)
class Precision(Wrapper):
    """Computes in a lower precision, and keeps parameters, carry and output in their own.

    Attributes:
      compute: the dtype of the step, such as "bfloat16".

    Reference: Micikevicius et al., Mixed precision training, ICLR 2018 (arXiv:1710.03740).
    """

    compute: DTypeLike = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "compute", jnp.dtype(float_dtype(self.compute)).name)

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        low: Any = jax.tree.map(self._cast, (params, carry, x))
        new, y = step(*low)
        # of the input, or, where that is tokens, of the carry
        floats = [leaf.dtype for leaf in jax.tree.leaves((x, carry)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        own = floats[0] if floats else self.compute
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), new, carry), jax.tree.map(
            lambda leaf: leaf.astype(own) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, y
        )

    def _cast(self, leaf: Array) -> Array:
        return leaf.astype(self.compute) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


Map = Callable[[Array], Array]
"""A parametrisation: from a free matrix to a constrained one of the same shape."""


@dataclasses.dataclass(frozen=True)
class Constrained(Wrapper):
    """Gives parameters another form before each step; gradients go to the free parameters.

    Attributes:
      maps: pairs of a parameter's name and its parametrisation, such as `(("w_h", Dale(0.8)), ("w_h", Sparse(0.1)))`.
    """

    maps: tuple[tuple[str, Map], ...] = ()

    def inner(self, params: PyTree) -> PyTree:
        for name, form in self.maps:
            params = with_parameters(self, params, {name: form(parameter_of(self, params, name))})
        return params

    def replaced(self, params: PyTree, inner: PyTree) -> PyTree:
        raise TypeError("a random wrapper of parameters goes around `Constrained`, not into it.")

    def with_weights(self, params: PyTree, weights: PyTree) -> PyTree:
        _, inner = weights
        return self.replaced(params, inner) if jax.tree.leaves(inner) else params


@dataclasses.dataclass(frozen=True)
class Dale:
    """Dale's law: each unit only excites or only inhibits, w = sign |w|; the first units excite.

    Rows of W2 are the units that send. Inhibitory rows are scaled so that both kinds balance on average.

    Attributes:
      excitatory: the fraction of units that excite.

    Reference: Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive tasks, PLOS
    Computational Biology 12 (2016), e1004792.

    Example:

      >>> Dale(0.5)(jnp.array([[1.0, -2.0], [3.0, -4.0]])).tolist()
      [[1.0, 2.0], [-3.0, -4.0]]
    """

    excitatory: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.excitatory <= 1:
            raise ValueError(f"excitatory is {self.excitatory}; it must be more than 0 and at most 1.")

    def __call__(self, w: Array) -> Array:
        units = w.shape[0]
        excites = round(self.excitatory * units)
        balance = excites / (units - excites) if excites < units else 1.0
        signs = [1.0] * excites + [-balance] * (units - excites)
        return jnp.abs(w) * jnp.broadcast_to(jnp.asarray(signs, w.dtype)[:, None], w.shape)


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A fixed sparse mask: all but a random fraction of the entries are zero.

    Attributes:
      density: the probability of an entry.
      seed: of the mask, which is not a parameter.

    Example:

      >>> mask = Sparse(0.25)(jnp.ones((100, 100)))
      >>> 0.2 < float(mask.mean()) < 0.3
      True
    """

    density: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density is {self.density}; it must be more than 0 and at most 1.")

    def __call__(self, w: Array) -> Array:
        kept = jax.random.bernoulli(jax.random.key(self.seed), self.density, w.shape)
        return jnp.where(kept, w, jnp.zeros_like(w))
