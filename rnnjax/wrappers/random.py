"""Random wrappers: dropout, zoneout, DropConnect, and noise of the state."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll import Noise, dtype_of, keep, output_size
from rnnjax.cell import PyTree, space_of
from rnnjax.wrappers.base import Step, Wrapper, hidden_of, parameter_of, with_hidden, with_parameters


@dataclasses.dataclass(frozen=True)
class Dropout(Wrapper):
    """Sets elements of the input, the hidden state or the output to zero, and scales the others by 1 / (1 - rate).

    Without a key nothing is changed, which is the expectation of what is multiplied.

    Attributes:
      rate: the probability of zero.
      where: "input" x_t, "state" h_{t-1} (the leaf `h` of the carry, or its first), or "output" y_t.
      tied: one mask for all steps of a sequence (variational dropout), instead of one for each step.

    References: Srivastava et al., Dropout, JMLR 15 (2014); tied: Gal and Ghahramani, A theoretically grounded
    application of dropout in recurrent neural networks, NeurIPS 2016 (arXiv:1512.05287), eq. 7.

    Example:

      >>> import rnnjax
      >>> cell = Dropout(rnnjax.LSTM(4), 0.5, tied=True)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> _, trained = rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)), key=jax.random.key(1))
      >>> _, evaluated = rnnjax.unroll(cell, params, jnp.ones((5, 2, 3)))
      >>> bool((trained != evaluated).any())
      True
    """

    rate: float
    where: Literal["input", "state", "output"] = "input"
    tied: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it must be at least 0 and less than 1.")
        if self.where not in ("input", "state", "output"):
            raise ValueError(f"where is {self.where!r}; choose 'input', 'state' or 'output'.")

    def noise(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        if self.rate == 0:
            return Noise()
        shape: tuple[int, ...] = (*batch_shape, *space_of(self.cell), input_size)
        if self.where == "state":
            shape = jax.eval_shape(lambda p: hidden_of(self.cell.initial_carry(p, batch_shape)), params).shape
        elif self.where == "output":
            shape = (*shape[:-1], output_size(self.cell, params, input_size))
        return Noise(steps=keep(key, self.rate, shape, steps, self.tied, dtype_of(params)) / (1 - self.rate))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        if noise is None:
            return step(params, carry, x)
        if self.where == "input":
            return step(params, carry, x * noise)
        if self.where == "state":
            return step(params, with_hidden(carry, hidden_of(carry) * noise), x)
        carry, y = step(params, carry, x)
        return carry, y * noise


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """Holds elements of each state at random: c_t = c_{t-1} with probability rate, else the cell's c_t.

    Without a key it is c_t = rate c_{t-1} + (1 - rate) cell's c_t, the expectation. If the output is a state, as in an
    LSTM, it is the state after zoneout.

    Attributes:
      rate: of all states.
      rates: of each state instead, in the order of the carry's leaves, such as `(0.05, 0.5)` for h and c of an LSTM.

    Reference: Krueger et al., Zoneout: regularizing RNNs by randomly preserving hidden activations, ICLR 2017
    (arXiv:1606.01305), eqs. 5 and 6.
    """

    rate: float = 0.0
    rates: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for rate in (self.rate, *(self.rates or ())):
            if not 0 <= rate <= 1:
                raise ValueError(f"rate is {rate}; it must be in 0..1.")

    def _rates(self, count: int) -> tuple[float, ...]:
        if self.rates is None:
            return (self.rate,) * count
        if len(self.rates) != count:
            raise ValueError(f"rates is {self.rates}, but the carry of {self.cell!r} has {count} states.")
        return self.rates

    def noise(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        carry = jax.tree.leaves(jax.eval_shape(lambda p: self.cell.initial_carry(p, batch_shape), params))
        keys, dtype = jax.random.split(key, len(carry)), dtype_of(params)
        drawn = [
            keep(key, 1 - rate, leaf.shape, steps, False, dtype) if 0 < rate < 1 else None
            for key, rate, leaf in zip(keys, self._rates(len(carry)), carry, strict=True)
        ]
        return Noise(steps=tuple(drawn))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        new, y = step(params, carry, x)
        before, (after, tree) = jax.tree.leaves(carry), jax.tree.flatten(new)
        held = noise if noise is not None else (None,) * len(before)
        kept = [
            self._mixed(rate, old, state, mask)
            for rate, old, state, mask in zip(self._rates(len(before)), before, after, held, strict=True)
        ]
        for state, mixed in zip(after, kept, strict=True):
            if y is state:  # the output is a state
                y = mixed
        return tree.unflatten(kept), y

    def _mixed(self, rate: float, old: Array, new: Array, mask: Array | None) -> Array:
        if rate in (0, 1) or not jnp.issubdtype(new.dtype, jnp.floating):
            return old if rate == 1 else new
        return rate * old + (1 - rate) * new if mask is None else jnp.where(mask > 0, old, new)


@dataclasses.dataclass(frozen=True)
class DropConnect(Wrapper):
    """Sets elements of recurrent matrices to zero, once for all steps and rows, and scales the rest by 1 / (1 - rate).

    Attributes:
      rate: the probability of zero.
      names: the parameters.

    Reference: Wan et al., Regularization of neural networks using DropConnect, ICML 2013; on W2: Merity, Keskar and
    Socher, Regularizing and optimizing LSTM language models, ICLR 2018 (arXiv:1708.02182), section 2.
    """

    rate: float
    names: tuple[str, ...] = ("w_h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it must be at least 0 and less than 1.")

    def noise(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        if self.rate == 0:
            return Noise()
        found = [parameter_of(self, params, name) for name in self.names]
        keys = jax.random.split(key, len(found))
        masks = [
            jax.random.bernoulli(key, 1 - self.rate, w.shape).astype(w.dtype) / (1 - self.rate)
            for key, w in zip(keys, found, strict=True)
        ]
        return Noise(weights=tuple(masks))

    def weighted(self, params: PyTree, weights: PyTree) -> PyTree:
        return with_parameters(
            self, params, {n: parameter_of(self, params, n) * m for n, m in zip(self.names, weights, strict=True)}
        )


@dataclasses.dataclass(frozen=True)
class StateNoise(Wrapper):
    """Adds Gaussian noise to the hidden state before each step: h_{t-1} + scale ξ_t, with ξ_t from N(0, 1).

    For a rate network with time step dt and time constant τ, scale = σ sqrt(2 dt / τ) gives the Euler-Maruyama method
    for white noise under which an unconnected unit has the standard deviation σ.

    Attributes:
      scale: the standard deviation.
    """

    scale: float

    def noise(self, key: Array, params: PyTree, steps: int, batch_shape: tuple[int, ...], input_size: int) -> Noise:
        h = jax.eval_shape(lambda p: hidden_of(self.cell.initial_carry(p, batch_shape)), params)
        return Noise(steps=self.scale * jax.random.normal(key, (steps, *h.shape), h.dtype))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        return step(params, carry if noise is None else with_hidden(carry, hidden_of(carry) + noise), x)
