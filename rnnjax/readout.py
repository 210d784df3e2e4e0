"""A recurrent network with a linear readout at every step: the smallest complete model.

    carry_t, h_t = cell(θ, carry_{t-1}, x_t)          y_t = h_t W_out + b_out

It is used like a cell: `rnnjax.unroll(model, params, xs)` runs it over time, and it may be a layer of a `Stack`.
"""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import Generic, NamedTuple

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
from rnnjax._unroll.arguments import blank
from rnnjax.cell import C, Cell, P, PyTree, check_size, float_dtype, per_row


class ReadoutParams(NamedTuple, Generic[P]):
    """Parameters of a `Readout`.

    Attributes:
      rnn: the cell's parameters.
      w_out: `[H, K]`.
      b_out: `[K]`.
    """

    rnn: P
    w_out: Array
    b_out: Array


@dataclasses.dataclass(frozen=True)
class Readout(Generic[P, C]):
    """A cell with a linear readout of its outputs.

    Outputs are `[..., K]`, and zero at masked steps. The carry is the cell's. Over time, the readout is one matmul for
    all steps, outside the loop.

    Attributes:
      cell: a cell or a composite of cells. With a `Bidirectional` the model has no single step.
      output_size: K.

    Example:

      >>> from rnnjax import LSTM, unroll
      >>> model = Readout(LSTM(8), output_size=2)
      >>> params = model.init(jax.random.key(0), input_size=3)
      >>> carry, outputs = unroll(model, params, jnp.ones((5, 4, 3)))
      >>> outputs.shape, carry.c.shape
      ((5, 4, 2), (4, 8))
    """

    cell: Cell[P, C] | Composite[P, C]
    output_size: int
    input_size: dataclasses.InitVar[None] = None  # rejects the old call Readout(cell, input_size, output_size)

    def __post_init__(self, input_size: None) -> None:
        if input_size is not None:
            raise TypeError(
                "Readout takes (cell, output_size); the input size goes to `init`: "
                "Readout(cell, output_size).init(key, input_size)."
            )
        check_size("output_size", self.output_size)

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input."""
        return is_causal(self.cell)

    def init(self, key: Array, input_size: int, dtype: DTypeLike | None = None) -> ReadoutParams[P]:
        """The cell's parameters as it draws them, `w_out` ~ N(0, 1/H), `b_out` = 0."""
        check_size("input_size", input_size)
        dtype = float_dtype(dtype)
        key_rnn, key_out = jax.random.split(key)
        rnn = self.cell.init(key_rnn, input_size, dtype)
        size = output_size(self.cell, rnn, input_size)
        w_out = jax.random.normal(key_out, (size, self.output_size), dtype) / jnp.sqrt(jnp.asarray(size, dtype))
        return ReadoutParams(rnn, w_out, jnp.zeros(self.output_size, dtype))

    def initial_carry(self, params: ReadoutParams[P], batch_shape: tuple[int, ...] = ()) -> C:
        """The cell's carry before the first step."""
        return self.cell.initial_carry(params.rnn, batch_shape)

    def step(self, params: ReadoutParams[P], carry: C, x: Array) -> tuple[C, Array]:
        """One step: maps `(carry_{t-1}, x_t [*batch, D])` to `(carry_t, y_t [*batch, K])`.

        Raises:
          TypeError: the cell needs the whole sequence (`Bidirectional`).
        """
        if not hasattr(self.cell, "step"):
            raise TypeError(f"{self.cell!r} needs the whole sequence and has no single step; use `rnnjax.unroll`.")
        x, (noise,) = apart(x, 1)
        carry, h = one_step(self.cell, params.rnn, carry, x, noise)
        return carry, _read(params, h)

    def draw(
        self, key: Array, params: ReadoutParams[P], steps: int, batch_shape: tuple[int, ...], input_size: int
    ) -> Noise:
        """The cell's noise."""
        found = draw_noise(self.cell, key, params.rnn, steps, batch_shape, input_size)
        return Noise((found.weights,), (found.steps,))

    def with_weights(self, params: ReadoutParams[P], weights: PyTree) -> ReadoutParams[P]:
        """The parameters with the noise of the cell's weights."""
        return params._replace(rnn=with_weights(self.cell, params.rnn, weights[0]))

    def unroll_parts(self, run: Run, params: ReadoutParams[P], carry: C, xs: Array, masks: Masks) -> tuple[C, Array]:
        """Runs the cell over all of time, then the readout of all steps at once."""
        carry, hs = run(self.cell, params.rnn, carry, xs, masks.part(0))
        return carry, blank(_read(params, hs), masks)


def ridge(hs: Array, targets: Array, penalty: float = 1e-6, *, weights: Array | None = None) -> tuple[Array, Array]:
    """The linear readout with the smallest squared error, by ridge regression: for reservoirs, which are not trained.

        min over W, b of  Σ_n weight_n |h_n W + b - target_n|² + penalty |W|²

    Args:
      hs: outputs of a cell, `[*any, H]`, such as those of `unroll`.
      targets: `[*any, K]`.
      penalty: 0 or more; the bias has none.
      weights: `[*any]`, such as the weights of a `tasks.Batch`; 1 if None. Zero leaves a row out, padding included.
    Returns:
      `(w_out [H, K], b_out [K])`, as in `ReadoutParams`.
    Raises:
      ValueError: shapes do not fit, or the penalty is negative.

    Reference: Hoerl and Kennard, Ridge regression, Technometrics 12 (1970), 55-67.

    Example:

      >>> hs = jnp.array([[0.0], [1.0], [2.0]])
      >>> w_out, b_out = ridge(hs, 3 * hs + 1, penalty=0.0)
      >>> round(float(w_out[0, 0]), 4), round(float(b_out[0]), 4)
      (3.0, 1.0)
    """
    if hs.shape[:-1] != targets.shape[:-1] or (weights is not None and weights.shape != hs.shape[:-1]):
        given = None if weights is None else list(weights.shape)
        raise ValueError(
            f"`hs` is {list(hs.shape)}, `targets` {list(targets.shape)} and `weights` {given}; they must agree in all "
            "axes but the last, which `weights` has not."
        )
    if penalty < 0:
        raise ValueError(f"penalty is {penalty}; it must be 0 or more.")
    h, y = hs.reshape(-1, hs.shape[-1]), targets.reshape(-1, targets.shape[-1])
    weight = jnp.ones(h.shape[:1], h.dtype) if weights is None else weights.reshape(-1).astype(h.dtype)
    counts = (weight > 0)[:, None]
    h, y = jnp.where(counts, h, jnp.zeros_like(h)), jnp.where(counts, y, jnp.zeros_like(y))
    share = (weight / weight.sum())[:, None]
    mean_h, mean_y = (share * h).sum(0), (share * y).sum(0)
    centred, weighted = h - per_row(mean_h, h), weight[:, None] * (h - per_row(mean_h, h))
    gram = weighted.T @ centred + penalty * jnp.eye(h.shape[1], dtype=h.dtype)
    w_out = _solve(gram, weighted.T @ (y - per_row(mean_y, y)))
    return w_out, mean_y - mean_h @ w_out


def _solve(a: Array, b: Array) -> Array:
    return jnp.linalg.solve(a, b)  # pyright: ignore[reportUnknownVariableType]


def _read(params: ReadoutParams[P], h: PyTree) -> Array:
    """h W_out + b_out."""
    if not isinstance(h, Array) or h.shape[-1:] != params.w_out.shape[:1]:
        given = f"{list(h.shape)}" if isinstance(h, Array) else f"a {type(h).__name__}"
        raise ValueError(
            f"the cell's output is {given}, but `params.w_out` is {list(params.w_out.shape)}; a readout needs one "
            "array [..., H]: draw parameters for this cell with the readout's `init(key, input_size)`."
        )
    return h @ params.w_out + per_row(params.b_out, h)
