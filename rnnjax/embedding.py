"""Embedding of tokens: integers to the vectors that a cell takes."""

# pyright: reportUnknownMemberType=false

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from rnnjax._unroll.arguments import as_array
from rnnjax.cell import check_size, float_dtype


class EmbeddingParams(NamedTuple):
    """Parameters of an `Embedding`.

    Attributes:
      table: `[V, size]`, one row per token.
    """

    table: Array


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A learned vector for each token: x_t = table[token_t].

    It equals a one-hot input times `table`, without the product. A token outside 0..V-1, such as -1, gives a row of NaN
    and no gradient, not the vector of another token. `unroll` ignores it where `lengths` or `mask` masks the step.

    Attributes:
      vocabulary: V, the number of tokens.
      size: the width of a vector.

    Example: rows of tokens of different lengths, padded with -1.

      >>> import rnnjax
      >>> embedding, cell = Embedding(vocabulary=100, size=16), rnnjax.GRU(8)
      >>> key_table, key_cell = jax.random.split(jax.random.key(0))
      >>> table, params = embedding.init(key_table), cell.init(key_cell, input_size=16)
      >>> tokens = jnp.array([[5, 99], [7, -1], [0, -1]])
      >>> xs = embedding(table, tokens)
      >>> _, ys = rnnjax.unroll(cell, params, xs, lengths=jnp.array([3, 1]))
      >>> xs.shape, ys.shape, bool(jnp.isfinite(ys).all())
      ((3, 2, 16), (3, 2, 8), True)
    """

    vocabulary: int
    size: int

    def __post_init__(self) -> None:
        check_size("vocabulary", self.vocabulary)
        check_size("size", self.size)

    def init(self, key: Array, dtype: DTypeLike | None = None) -> EmbeddingParams:
        """Entries ~ N(0, 1), the scale of inputs for which cells draw their weights."""
        return EmbeddingParams(jax.random.normal(key, (self.vocabulary, self.size), float_dtype(dtype)))

    def __call__(self, params: EmbeddingParams, tokens: ArrayLike) -> Array:
        """The vectors of tokens.

        Args:
          params: from `init`.
          tokens: `[*any]` integers in 0..V-1, such as `[T, *batch]`.
        Returns:
          `[*any, size]`; NaN for a token outside 0..V-1.
        Raises:
          TypeError: tokens are not integers.
          ValueError: the table is not `[V, size]`.
        """
        tokens = as_array("tokens", tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(
                f"`tokens` is {tokens.dtype} {list(tokens.shape)}; expected integers in 0..{self.vocabulary - 1}: cast "
                "with `tokens.astype('int32')`, or take `one_hot.argmax(-1)` of one-hot vectors."
            )
        if params.table.shape != (self.vocabulary, self.size):
            raise ValueError(
                f"`params.table` is {list(params.table.shape)}, but {self!r} expects {[self.vocabulary, self.size]}; "
                "draw it with this embedding's `init(key)`."
            )
        limits = jnp.iinfo(tokens.dtype)  # clipped, since an index that overflows would wrap into the table
        tokens = jnp.clip(tokens, max(-1, limits.min), min(self.vocabulary, limits.max))
        own = jax.typeof(tokens).sharding  # has axes only on an explicit mesh, where a gather must be told its result's
        cut = NamedSharding(own.mesh, PartitionSpec(*own.spec, None)) if any(own.spec) else None
        return params.table.at[tokens].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False, out_sharding=cut
        )
