"""Orthonormalises rows with plain array operations, for use inside a compiled time loop.

LAPACK's QR does not work well there: its BLAS threads and XLA's threads wait for each other, so a program can be fifty
times slower or deadlock (jaxlib 0.10.2 and 0.12.0, two cores, 128 x 128; not with OPENBLAS_NUM_THREADS=1). It also
processes a batch of small matrices one by one. This implementation uses matrix products, and elimination in small Gram
matrices:

    parts     at most four parts of the k rows, in order: each is projected off the span of the earlier parts
    panels    of 32 rows within a part, in the same way; this loop keeps programs for hundreds of rows small
    halves    of a panel, recursively: the first half is orthonormalised, then projected out of the second
    blocks    of 8 rows, where halving ends: orthogonalised in their Gram matrix

A second pass repeats everything: one pass of Gram-Schmidt is not enough, two are. If only the lengths are needed, one
pass is usually enough: rows that are orthogonal to ε^(1/3) give lengths that are accurate to ε^(2/3) = 4e-11, because
the spans are right, and errors of volumes are quadratic in the missing orthogonality (semiorthogonality, Simon 1984).
Orthogonality is measured, and a second pass runs if it is insufficient. Mostly the last rows are affected: in a product
of Jacobians they are the remainder after all faster directions. So each pass processes the last block twice, which
costs an eighth of a pass at 64 rows and avoids nearly all second passes.

Matrices under `vmap` share their passes: if one needs another pass, all get it, which does no harm.

References: Giraud, Langou and Rozložník, The loss of orthogonality in the Gram-Schmidt orthogonalization process,
Comput. Math. Appl. 50 (2005), 1069; Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error analysis of the
CholeskyQR2 algorithm, Electron. Trans. Numer. Anal. 44 (2015), 306; Simon, The Lanczos algorithm with
partial reorthogonalization, Math. Comp. 42 (1984), 115.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_NUMBERS = 4
_BLOCK = 8
_PANEL = 32
_MOST_PARTS = 4
_MOST_PASSES = 6


def resolution(size: int, dtype: jnp.dtype) -> float:
    """The fraction of its length below which the remainder of a row of n numbers is rounding error: max(n, 16) ε."""
    return max(size, 16) * float(jnp.finfo(dtype).eps)


def orthonormalise(rows: Array, *, semi: bool = False) -> tuple[Array, Array]:
    """A = L Q with orthonormal rows of Q and L lower triangular with a positive diagonal; returns Q and log diag(L).

    A row that is zero, or linearly dependent on earlier rows to the precision of the dtype (see `resolution`), gives a
    zero row of Q and a log of -inf.

    Args:
      rows: `[*batch, k, n]`, k <= n, of any length; squares do not underflow or overflow.
      semi: only require orthogonality to ε^(1/3), at about half the cost; the lengths are accurate to ε^(2/3).
    Returns:
      `(q, log_lengths)`: `[*batch, k, n]` and `[*batch, k]`, the log length of each row orthogonal to the earlier ones.
      NaN if a row has NaN.

    Example:

      >>> q, log_lengths = orthonormalise(jnp.array([[3e-30, 0.0], [1.0, 2.0]]))
      >>> q.round(9).tolist(), jnp.exp(log_lengths[1:]).round(5).tolist()
      ([[1.0, 0.0], [0.0, 1.0]], [2.0])
    """
    rows, log_scales = _unit(rows)
    if rows.shape[-2] == 1:
        return rows, log_scales
    lost = 2 * jnp.log(jnp.asarray(resolution(rows.shape[-1], rows.dtype), rows.dtype))

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, passes, unclean = state
        return (passes < (1 if semi else 2)) | (unclean & (passes < _MOST_PASSES))

    def another_pass(state: tuple[Array, Array, Array, Array]):
        rows, logs, passes, _ = state  # unit or zero rows
        least = jnp.exp(lost - 2 * logs)
        rows, found = _pass(rows, least)
        gone = found.squares < least
        logs = jnp.where(gone, -jnp.inf, logs + jnp.log(found.squares) / 2)
        clean = found.clean.all(-1)
        if semi:
            clean = clean | (found.usable | gone).all(-1) & _are_semiorthogonal(rows, gone)
        clean = clean | jnp.isnan(found.squares).any(-1)  # no pass would change NaN
        return rows, logs, passes + 1, _any_mapped(~clean.all())

    start = rows, jnp.zeros_like(log_scales), jnp.array(0), jnp.array(False)
    q, log_lengths, _, _ = lax.while_loop(unfinished, another_pass, start)
    return q, log_lengths + log_scales


class _Found(NamedTuple):
    """Results of a pass over rows that were unit or zero at its start, each `[*batch, k]`.

    Attributes:
      usable: whether the row was projected out of later rows (see `_elimination`).
      clean: whether it was orthogonal to the earlier rows of its block.
      squares: the squared length of its remainder.
    """

    usable: Array
    clean: Array
    squares: Array


class _Basis(NamedTuple):
    rows: Array  # [*batch, k, n], orthonormal or zero
    usable: Array  # [*batch, k]


def _pass(rows: Array, least: Array) -> tuple[Array, _Found]:
    """One Gram-Schmidt pass, the last block twice. Rows whose squared length falls below `least` become zero."""
    k = rows.shape[-2]
    part, looped = _PANEL, 0
    if k > _PANEL * _MOST_PARTS:
        looped = (k - 1) // _PANEL * _PANEL
        part = _PANEL * -(-looped // (_PANEL * _MOST_PARTS))
    starts = [*range(0, looped, part), *range(looped, k, _PANEL)]
    before: tuple[_Basis, ...] = ()
    found: list[_Found] = []
    for start, end in zip(starts, [*starts[1:], k], strict=True):
        new, limits = rows[..., start:end, :], least[..., start:end]
        for basis in before:
            new = _without(new, basis)
        new, its = _in_panels(new, limits) if end <= looped else _panel(new, limits, before, last=end == k)
        before, found = (*before, _Basis(new, its.usable)), [*found, its]
    return _joined([basis.rows for basis in before], -2), _all_found(found)


def _in_panels(rows: Array, least: Array) -> tuple[Array, _Found]:
    """A whole number of panels, in a loop."""

    def add_panel(i: Array, state: tuple[Array, _Found]):
        q, found = state  # later rows of q are still zero
        new = _without(lax.dynamic_slice_in_dim(rows, i * _PANEL, _PANEL, -2), _Basis(q, found.usable))
        new, its = _panel(new, lax.dynamic_slice_in_dim(least, i * _PANEL, _PANEL, -1))
        q = lax.dynamic_update_slice_in_dim(q, new, i * _PANEL, -2)
        put = [lax.dynamic_update_slice_in_dim(*pair, i * _PANEL, -1) for pair in zip(found, its, strict=True)]
        return q, _Found(*put)

    no = jnp.zeros_like(least, bool)
    return lax.fori_loop(0, rows.shape[-2] // _PANEL, add_panel, (jnp.zeros_like(rows), _Found(no, no, least)))


def _panel(rows: Array, least: Array, before: tuple[_Basis, ...] = (), last: bool = False) -> tuple[Array, _Found]:
    """Orthonormalises the first half, then the second half without it, down to single blocks."""
    blocks = -(-rows.shape[-2] // _BLOCK)
    if blocks == 1:
        return _block(rows, least, before if last else ())
    half = blocks // 2 * _BLOCK
    first, its = _panel(rows[..., :half, :], least[..., :half])
    basis = _Basis(first, its.usable)
    second, others = _panel(_without(rows[..., half:, :], basis), least[..., half:], (*before, basis), last)
    return _joined([first, second], -2), _all_found([its, others])


def _block(rows: Array, least: Array, again_without: tuple[_Basis, ...] = ()) -> tuple[Array, _Found]:
    """Orthonormalises by elimination in the Gram matrix; with `again_without`, projects those off and repeats."""
    certain = jnp.minimum(least / resolution(rows.shape[-1], rows.dtype) ** 0.5, 0.25)  # see `_elimination`
    factors, usable, clean = _elimination(rows @ _transposed(rows), certain)
    rows = factors @ rows
    squares = (rows * rows).sum(-1)  # of unit rows, so what underflows here is rounding error
    gone = squares < least
    rows = jnp.where(gone[..., None], 0, rows * lax.rsqrt(jnp.where(gone, 1, squares))[..., None])
    if again_without:
        for basis in again_without:
            rows = _without(rows, basis)
        rows, its = _block(rows, jnp.where(gone, 1, least / squares))
        usable, squares = its.usable, jnp.where(gone, squares, squares * its.squares)
    return rows, _Found(usable, clean, squares)


def _all_found(parts: list[_Found]) -> _Found:
    return _Found(*(_joined(list(each), -1) for each in zip(*parts, strict=True)))


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


@jax.custom_batching.custom_vmap
def _any_mapped(flag: Array) -> Array:
    """`flag`; under `jax.vmap`, whether any element is set, so that a loop has one condition for all.

    With separate conditions, the loop would select the results of each pass, which takes a third of the time.
    """
    return flag


@_any_mapped.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return _any_mapped(flag.any() if in_batched[0] else flag), False


def _are_semiorthogonal(rows: Array, gone: Array) -> Array:
    """`[*batch]`, whether inner products of different rows are below about ε^(1/3), tested with random signs.

    For random signs z, each row of Q Q^T z - z is a signed sum of these inner products, which is small only if they are
    small (or happen to cancel). The test costs one product per row; all inner products would cost half of Gram-Schmidt.
    """
    one = *(1 for _ in rows.shape[:-1]), rows.shape[-2]
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=one), rows.dtype)
    off = jnp.where(gone, 0, ((signs @ rows) @ _transposed(rows) - signs)[..., 0, :])
    return (jnp.abs(off) < float(jnp.finfo(rows.dtype).eps) ** (1 / 3)).all(-1)


def _elimination(gram: Array, certain: Array) -> tuple[Array, Array, Array]:
    """Unit lower triangular M such that the rows of M V are orthogonal if `gram` is V V^T, and whether they already
    were.

    If a row is nearly in the span of earlier rows, its pivot (squared distance) is mostly rounding error. Such a row is
    not used to eliminate later rows in this pass; a further pass does that after the row has been normalised. Otherwise
    later rows could lose a direction to a row that the next pass finds to be zero.

    Args:
      gram: `[*batch, b, b]`, of rows that were unit rows at the start of the pass.
      certain: `[*batch, b]`; a row with a pivot above this is certainly not zero: its remainder over all passes is far
        above rounding error, or the row has not become much shorter in this pass.
    Returns:
      `(factors [*batch, b, b], usable [*batch, b], clean [*batch, b])`.
    """
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    least = jnp.maximum(float(jnp.finfo(gram.dtype).eps) ** 0.5 / 16 * squares, certain)
    factors, pivots = _eliminated(gram, least)
    clean = (pivots > 0.9 * squares) & (squares > 0.5) | (squares == 0)
    return factors, pivots > least, clean


def _eliminated(gram: Array, least: Array) -> tuple[Array, Array]:
    """M and the pivots; a row whose pivot is not above `least` is not used.

    [A B^T; B C]: with M A M^T = D, the first half is eliminated from the second by P = B M^T D^-1 M, which leaves
    C - P B^T. Products of length four are written as sums, which fuse into two or three kernels instead of one per `@`.
    """
    size = gram.shape[-1]
    half = _NUMBERS * (-(-size // _NUMBERS) // 2)
    if not half:
        return _eliminated_by_number(gram, least)
    a, b, c = gram[..., :half, :half], gram[..., half:, :half], gram[..., half:, half:]
    first, first_pivots = _eliminated(a, least[..., :half])
    used = first_pivots > least[..., :half]
    over = jnp.where(used, 1 / jnp.where(used, first_pivots, 1), 0)
    p = _product(_product(b, _transposed(first)) * over[..., None, :], first)
    second, second_pivots = _eliminated(c - _product(p, _transposed(b)), least[..., half:])
    above = jnp.concatenate([first, jnp.zeros_like(_transposed(b))], axis=-1)
    below = jnp.concatenate([-_product(second, p), second], axis=-1)
    return jnp.concatenate([above, below], axis=-2), jnp.concatenate([first_pivots, second_pivots], axis=-1)


def _eliminated_by_number(gram: Array, least: Array) -> tuple[Array, Array]:
    """Eliminates entry by entry, each an array over the batch; for four rows this compiles to a single kernel."""
    size = gram.shape[-1]
    left = {(i, j): gram[..., i, j] for i in range(size) for j in range(i + 1)}
    share: dict[tuple[int, int], Array] = {}
    for j in range(size):
        used = left[j, j] > least[..., j]
        over = jnp.where(used, 1 / jnp.where(used, left[j, j], 1), 0)
        for i in range(j + 1, size):
            share[i, j] = left[i, j] * over
            for k in range(j + 1, i + 1):
                left[i, k] = left[i, k] - share[i, j] * left[k, j]
    zero = jnp.zeros_like(left[0, 0])
    factor = {(i, i): zero + 1 for i in range(size)}
    for i in range(size):
        for j in range(i):
            factor[i, j] = -sum((share[i, k] * factor[k, j] for k in range(j, i)), zero)
    rows = [jnp.stack([factor.get((i, j), zero) for j in range(size)], axis=-1) for i in range(size)]
    return jnp.stack(rows, axis=-2), jnp.stack([left[i, i] for i in range(size)], axis=-1)


def _product(a: Array, b: Array) -> Array:
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _without(rows: Array, basis: _Basis) -> Array:
    """The part of `rows` that is orthogonal to the usable rows of a basis."""
    shares = rows @ _transposed(jnp.where(basis.usable[..., None], basis.rows, 0))
    return rows - shares @ basis.rows


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)


def _unit(rows: Array) -> tuple[Array, Array]:
    """Normalises each row; also returns the log of its length. A zero row stays zero, with a log of -inf."""
    info = jnp.finfo(rows.dtype)
    squares = (rows * rows).sum(-1)
    odd = (squares < float(info.tiny) / float(info.eps) ** 2) | (squares > info.max / 8)  # False for NaN

    def by_largest(state: tuple[Array, Array, Array, Array]):
        rows, _, _, _ = state
        largest = jnp.abs(rows).max(-1)
        # XLA flushes subnormals, so they count as zero
        scale = jnp.where(largest < info.tiny, 1, jnp.minimum(largest, info.max / 8))
        rows = rows * jnp.where(largest < info.tiny, 0, 1 / scale)[..., None]
        return rows, (rows * rows).sum(-1), jnp.log(scale), jnp.array(False)

    start = rows, squares, jnp.zeros_like(squares), _any_mapped(odd.any())
    rows, squares, log_scales, _ = lax.while_loop(lambda state: state[3], by_largest, start)
    zero = squares == 0
    rows = rows * lax.rsqrt(jnp.where(zero, 1, squares))[..., None]
    return rows, jnp.where(zero, -jnp.inf, jnp.log(squares) / 2 + log_scales)
