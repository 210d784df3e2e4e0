"""Rows made orthonormal in plain array operations, for use inside a compiled time loop.

LAPACK's QR does not belong there: the threads of its BLAS and those of XLA wait for each other, so that a program may
run fifty times slower or stop dead (jaxlib 0.10.2 and 0.12.0, two cores, 128 x 128; not with OPENBLAS_NUM_THREADS=1),
and it takes a batch of small matrices one by one. Here all is matrix products and a short loop over tiny matrices:
block Gram-Schmidt, in which the rows of a block are orthogonalised by elimination in their Gram matrix, and everything
is done twice, as once is not enough and twice is.

References: Giraud, Langou and Rozložník, The loss of orthogonality in the Gram-Schmidt orthogonalization process,
Comput. Math. Appl. 50 (2005), 1069; Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error analysis of the
CholeskyQR2 algorithm, Electron. Trans. Numer. Anal. 44 (2015), 306.
"""

import jax.numpy as jnp
from jax import Array, lax

_BLOCK = 8
_MOST_PASSES = 6


def resolution(size: int, dtype: jnp.dtype) -> float:
    """Below this fraction of its length, what is left of a row of n numbers is rounding: max(n, 16) ε."""
    return max(size, 16) * float(jnp.finfo(dtype).eps)


def orthonormalise(rows: Array) -> tuple[Array, Array]:
    """A = L Q with orthonormal rows of Q and L lower triangular with a diagonal above zero; returns Q and log diag(L).

    A row that depends on those before it, as far as the dtype can tell (see `resolution`), or that is zero, has no
    direction of its own: its row of Q is exactly zero and its log is -inf.

    Args:
      rows: `[*batch, k, n]`, k <= n; of any length, no square of theirs under- or overflows.
    Returns:
      `(q, log_lengths)`: `[*batch, k, n]` and `[*batch, k]`, log of how long each row is beyond those before it. NaN
      where a row has one.

    Example:

      >>> q, log_lengths = orthonormalise(jnp.array([[3e-30, 0.0], [1.0, 2.0]]))
      >>> q.tolist(), jnp.exp(log_lengths[1:]).round(5).tolist()
      ([[1.0, 0.0], [0.0, 1.0]], [2.0])
    """
    rows, log_scales = _unit(rows)
    *batch, k, size = rows.shape
    if k == 1:
        return rows, log_scales
    block = min(_BLOCK, k)
    padding = -k % block
    rows = jnp.pad(rows, [(0, 0)] * len(batch) + [(0, padding), (0, 0)])
    lost = jnp.log(jnp.asarray(resolution(size, rows.dtype), rows.dtype))

    def add_block(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_lengths = state  # rows of q that are still to come are zero, so projecting on all of q is right

        def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
            _, _, passes, clean = state
            return (passes < 2) | (~clean & (passes < _MOST_PASSES))

        def another_pass(state: tuple[Array, Array, Array, Array]):
            new, logs, passes, _ = state
            if k > block:
                new = new - (new @ jnp.swapaxes(q, -1, -2)) @ q
            # After the projection rows may be short; elimination compares squares, so it is given unit vectors.
            new, shrunk = _unit(new)
            factors, clean = _elimination(new @ jnp.swapaxes(new, -1, -2))
            new, shrunk_again = _unit(factors @ new)
            logs = logs + shrunk + shrunk_again
            gone = logs < lost
            new = jnp.where(gone[..., None], 0, new)
            return new, jnp.where(gone, -jnp.inf, logs), passes + 1, clean.all()

        new = lax.dynamic_slice_in_dim(rows, j * block, block, axis=-2)
        start = new, jnp.zeros_like(new[..., 0]), jnp.array(0), jnp.array(False)
        new, logs, _, _ = lax.while_loop(unfinished, another_pass, start)
        q = lax.dynamic_update_slice_in_dim(q, new, j * block, axis=-2)
        return q, lax.dynamic_update_slice_in_dim(log_lengths, logs, j * block, axis=-1)

    start = jnp.zeros_like(rows), jnp.zeros_like(rows[..., 0])
    q, log_lengths = lax.fori_loop(0, (k + padding) // block, add_block, start)
    return q[..., :k, :], log_lengths[..., :k] + log_scales


def _elimination(gram: Array) -> tuple[Array, Array]:
    """Unit lower triangular M, for which the rows of M V are orthogonal if `gram` is V V^T; and if they were before.

    V has rows of length one or zero. A row that is nearly in the span of those before it leaves a pivot, its squared
    distance, that is mostly rounding; it is kept out of the elimination of those after it, which is then left to a
    further pass, where it has been made long again.

    Args:
      gram: `[*batch, b, b]`.
    Returns:
      `(factors [*batch, b, b], clean [*batch])`.
    """
    size = gram.shape[-1]
    reliable = float(jnp.finfo(gram.dtype).eps) ** 0.5 / 16
    later = jnp.arange(size)

    def eliminate(i: Array, state: tuple[Array, Array, Array]):
        gram, factors, clean = state
        row = lax.dynamic_slice_in_dim(gram, i, 1, axis=-2)
        column = lax.dynamic_slice_in_dim(gram, i, 1, axis=-1)
        pivot = lax.dynamic_slice_in_dim(row, i, 1, axis=-1)
        safe = pivot > reliable
        share = jnp.where(safe & (later > i)[:, None], column / jnp.where(safe, pivot, 1), 0)
        clean = clean & ((pivot > 0.9) | (pivot == 0))[..., 0, 0]
        gram = gram - share * row
        factors = factors - share * lax.dynamic_slice_in_dim(factors, i, 1, axis=-2)
        return gram, factors, clean

    factors = jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)
    clean = jnp.ones(gram.shape[:-2], bool)
    _, factors, clean = lax.fori_loop(0, size, eliminate, (gram, factors, clean))
    return factors, clean


def _unit(rows: Array) -> tuple[Array, Array]:
    """Each row over its length, and the log of that; a zero row stays zero, its log is -inf."""
    largest = jnp.abs(rows).max(-1, keepdims=True)
    zero = largest < jnp.finfo(rows.dtype).tiny  # XLA flushes subnormals; NaN is not zero
    scale = jnp.where(zero, 1, jnp.minimum(largest, jnp.finfo(rows.dtype).max / 8))
    rows = rows / scale
    length = jnp.where(zero, 1, jnp.sqrt((rows * rows).sum(-1, keepdims=True)))
    return rows / length, jnp.where(zero, -jnp.inf, jnp.log(length) + jnp.log(scale))[..., 0]
