"""Traps that were measured elsewhere: where plain arithmetic lies."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.float_horizon.measure import Curves, death_lags, measure_cell
from experiments.gradient_decay.cells import BUILT_IN
from experiments.reproduce.row import Found, Row, of_samples
from rnnjax.gradients import theory

_NOTES = "measured for these notes on XLA:CPU"
_PASCANU = "Pascanu, Mikolov and Bengio 2013, section 2.1"


@functools.cache
def _tanh(quick: bool) -> Curves:
    """Orthogonal tanh networks, H = 32, scale 1, driven by white noise, 100 steps."""
    return measure_cell("tanh", BUILT_IN["tanh"](32), (1.0,), 8 if quick else 64, 100, 0)


def _true_norm(quick: bool) -> Found:
    return of_samples((_tanh(quick).log_norm[:, -1] / np.log(10)).tolist())


def _float32_zero(quick: bool) -> Found:
    norms = _tanh(quick).plain["norm/float32"][:, -1]
    return Found(float((norms == 0).mean()), len(norms))


def _half_dies(dtype: str) -> Callable[[bool], Found]:
    def measure(quick: bool) -> Found:
        found = measure_cell("linear", BUILT_IN["linear"](32), (0.5,), 4, 540 if dtype == "float64" else 100, 0)
        return of_samples(death_lags(found.plain[f"norm/{dtype}"]).tolist())

    return measure


def _saturated(slope: float) -> Found:
    """How far off sech²(8) a slope is, relative to it."""
    return Found(abs(slope * float(np.cosh(8.0)) ** 2 - 1))


def _saturated_rounded(quick: bool) -> Found:
    """(1 + y)(1 - y), JAX's rule for the slope, with y = tanh(8) rounded to the nearest float32."""
    y = np.float32(np.tanh(8.0))
    return _saturated(float((1 + y) * (1 - y)))


def _saturated_jax(quick: bool) -> Found:
    """JAX's own: XLA's tanh on a CPU is exactly 1 from 8 on, so the slope is 0 there."""
    return _saturated(float(jax.grad(jnp.tanh)(jnp.float32(8.0))))


def _clip(quick: bool) -> Found:
    """The largest entry of what Optax's clipping makes of a finite gradient of 1e30."""
    gradient = jnp.full(3, 1e30, jnp.float32)
    clip = optax.clip_by_global_norm(1.0)
    return Found(float(jnp.abs(jnp.asarray(clip.update(gradient, clip.init(gradient))[0])).max()))


def _clipped(max_norm: float, *gradients: float) -> list[float]:
    """What Optax's clipping makes of float32 gradients of one number each."""
    clip = optax.clip_by_global_norm(max_norm)
    given = [jnp.float32(gradient) for gradient in gradients]
    return [float(each) for each in jax.tree.leaves(clip.update(given, clip.init(given))[0])]


def _clip_of_inf(quick: bool) -> Found:
    """NaN where the gradient is inf, 0 where it is not: 1 if so."""
    at_inf, beside = _clipped(1.0, float("inf"), 1.0)
    return Found(float(np.isnan(at_inf) and beside == 0))


def _clip_to_zero(quick: bool) -> Found:
    return Found(float(np.isnan(_clipped(0.0, 0.0, 0.0)).mean()))


def _bound(quick: bool) -> Found:
    """Share of networks whose gradient rate lies below log(γ σ_max), over random tanh networks of scales 0.3 to 3."""
    cell, rates, bounds = BUILT_IN["tanh"](16), [], []
    scales = (0.3, 1.0, 3.0)
    found = measure_cell("tanh", cell, scales, 4, 60, 0)
    rates = (found.log_norm[:, -1] - found.log_norm[:, 0]) / 60
    for scale in scales:
        bounds += [float(theory.pascanu_bound(scale * np.eye(16)))] * 4  # orthogonal: every singular value is the scale
    return Found(float((rates <= np.array(bounds) + 1e-12).mean()), len(rates))


ROWS = (
    Row(
        name="tanh-100-true-norm",
        what="orthogonal tanh network, H = 32, scale 1, lag 100: log10 of the true norm",
        published=-19.77,
        tolerance=1.0,
        quick_tolerance=1.5,
        unit="decades",
        source=f"1.7e-20, one network; {_NOTES}",
        measure=_true_norm,
    ),
    Row(
        name="tanh-100-float32",
        what="the same: share of networks whose float32 norm is exactly 0 there",
        published=1.0,
        tolerance=0.25,
        quick_tolerance=0.5,
        source=_NOTES,
        measure=_float32_zero,
    ),
    *(
        Row(
            name=f"half-dies-{dtype}",
            what=f"orthogonal linear network, scale 0.5: lag at which its {dtype} norm dies",
            published=value,
            tolerance=2.0,
            unit="steps",
            source="exponent range of the format",
            exact=True,
            measure=_half_dies(dtype),
        )
        for dtype, value in (("float32", 63.0), ("float64", 511.0))
    ),
    Row(
        name="saturated-tanh-rounded",
        what="slope of tanh at 8 as (1 + y)(1 - y) in float32, y rounded to nearest: relative error",
        published=0.06,
        tolerance=0.005,
        source=_NOTES,
        measure=_saturated_rounded,
        exact=True,
    ),
    Row(
        name="saturated-tanh-jax",
        what="the same by jax.grad (XLA's tanh is exactly 1 from 8 on, and the error is 1)",
        published=0.06,
        tolerance=0.02,
        source=_NOTES,
        measure=_saturated_jax,
    ),
    Row(
        name="optax-clip",
        what="optax.clip_by_global_norm(1) of a finite float32 gradient of 1e30: largest update",
        published=0.0,
        tolerance=0.0,
        source=_NOTES,
        measure=_clip,
    ),
    Row(
        name="optax-clip-inf",
        what="the same of (inf, 1): becomes (NaN, 0)",
        published=1.0,
        tolerance=0.0,
        source=_NOTES,
        measure=_clip_of_inf,
    ),
    Row(
        name="optax-clip-zero",
        what="the same to norm 0 of zero gradients: share of NaN",
        published=1.0,
        tolerance=0.0,
        source=_NOTES,
        measure=_clip_to_zero,
    ),
    Row(
        name="saturated-tanh-gone",
        what="slope of tanh at 9.5 in float32, by jax.grad",
        published=0.0,
        tolerance=0.0,
        source=f"{_NOTES}; the true slope is 2.2e-8",
        measure=lambda quick: Found(float(jax.grad(jnp.tanh)(jnp.float32(9.5)))),
    ),
    Row(
        name="pascanu-bound",
        what="share of tanh networks whose gradient keeps below log(γ σ_max)",
        published=1.0,
        tolerance=0.0,
        source=_PASCANU,
        measure=_bound,
        exact=True,
    ),
)
