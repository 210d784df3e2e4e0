"""Rows made orthonormal in plain array operations, for use inside a compiled time loop.

LAPACK's QR does not belong there: the threads of its BLAS and those of XLA wait for each other, so that a program may
run fifty times slower or stop dead (jaxlib 0.10.2 and 0.12.0, two cores, 128 x 128; not with OPENBLAS_NUM_THREADS=1),
and it takes a batch of small matrices one by one. Here all is matrix products and elimination in tiny Gram matrices:

    parts     of k rows, at most four, one after the other: a part is taken out of what the parts before it span
    panels    of 32 rows within a part, likewise; this, in a loop, keeps programs for hundreds of rows small
    blocks    of 8 rows within a panel: each is made orthogonal in its Gram matrix, then taken out of the later ones
              (modified Gram-Schmidt), and the whole panel is done twice, as once is not enough and twice is

Where it is the lengths that are asked for, once is mostly enough: rows that are orthogonal up to ε^(1/3) only give
lengths that are right up to ε^(2/3) = 4e-11, since row i spans with those before it what it has to span, and volumes
differ in the squares of what is missing (as in semiorthogonality, Simon 1984). Whether they are is measured, and a
panel that is not is done again.

References: Giraud, Langou and Rozložník, The loss of orthogonality in the Gram-Schmidt orthogonalization process,
Comput. Math. Appl. 50 (2005), 1069; Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error analysis of the
CholeskyQR2 algorithm, Electron. Trans. Numer. Anal. 44 (2015), 306; Simon, The Lanczos algorithm with
partial reorthogonalization, Math. Comp. 42 (1984), 115.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_BLOCK = 8
_PANEL = 32
_MOST_PARTS = 4
_MOST_PASSES = 6
_PROBES = 2


def resolution(size: int, dtype: jnp.dtype) -> float:
    """Below this fraction of its length, what is left of a row of n numbers is rounding: max(n, 16) ε."""
    return max(size, 16) * float(jnp.finfo(dtype).eps)


def orthonormalise(rows: Array, *, semi: bool = False) -> tuple[Array, Array]:
    """A = L Q with orthonormal rows of Q and L lower triangular with a diagonal above zero; returns Q and log diag(L).

    A row that depends on those before it, as far as the dtype can tell (see `resolution`), or that is zero, has no
    direction of its own: its row of Q is exactly zero and its log is -inf.

    Args:
      rows: `[*batch, k, n]`, k <= n; of any length, no square of theirs under- or overflows.
      semi: orthogonal up to ε^(1/3) will do, at about half the price; the lengths are right up to ε^(2/3).
    Returns:
      `(q, log_lengths)`: `[*batch, k, n]` and `[*batch, k]`, log of how long each row is beyond those before it. NaN
      where a row has one.

    Example:

      >>> q, log_lengths = orthonormalise(jnp.array([[3e-30, 0.0], [1.0, 2.0]]))
      >>> q.tolist(), jnp.exp(log_lengths[1:]).round(5).tolist()
      ([[1.0, 0.0], [0.0, 1.0]], [2.0])
    """
    rows, log_scales = _unit(rows)
    k = rows.shape[-2]
    if k == 1:
        return rows, log_scales
    q: list[Array] = []
    logs: list[Array] = []
    part = _PANEL * -(-k // (_PANEL * _MOST_PARTS))
    for first in range(0, k, part):
        before = jnp.concatenate(q, axis=-2) if q else None
        new, log_lengths = _orthonormal_part(rows[..., first : first + part, :], before, semi)
        q.append(new)
        logs.append(log_lengths)
    return jnp.concatenate(q, axis=-2), jnp.concatenate(logs, axis=-1) + log_scales


def _orthonormal_part(rows: Array, before: Array | None, semi: bool) -> tuple[Array, Array]:
    """Orthonormal to the rows of `before` and to one another."""
    *batch, k, _ = rows.shape
    if k <= _PANEL:
        return _orthonormal_panel(rows, () if before is None else (before,), semi)
    padding = -k % _PANEL
    rows = jnp.pad(rows, [(0, 0)] * len(batch) + [(0, padding), (0, 0)])

    def add_panel(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_lengths = state  # rows of q still to come are zero
        panel = lax.dynamic_slice_in_dim(rows, i * _PANEL, _PANEL, axis=-2)
        new, logs = _orthonormal_panel(panel, (q,) if before is None else (before, q), semi)
        q = lax.dynamic_update_slice_in_dim(q, new, i * _PANEL, axis=-2)
        return q, lax.dynamic_update_slice_in_dim(log_lengths, logs, i * _PANEL, axis=-1)

    start = jnp.zeros_like(rows), jnp.zeros_like(rows[..., 0])
    q, log_lengths = lax.fori_loop(0, (k + padding) // _PANEL, add_panel, start)
    return q[..., :k, :], log_lengths[..., :k]


def _orthonormal_panel(rows: Array, before: tuple[Array, ...], semi: bool) -> tuple[Array, Array]:
    """Orthonormal to the rows of each of `before` and to one another."""
    size, n = rows.shape[-2:]
    lost = jnp.log(jnp.asarray(resolution(n, rows.dtype), rows.dtype))

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, passes, clean = state
        return (passes < (1 if semi else 2)) | (~clean & (passes < _MOST_PASSES))

    def another_pass(state: tuple[Array, Array, Array, Array]):
        rows, old_logs, passes, _ = state  # rows of length one, or zero
        for q in before:
            rows = _without(rows, q)
        done, logs, settled, clean = [], [], jnp.array(True), jnp.array(True)
        for first in range(0, size, _BLOCK):
            block, rows = rows[..., :_BLOCK, :], rows[..., _BLOCK:, :]
            old = old_logs[..., first : first + _BLOCK]
            certain = jnp.minimum(jnp.exp(2 * (0.75 * lost - old)), 0.25)  # see `_elimination`
            factors, usable, block_clean = _elimination(block @ _transposed(block), certain)
            block = factors @ block
            square = (block * block).sum(-1)  # of rows that were of length one: what underflows here is rounding
            log = old + jnp.log(square) / 2
            gone = log < lost
            block = jnp.where(gone[..., None], 0, block * lax.rsqrt(jnp.where(gone, 1, square))[..., None])
            done.append(block)
            logs.append(jnp.where(gone, -jnp.inf, log))
            clean = clean & block_clean.all()
            settled = settled & (usable | gone).all()
            if rows.shape[-2]:
                rows = _without(rows, jnp.where(usable[..., None], block, 0))
        rows = jnp.concatenate(done, axis=-2)
        if semi:
            clean = clean | settled & _are_semiorthogonal(rows, before)
        return rows, jnp.concatenate(logs, axis=-1), passes + 1, clean

    start = rows, jnp.zeros_like(rows[..., 0]), jnp.array(0), jnp.array(False)
    return lax.while_loop(unfinished, another_pass, start)[:2]


def _are_semiorthogonal(rows: Array, before: tuple[Array, ...]) -> Array:
    """Whether products of different rows are below about ε^(1/3), found by adding all rows up with random signs.

    For Q of all rows and z of signs, Q Q^T z - z is, row by row, a sum of these products with signs: small for each of
    several z only if they are. It costs as much as a row each, where all products would cost half of Gram-Schmidt.
    """
    size, n = rows.shape[-2:]
    parts = (*before, rows)
    draws = np.random.default_rng(0).choice([-1.0, 1.0], size=(sum(q.shape[-2] for q in parts), _PROBES))
    total, start = jnp.zeros((*rows.shape[:-2], n, _PROBES), rows.dtype), 0
    for q in parts:
        signs = jnp.asarray(draws[start : start + q.shape[-2]], rows.dtype)
        total, start = total + _transposed(q) @ signs, start + q.shape[-2]
    off = rows @ total - jnp.asarray(draws[-size:], rows.dtype)
    off = jnp.where((rows == 0).all(-1, keepdims=True), 0, off)
    return (jnp.abs(off) < float(jnp.finfo(rows.dtype).eps) ** (1 / 3)).all()


def _elimination(gram: Array, certain: Array) -> tuple[Array, Array, Array]:
    """Unit lower triangular M, for which the rows of M V are orthogonal if `gram` is V V^T; and if they were before.

    A row that is nearly in the span of those before it leaves a pivot, its squared distance, that is mostly rounding;
    it is not used: it is kept out of the elimination of those after it, which is then left to a further pass, where it
    has been made long again. Nearly means within its block, or so near in all passes so far that it may turn out to be
    nothing in the next one; had it been used, those after it would have lost a direction to it.

    Args:
      gram: `[*batch, b, b]`, of rows that were of length one at the start of the pass.
      certain: `[*batch, b]`, pivots above this are not nothing: what is left of the row over all passes is far from
        rounding, or the row has not become much shorter in this one.
    Returns:
      `(factors [*batch, b, b], usable [*batch, b], clean [*batch])`.
    """
    size, eps = gram.shape[-1], float(jnp.finfo(gram.dtype).eps)
    later = jnp.arange(size)[:, None]
    factors = jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    usable, pivots = [], []
    for i in range(size):  # unrolled: a loop's slices cost more than its arithmetic
        pivot = gram[..., i : i + 1, i : i + 1]
        safe = pivot > jnp.maximum(eps**0.5 / 16 * squares[..., i], certain[..., i])[..., None, None]
        pivots.append(pivot[..., 0])
        usable.append(safe[..., 0])
        share = jnp.where(safe & (later > i), gram[..., :, i : i + 1] / jnp.where(safe, pivot, 1), 0)
        gram = gram - share * gram[..., i : i + 1, :]
        factors = factors - share * factors[..., i : i + 1, :]
    pivots = jnp.concatenate(pivots, axis=-1)
    clean = (pivots > 0.9 * squares) & (squares > 0.5) | (squares == 0)
    return factors, jnp.concatenate(usable, axis=-1), clean.all(-1)


def _without(rows: Array, q: Array) -> Array:
    """What of `rows` is beyond the span of the orthonormal rows of `q`, some of which may be zero."""
    return rows - (rows @ _transposed(q)) @ q


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)


def _unit(rows: Array) -> tuple[Array, Array]:
    """Each row over its length, and the log of that; a zero row stays zero, its log is -inf."""
    largest = jnp.abs(rows).max(-1, keepdims=True)
    zero = largest < jnp.finfo(rows.dtype).tiny  # XLA flushes subnormals; NaN is not zero
    scale = jnp.where(zero, 1, jnp.minimum(largest, jnp.finfo(rows.dtype).max / 8))
    rows = rows * (1 / scale)
    length = jnp.where(zero, 1, jnp.sqrt((rows * rows).sum(-1, keepdims=True)))
    return rows * (1 / length), jnp.where(zero, -jnp.inf, jnp.log(length) + jnp.log(scale))[..., 0]
