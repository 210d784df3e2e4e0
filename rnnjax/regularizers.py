"""Wrappers: a cell around a cell or a stack, which changes its input, its parameters, its state or its output.

Some are random. `rnnjax.unroll(..., key=key)` draws their noise for all steps before the loop, as in training; without
a key they use the expectation, as in evaluation. `rnnjax.draw_noise` draws it apart, so that a sequence that is cut in
two can have the noise of the whole one.

Wrappers combine in any order, and wrap a `Stack` as they wrap a cell, as long as it has a single step.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from rnnjax._unroll import Noise, apart, draw_noise, is_causal, one_step, output_size, with_weights
from rnnjax.cell import PyTree, float_dtype, per_row

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
        return self._replaced(params, with_weights(self.cell, self.inner(params), inner))

    def _replaced(self, params: PyTree, inner: PyTree) -> PyTree:
        """The parameters with those of the cell replaced."""
        return inner


def _keep(key: Array, rate: float, shape: tuple[int, ...], steps: int, tied: bool, dtype: DTypeLike) -> Array:
    """[T, *shape]: 1 with probability 1 - rate, else 0; the same at all steps if tied."""
    kept = jax.random.bernoulli(key, 1 - rate, shape if tied else (steps, *shape)).astype(dtype)
    return jnp.broadcast_to(kept, (steps, *shape)) if tied else kept


def _dtype_of(params: PyTree) -> jnp.dtype:
    return next(leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating))


def _first(carry: PyTree) -> Array:
    """The hidden state: the leaf named h, or the first one."""
    return carry.h if hasattr(carry, "h") else jax.tree.leaves(carry)[0]


def _with_first(carry: PyTree, h: Array) -> PyTree:
    if hasattr(carry, "h"):
        return carry._replace(h=h)
    leaves, tree = jax.tree.flatten(carry)
    return tree.unflatten([h, *leaves[1:]])


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
        shape: tuple[int, ...] = (*batch_shape, input_size)
        if self.where == "state":
            shape = jax.eval_shape(lambda p: _first(self.cell.initial_carry(p, batch_shape)), params).shape
        elif self.where == "output":
            shape = (*batch_shape, output_size(self.cell, params, input_size))
        return Noise(steps=_keep(key, self.rate, shape, steps, self.tied, _dtype_of(params)) / (1 - self.rate))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        if noise is None:
            return step(params, carry, x)
        if self.where == "input":
            return step(params, carry, x * noise)
        if self.where == "state":
            return step(params, _with_first(carry, _first(carry) * noise), x)
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
        keys, dtype = jax.random.split(key, len(carry)), _dtype_of(params)
        drawn = [
            _keep(key, 1 - rate, leaf.shape, steps, False, dtype) if 0 < rate < 1 else None
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
        found = [_field(self, params, name) for name in self.names]
        keys = jax.random.split(key, len(found))
        masks = [
            jax.random.bernoulli(key, 1 - self.rate, w.shape).astype(w.dtype) / (1 - self.rate)
            for key, w in zip(keys, found, strict=True)
        ]
        return Noise(weights=tuple(masks))

    def weighted(self, params: PyTree, weights: PyTree) -> PyTree:
        return _with_fields(
            self, params, {n: _field(self, params, n) * m for n, m in zip(self.names, weights, strict=True)}
        )


def _field(wrapper: Any, params: PyTree, name: str) -> Array:
    """A parameter by its name, in the record or in the records that it holds."""
    if hasattr(params, name):
        return getattr(params, name)
    for field in ("cell", "rnn"):
        if hasattr(params, field):
            return _field(wrapper, getattr(params, field), name)
    raise ValueError(
        f"{wrapper!r} needs the parameter `{name}`, but the parameters are {type(params).__name__} with "
        f"{', '.join(getattr(params, '_fields', ())) or 'no names'}; pass the names of its recurrent matrices."
    )


def _with_fields(wrapper: Any, params: PyTree, fields: dict[str, Array]) -> PyTree:
    if all(hasattr(params, name) for name in fields):
        return params._replace(**fields)
    field = "cell" if hasattr(params, "cell") else "rnn"
    return params._replace(**{field: _with_fields(wrapper, getattr(params, field), fields)})


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
        h = jax.eval_shape(lambda p: _first(self.cell.initial_carry(p, batch_shape)), params)
        return Noise(steps=self.scale * jax.random.normal(key, (steps, *h.shape), h.dtype))

    def around(self, step: Step, params: PyTree, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        return step(params, carry if noise is None else _with_first(carry, _first(carry) + noise), x)


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


class NormParams(NamedTuple):
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

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> NormParams:
        dtype, params = float_dtype(dtype), self.cell.init(key, input_size, dtype)
        size = input_size
        if self.where == "output":
            size = output_size(self.cell, params, input_size)
        elif self.where == "state":
            size = jax.eval_shape(lambda p: _first(self.cell.initial_carry(p)), params).shape[-1]
        return NormParams(params, jnp.ones(size, dtype), jnp.zeros(size, dtype))

    def inner(self, params: NormParams) -> PyTree:
        return params.cell

    def _replaced(self, params: NormParams, inner: PyTree) -> NormParams:
        return params._replace(cell=inner)

    def around(self, step: Step, params: NormParams, carry: PyTree, x: Array, noise: PyTree) -> tuple[PyTree, PyTree]:
        norm = functools.partial(self._normalised, params)
        if self.where == "input":
            return step(params.cell, carry, norm(x))
        if self.where == "state":
            return step(params.cell, _with_first(carry, norm(_first(carry))), x)
        carry, y = step(params.cell, carry, x)
        return carry, norm(y)

    def _normalised(self, params: NormParams, a: Array) -> Array:
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
        return WeightNormParams(params, tuple([_norms(_field(self, params, name))[..., 0, :] for name in self.names]))

    def inner(self, params: WeightNormParams) -> PyTree:
        found = {name: _field(self, params.cell, name) for name in self.names}
        scaled = {
            name: v * (gain[..., None, :] / _norms(v))
            for (name, v), gain in zip(found.items(), params.gains, strict=True)
        }
        return _with_fields(self, params.cell, scaled)

    def _replaced(self, params: WeightNormParams, inner: PyTree) -> WeightNormParams:
        norms = tuple([_norms(_field(self, inner, name))[..., 0, :] for name in self.names])
        return WeightNormParams(inner, norms)


def _norms(w: Array) -> Array:
    """The norm of each column, [..., 1, columns]."""
    return jnp.sqrt((w * w).sum(-2, keepdims=True))


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
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), new, carry), jax.tree.map(
            lambda leaf: leaf.astype(x.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, y
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
            params = _with_fields(self, params, {name: form(_field(self, params, name))})
        return params

    def _replaced(self, params: PyTree, inner: PyTree) -> PyTree:
        raise TypeError("a random wrapper of parameters goes around `Constrained`, not into it.")

    def with_weights(self, params: PyTree, weights: PyTree) -> PyTree:
        _, inner = weights
        return self._replaced(params, inner) if jax.tree.leaves(inner) else params


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
