"""Proofs that a recurrence has a fixed point near a given carry, and only one: Newton and Kantorovich, in intervals.

For G(h) = h - F(h) at a carry h, and A ≈ G'(h)⁻¹, in the norm max |v_i| over all numbers of the carry:

    Y >= ‖A G(h)‖       Z0 >= ‖I - A G'(h)‖       Z2 >= sup ‖A F''‖ over the ball of radius R around h

T(v) = v - A G(v) maps the ball of radius r <= R into itself if Y + Z0 r + ½ Z2 r² < r, and contracts it if
Z0 + Z2 r < 1. Then F has a fixed point in it, and only one. All bounds are of the equations of the step, with outward
rounding (`rnnjax._bounds`): nothing is sampled.

References: Kantorovich, Functional analysis and applied mathematics, Uspekhi Mat. Nauk 3 (1948), 89-185; van den Berg
and Lessard, Rigorous numerics in dynamics, Notices AMS 62 (2015), 1057-1061, for this form.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rnnjax._bounds import Bounded, Interval, Kink, NoBound, inverse_bound, norm_bound
from rnnjax._bounds.intervals import add, matmul, negative, point, subtract, up
from rnnjax.cell import Cell, PyTree, batch_shape_of
from rnnjax.dynamics.problem import map_of, rows_of

FARTHEST = 2.0**30
"""The largest radius that is tried. (Where the step is affine, every radius would do.)"""

TRIES = 12
"""How many radii are tried for uniqueness, at most."""


class Certificate(NamedTuple):
    """What is proven about fixed points near a carry, in the norm max |v_i| over all numbers of the carry.

    Attributes:
      certified: there is exactly one fixed point within `radius` of the carry.
      radius: of the ball in which it is the only one; 0 if nothing is proven.
      error: a bound on its distance from the carry; inf if nothing is proven.
      why: why nothing is proven, in words; "" for a certified carry.
    """

    certified: bool
    radius: float
    error: float
    why: str


def certify(cell: Cell, params: PyTree, x: ArrayLike, carry: PyTree) -> Certificate:
    """Tries to prove that F(h) = step(params, h, x) has exactly one fixed point near `carry`.

    The proof is about the step in exact arithmetic, with parameters, input and carry promoted to float64 exactly: for
    float32 parameters, about the same numbers in a step without rounding. A carry for which nothing is proven may still
    be near a fixed point; `why` says what failed. JAX's x64 need not be on, as all bounds are computed in NumPy. A
    carry of 256 numbers takes about a second, small ones some milliseconds.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params: its parameters.
      x: the constant input, `[D]` (or `[*space, D]`).
      carry: the candidate h, without batch axes. A point from Newton's method in float64 gives the best bounds.
    Returns:
      A `Certificate`.
    Raises:
      TypeError: the carry has leaves that are not real floating-point numbers, or another structure.
      ValueError: `x` has batch axes, or a leaf of the carry has another shape.

    Example: 0 is a fixed point of tanh(2 h); the next is at 0.957.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(jnp.zeros((1, 1)), jnp.array([[2.0]]), jnp.zeros(1))
      >>> found = certify(rnnjax.Elman(1), params, jnp.zeros(1), jnp.array([1e-3]))
      >>> found.certified, found.error < 1.001e-3, 0.1 < found.radius < 0.957
      (True, True, True)
      >>> critical = params._replace(w_h=jnp.array([[1.0]]))
      >>> certify(rnnjax.Elman(1), critical, jnp.zeros(1), jnp.zeros(1)).why
      'I - J is singular, or too close to it: ...'

    Reference: see the module `rnnjax.dynamics.certify`.
    """
    return certifier(cell, params, x)(carry)


def certifier(cell: Cell, params: PyTree, x: ArrayLike) -> Callable[[PyTree], Certificate]:
    """`certify` for many carries: a function of the carry, for which the step is traced only once.

    Args:
      cell, params, x: as in `certify`.
    Returns:
      A function that maps a carry, without batch axes, to its `Certificate`.
    Raises:
      As `certify`.

    Example:

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(jnp.zeros((1, 1)), jnp.array([[2.0]]), jnp.zeros(1))
      >>> prove = certifier(rnnjax.Elman(1), params, jnp.zeros(1))
      >>> [prove(jnp.array([h])).certified for h in (0.0, 0.5, 0.95750402)]
      [True, False, True]
    """
    with jax.enable_x64(True):  # JAX's arrays, as NumPy would compute with its own before JAX traces anything
        params, row = jax.tree.map(lambda leaf: jnp.asarray(_promoted(leaf)), (params, x))
    if batch_shape_of(cell, row, 0):
        raise ValueError(f"`x` is {list(row.shape)}; a certificate is for one row: pass one input, without batch axes.")
    with jax.enable_x64(True):
        like = jax.eval_shape(lambda p: cell.initial_carry(p, ()), params)
        leaves, tree = jax.tree.flatten(like)
        for leaf in leaves:
            _check_real(leaf.dtype)
        bounded = Bounded(map_of(cell, 1, params, row), sum(math.prod(leaf.shape) for leaf in leaves))

    def prove(carry: PyTree) -> Certificate:
        found, given = jax.tree.flatten(carry)
        if given != tree:
            raise TypeError(f"`carry` is {given}, but this cell has {tree}; `cell.initial_carry(params)` has its form.")
        for leaf, expected in zip(found, leaves, strict=True):
            _check_real(jnp.asarray(leaf).dtype)
            if np.shape(leaf) != expected.shape:
                raise ValueError(
                    f"a leaf of `carry` is {list(np.shape(leaf))}; expected {list(expected.shape)}: pass one carry "
                    "at a time, without batch axes."
                )
        return _certificate(bounded, rows_of([_promoted(leaf)[None] for leaf in found])[0])

    return prove


def _promoted(leaf: Any) -> Any:
    """In NumPy, with floats in float64, which is exact; arrays of keys as they are."""
    if jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.extended):
        return leaf
    leaf = np.asarray(leaf)
    return leaf.astype("float64") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _check_real(dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"the carry has a leaf of {dtype}; certificates are for real numbers: write a complex carry as its real "
            "and imaginary parts, and take counters and flags out of it."
        )


def _certificate(bounded: Bounded, h: np.ndarray) -> Certificate:
    if not np.isfinite(h).all():
        return _refused("the carry is not finite")
    try:
        here = bounded(h, h)
    except NoBound as error:
        return _refused(_in_words(error, 0.0))
    inverse = inverse_bound(subtract(point(np.eye(len(h))), here.jacobian))
    z0 = inverse.residual
    if z0 >= 1:
        loose = norm_bound(subtract(point(here.jacobian.hi), point(here.jacobian.lo)))
        if loose > 1e-6:
            return _refused(f"rounding errors of the step are bounded too loosely: its Jacobian only to {loose:.2g}")
        off = (
            f"an approximate inverse is off by {z0:.2g}, where less than 1 is needed" if z0 < math.inf else "no inverse"
        )
        return _refused(
            f"I - J is singular, or too close to it: {off}. It may lie on a line of points or a bifurcation"
        )
    a = point(inverse.matrix)
    residual = add(point(h), negative(here.value))
    y = norm_bound(Interval(*[end[:, 0] for end in matmul(a, Interval(*[end[:, None] for end in residual]))]))

    def z2(radius: float) -> float:
        """A bound over the ball."""
        curvature = bounded(np.nextafter(h - radius, -np.inf), np.nextafter(h + radius, np.inf)).curvature
        return float(np.max(up(np.abs(inverse.matrix) @ up(curvature), len(h) + 4), initial=0.0))

    least = max(2.1 * y / (1 - z0), 2.0**-40)  # where there is an r at all, it is at most 2 Y / (1 - Z0)
    try:
        bend = z2(least)
    except NoBound as error:
        return _refused(_in_words(error, least))
    error = _existence(y, z0, bend)
    if error > least:
        return _refused(
            f"the carry is too far from a fixed point: Y Z2 / (1 - Z0)² is {y * bend / (1 - z0) ** 2:.2g}, where less "
            f"than 1/2 is needed (Y = {y:.2g}, Z0 = {z0:.2g}, Z2 = {bend:.2g}); refine it by Newton's method in float64"
        )
    return Certificate(True, _uniqueness(z0, bend, least, z2), error, "")


def _existence(y: float, z0: float, z2: float) -> float:
    """The smallest radius that is found with Y + Z0 r + ½ Z2 r² < r and Z0 + Z2 r < 1; inf if there is none."""
    gap = 1 - z0
    discriminant = gap**2 - 2 * z2 * y
    if discriminant <= 0:
        return math.inf
    r = max(2 * y / (gap + math.sqrt(discriminant)) * (1 + 1e-10), 1e-290)
    for _ in range(3):
        if float(up(y + z0 * r + 0.5 * z2 * r * r, 8)) < r and float(up(z0 + z2 * r, 8)) < 1:
            return r
        r *= 1 + 1e-6
    return math.inf


def _uniqueness(z0: float, bend: float, known: float, z2: Callable[[float], float]) -> float:
    """A radius, at least `known`, with Z0 + Z2 r < 1, where Z2 holds over a ball that is at least as large."""

    def allowed(bend: float) -> float:
        return min((1 - z0) / bend * (1 - 1e-10), FARTHEST) if bend > 0 else FARTHEST

    radius, beyond, smooth = known, allowed(bend), True
    for _ in range(TRIES):
        if beyond < 1.3 * radius:
            break
        tried = 0.8 * beyond if smooth else math.sqrt(radius * beyond)
        try:
            bend = z2(tried)
        except NoBound:
            smooth, beyond = False, tried
            continue
        radius, beyond = max(radius, min(tried, allowed(bend))), min(beyond, max(tried, allowed(bend)))
        if allowed(bend) < tried:
            beyond = tried
    return radius


def _in_words(error: NoBound, radius: float) -> str:
    where = f"within {radius:.2g} of the carry" if radius else "at the carry"
    what = "there is a kink or a jump" if isinstance(error, Kink) else "there is no bound of derivatives"
    return f"{what} {where}: `{error.primitive}`, {error.reason}"


def _refused(why: str) -> Certificate:
    return Certificate(False, 0.0, math.inf, why)
