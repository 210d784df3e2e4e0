"""A cell with a constant input as a map of a vector: h -> F(h), the carry after one step, or after k steps.

A carry of S numbers is a vector `[S]` with all leaves concatenated (for an LSTM h, then c). The arguments of this
package's functions are checked here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import as_array, check_alike, check_cell, check_returned, closes_over_arrays
from rnnjax.cell import Alone, Cell, PyTree, check_space, flat, space_of, unflat

Map = Callable[[Array], Array]


def map_of(cell: Cell, cycle: int, params: PyTree, x: Array) -> Map:
    """The map `[S] -> [S]` of `cycle` steps; its shapes are those of the cell's initial carry."""
    like = jax.eval_shape(cell.initial_carry, params)

    def once(h: Array) -> Array:
        return flat(cell.step(params, unflat(h, like), x)[0])

    return once if cycle == 1 else lambda h: lax.fori_loop(0, cycle, lambda _, h: once(h), h)


def rows_of(carry: PyTree) -> np.ndarray:
    """`[N, S]`, the inverse of `unflat` for N carries, leaves `[N, ...]`."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(carry)], axis=-1)


def eigenvalues_of(matrices: np.ndarray) -> np.ndarray:
    """`[..., S]` complex from `[..., S, S]`, largest modulus first."""
    values = np.linalg.eigvals(matrices).astype(complex)
    return np.take_along_axis(values, np.argsort(-np.abs(values), -1, kind="stable"), -1)


def with_jacobian(function: Map, h: Array) -> tuple[Array, Array]:
    """F(h) and J, whose entry i, j is dF_i/dh_j, by S products with the Jacobian."""
    value, pushed = jax.linearize(function, h)
    return value, jax.vmap(pushed, out_axes=1)(jnp.eye(h.size, dtype=h.dtype))


@functools.partial(jax.jit, static_argnums=(0, 1))
def jacobians_at(cell: Cell, cycle: int, params: PyTree, x: Array, rows: Array) -> tuple[Array, Array]:
    """F and J at `[N, S]`: `[N, S]` and `[N, S, S]`."""
    return jax.vmap(functools.partial(with_jacobian, map_of(cell, cycle, params, x)))(rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def orbits(cell: Cell, cycle: int, params: PyTree, x: Array, rows: Array) -> Array:
    """`[N, cycle + 1, S]`: h, F(h), F(F(h)), ..."""
    once = map_of(cell, 1, params, x)

    def orbit(h: Array) -> Array:
        def step(h: Array, _: None) -> tuple[Array, Array]:
            after = once(h)
            return after, after

        return jnp.concatenate([h[None], lax.scan(step, h, None, length=cycle)[1]])

    return jax.vmap(orbit)(rows)


def checked(cell: Cell, params: PyTree, x: ArrayLike, of: str) -> tuple[Any, Array, PyTree]:
    """The cell, by which programs may be cached; the input as an array; and the shapes of one carry.

    Raises:
      TypeError: `cell` is a class or has no single step; the carry is not float32 or float64; values are traced.
      ValueError: `x` has batch axes, or is not finite.
    """
    check_cell(cell)
    if not hasattr(cell, "step"):
        raise TypeError(f"{cell!r} needs the whole sequence and has no single step: pass one of its cells.")
    x = as_array("x", x)
    if any(isinstance(leaf, Tracer) for leaf in (x, *jax.tree.leaves(params))):
        raise TypeError(f"`{of}` needs values, but was called inside of `jax.jit` or the like; call it outside.")
    space = space_of(cell)
    expected = f"[{', '.join([*map(str, space), 'D'])}]"
    if x.ndim != 1 + len(space):
        fix = "pass `x[..., None]` for a single feature" if x.ndim == 0 else "call it once for each, as in `x[0]`"
        raise ValueError(f"`x` is {list(x.shape)}; expected {expected}, one constant input without batch axes: {fix}.")
    check_space("x", x, cell, 0)
    if not np.isfinite(np.asarray(x)).all():
        raise ValueError("`x` is not finite: an input that is NaN or inf has no fixed points.")
    start, like = jax.make_jaxpr(cell.initial_carry, return_shape=True)(params)
    leaves = jax.tree.leaves_with_path(like)
    for path, leaf in leaves:
        if leaf.dtype not in (jnp.float32, jnp.float64) or leaf.dtype != leaves[0][1].dtype:
            raise TypeError(
                f"`carry`{jax.tree_util.keystr(path)} of {cell!r} is {leaf.dtype}; a map with fixed points needs all "
                "of the carry in float32, or all in float64: draw parameters with `init(..., dtype='float64')`, keep "
                "counters and flags out of the carry, and complex states as two real ones."
            )
    step, (after, _) = jax.make_jaxpr(cell.step, return_shape=True)(params, like, x)
    check_returned(cell, after, like)
    return Alone(cell) if closes_over_arrays(start) or closes_over_arrays(step) else cell, x, like


def checked_rows(name: str, carry: PyTree, like: PyTree, leading: bool) -> np.ndarray:
    """A carry, or N of them, as rows `[N, S]`.

    Raises:
      ValueError: the tree or a shape differs from the cell's carry, there is no leading axis, or values are not finite.
      TypeError: a dtype differs.
    """
    leaves = [jnp.shape(leaf) for leaf in jax.tree.leaves(carry)]
    count = leaves[0][:1] if leading and leaves else ()
    axes = "[N, ...], a leading axis of N carries" if leading else "one carry, without batch axes"
    fix = "`jax.tree.map(lambda leaf: leaf[None], carry)` adds it" if leading else "pick one, as in `leaf[0]`"
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*count, *leaf.shape), leaf.dtype), like)
    check_alike(f"`{name}`", carry, expected, f"`{name}` is {axes} like `cell.initial_carry(params)`: {fix}")
    if count == (0,):
        raise ValueError(f"`{name}` has a leading axis of 0: give at least one.")
    rows = rows_of(carry if leading else jax.tree.map(lambda leaf: np.asarray(leaf)[None], carry))
    wrong = ~np.isfinite(rows).all(-1)
    if wrong.any():
        where = f" in {wrong.sum()} of {len(rows)} carries, first in number {wrong.argmax()}" * leading
        raise ValueError(f"`{name}` is not finite{where}; leave these out.")
    return rows


def checked_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` is {value!r}; give an integer of 1 or more.")
    return int(value)
