"""Rows made orthonormal in plain array operations, for use inside a compiled time loop.

LAPACK's QR does not belong there: the threads of its BLAS and those of XLA wait for each other, so that a program may
run fifty times slower or stop dead (jaxlib 0.10.2 and 0.12.0, two cores, 128 x 128; not with OPENBLAS_NUM_THREADS=1),
and it takes a batch of small matrices one by one. Here all is matrix products and elimination in tiny Gram matrices:

    parts     of k rows, at most four, one after the other: a part is taken out of what the parts before it span
    panels    of 32 rows within a part, likewise; this, in a loop, keeps programs for hundreds of rows small
    halves    of a panel, and of those: the first is made orthonormal, then taken out of the second
    blocks    of 8 rows, where halving ends: made orthogonal in their Gram matrix

and all of it is done twice, as once is not enough and twice is. Where it is the lengths that are asked for, once is
mostly enough: rows that are orthogonal up to ε^(1/3) only give lengths that are right up to ε^(2/3) = 4e-11, since row
i spans with those before it what it has to span, and volumes differ in the squares of what is missing (as in
semiorthogonality, Simon 1984). Whether they are is measured, and if not all is done again. It is the last rows that
would miss it: of a product of Jacobians they are what is left when all faster directions are gone. So the last block
is done twice in each pass, which costs an eighth of a pass at 64 rows and spares nearly all of the second ones.

Matrices that are mapped over share their passes: one that needs another takes the others along, whom it does no harm.

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
        rows, logs, passes, _ = state  # rows of length one, or zero
        least = jnp.exp(lost - 2 * logs)
        rows, found = _pass(rows, least)
        gone = found.squares < least
        logs = jnp.where(gone, -jnp.inf, logs + jnp.log(found.squares) / 2)
        clean = found.clean.all(-1)
        if semi:
            clean = clean | (found.usable | gone).all(-1) & _are_semiorthogonal(rows, gone)
        clean = clean | jnp.isnan(found.squares).any(-1)  # which no pass would change
        return rows, logs, passes + 1, _any_mapped(~clean.all())

    start = rows, jnp.zeros_like(log_scales), jnp.array(0), jnp.array(False)
    q, log_lengths, _, _ = lax.while_loop(unfinished, another_pass, start)
    return q, log_lengths + log_scales


class _Found(NamedTuple):
    """Of rows that were of length one, or zero, at the start of a pass, each `[*batch, k]`.

    Attributes:
      usable: whether later rows were freed of it (see `_elimination`).
      clean: whether it was orthogonal to those before it in its block.
      squares: of the length of what was left of it.
    """

    usable: Array
    clean: Array
    squares: Array


class _Basis(NamedTuple):
    rows: Array  # [*batch, k, n], orthonormal or zero
    usable: Array  # [*batch, k]


def _pass(rows: Array, least: Array) -> tuple[Array, _Found]:
    """Gram-Schmidt, the last block twice. Of rows whose square falls below `least` nothing is left."""
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
    """A multiple of a panel's rows, in a loop."""

    def add_panel(i: Array, state: tuple[Array, _Found]):
        q, found = state  # rows of q still to come are zero
        new = _without(lax.dynamic_slice_in_dim(rows, i * _PANEL, _PANEL, -2), _Basis(q, found.usable))
        new, its = _panel(new, lax.dynamic_slice_in_dim(least, i * _PANEL, _PANEL, -1))
        q = lax.dynamic_update_slice_in_dim(q, new, i * _PANEL, -2)
        put = [lax.dynamic_update_slice_in_dim(*pair, i * _PANEL, -1) for pair in zip(found, its, strict=True)]
        return q, _Found(*put)

    no = jnp.zeros_like(least, bool)
    return lax.fori_loop(0, rows.shape[-2] // _PANEL, add_panel, (jnp.zeros_like(rows), _Found(no, no, least)))


def _panel(rows: Array, least: Array, before: tuple[_Basis, ...] = (), last: bool = False) -> tuple[Array, _Found]:
    """Its first half, then its second half without that, down to single blocks."""
    blocks = -(-rows.shape[-2] // _BLOCK)
    if blocks == 1:
        return _block(rows, least, before if last else ())
    half = blocks // 2 * _BLOCK
    first, its = _panel(rows[..., :half, :], least[..., :half])
    basis = _Basis(first, its.usable)
    second, others = _panel(_without(rows[..., half:, :], basis), least[..., half:], (*before, basis), last)
    return _joined([first, second], -2), _all_found([its, others])


def _block(rows: Array, least: Array, again_without: tuple[_Basis, ...] = ()) -> tuple[Array, _Found]:
    """Orthonormal by elimination in their Gram matrix; with `again_without`, freed of those and done a second time."""
    certain = jnp.minimum(least / resolution(rows.shape[-1], rows.dtype) ** 0.5, 0.25)  # see `_elimination`
    factors, usable, clean = _elimination(rows @ _transposed(rows), certain)
    rows = factors @ rows
    squares = (rows * rows).sum(-1)  # of rows that were of length one: what underflows here is rounding
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
    """`flag`, and under `jax.vmap` whether any has it, so that a loop's condition stays one for all.

    With a condition of its own each would have every pass of the loop selected from: a third of its time.
    """
    return flag


@_any_mapped.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return _any_mapped(flag.any() if in_batched[0] else flag), False


def _are_semiorthogonal(rows: Array, gone: Array) -> Array:
    """`[*batch]`, whether products of different rows are below about ε^(1/3): all rows added up with random signs.

    For Q of all rows and z of signs, Q Q^T z - z is, row by row, a sum of these products with signs: small only if they
    are, or if the signs happen to balance them. It costs as much as a row each, where all products would cost half of
    Gram-Schmidt.
    """
    one = *(1 for _ in rows.shape[:-1]), rows.shape[-2]
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=one), rows.dtype)
    off = jnp.where(gone, 0, ((signs @ rows) @ _transposed(rows) - signs)[..., 0, :])
    return (jnp.abs(off) < float(jnp.finfo(rows.dtype).eps) ** (1 / 3)).all(-1)


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
      `(factors [*batch, b, b], usable [*batch, b], clean [*batch, b])`.
    """
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    least = jnp.maximum(float(jnp.finfo(gram.dtype).eps) ** 0.5 / 16 * squares, certain)
    factors, pivots = _eliminated(gram, least)
    clean = (pivots > 0.9 * squares) & (squares > 0.5) | (squares == 0)
    return factors, pivots > least, clean


def _eliminated(gram: Array, least: Array) -> tuple[Array, Array]:
    """M and the pivots; a row whose pivot is not above `least` is not used.

    [A B^T; B C]: with M A M^T = D, rows of the second half are freed of the first by P = B M^T D^-1 M, which leaves
    C - P B^T. Products of four numbers are written out as sums: two or three kernels where `@` would be one each.
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
    """Number by number, each an array over the batch: of four rows, the compiler makes one kernel of it all."""
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
    """What of `rows` is beyond the span of the usable rows of a basis."""
    shares = rows @ _transposed(jnp.where(basis.usable[..., None], basis.rows, 0))
    return rows - shares @ basis.rows


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)


def _unit(rows: Array) -> tuple[Array, Array]:
    """Each row over its length, and the log of that; a zero row stays zero, its log is -inf."""
    info = jnp.finfo(rows.dtype)
    squares = (rows * rows).sum(-1)
    odd = (squares < float(info.tiny) / float(info.eps) ** 2) | (squares > info.max / 8)  # and no NaN

    def by_largest(state: tuple[Array, Array, Array, Array]):
        rows, _, _, _ = state
        largest = jnp.abs(rows).max(-1)
        # XLA flushes subnormals: they count as zero
        scale = jnp.where(largest < info.tiny, 1, jnp.minimum(largest, info.max / 8))
        rows = rows * jnp.where(largest < info.tiny, 0, 1 / scale)[..., None]
        return rows, (rows * rows).sum(-1), jnp.log(scale), jnp.array(False)

    start = rows, squares, jnp.zeros_like(squares), _any_mapped(odd.any())
    rows, squares, log_scales, _ = lax.while_loop(lambda state: state[3], by_largest, start)
    zero = squares == 0
    rows = rows * lax.rsqrt(jnp.where(zero, 1, squares))[..., None]
    return rows, jnp.where(zero, -jnp.inf, jnp.log(squares) / 2 + log_scales)
