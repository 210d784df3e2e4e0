"""How many iterations Newton's method in time needs, from the leading Lyapunov exponent λ, and whether it pays.

A perturbation grows like exp(λ n) in n steps, so that what is added at every step adds up to

    K(λ, n) = 1 + e^λ + ... + e^((n-1) λ)

times as much. Hence (1) rounding errors ε end up as ε K(λ, T), and no estimate gets below that: where it is above the
tolerance, Newton's method does not converge. (2) The error of an iterate is squared by the next, and amplified:
e <- c e² with c = κ K(λ, n). If c <= θ for all of time, the error is below the tolerance after log2(1 + log tolerance /
log c) iterations, whatever T is. Else this holds within windows of n* steps, where κ K(λ, n*) = θ, which are solved one
after another: T / n* more iterations. κ stands for the curvature of the network, and is the one number that is fitted.

References: Gonzalez et al., Predictability enables parallelization of nonlinear state space models, arXiv 2508.16817,
for the role of λ; κ and θ against measurements: `experiments.newton`, docs/newton.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax._unroll.newton import Parallel

CURVATURE, THETA = 0.082, 0.9
"""κ, and θ, by which an error shrinks at least: fitted to Elman, GRU and LSTM networks of 16 units driven by noise."""

MOST = 40
"""The longest T that is tried is 2 to this power."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What Newton's method in time is expected to need for one layer, from the leading exponent.

    Attributes:
      exponent: λ, in nats per step.
      converges: whether rounding errors, as amplified over T steps, stay below the tolerance.
      iterations: the expected number, at most T: for tanh networks, LSTMs and GRUs within a factor of 2 where
        λ < -0.1, and of 8 for λ nearer to 0 (docs/newton).
      bytes: of the Jacobians of all steps and rows and their products; of one segment, with `chunk` or `checkpoint`.
      pays_from: the smallest power of two T from which it is expected to be faster than a scan, forward pass; None if
        there is none, or no figures are known.
      source: where the figures for `pays_from` come from, or why there are none.
    """

    exponent: float
    converges: bool
    iterations: int
    bytes: int
    pays_from: int | None
    source: str

    def __str__(self) -> str:
        if not self.converges:
            return (
                f"exponent {self.exponent:.3g}: not expected to converge, as rounding errors grow above the tolerance"
            )
        pays = f"pays from T = {self.pays_from:,}" if self.pays_from else "does not pay at any T"
        known = f"{pays} ({self.source})" if self.source in _SOURCES else self.source
        return f"exponent {self.exponent:.3g}: about {self.iterations} iterations; {known}"


class Costs(NamedTuple):
    """Measured times on a kind of device, in seconds.

    Attributes:
      step: of one step of a scan.
      row: of one row in one step of a scan, for S = 1; the matmul grows like S².
      level: of one of the 2 log2 T levels of a parallel scan.
      entry: of one multiplication in the products of matrices, of which there are S³ in each of about 2 T.
    """

    step: float
    row: float
    level: float
    entry: float


_SOURCES = {
    "cpu": "measured on two cores by benchmarks.scan_vs_loop; a machine with more cores gains more",
}
_COSTS = {"cpu": Costs(step=2e-6, row=1e-9, level=2e-5, entry=1e-9)}


def amplification(exponent: float, steps: float) -> float:
    """K(λ, n); inf where it overflows."""
    if abs(exponent) * steps < 1e-9:
        return float(steps)
    if exponent * steps > 700:
        return math.inf
    return math.expm1(exponent * steps) / math.expm1(exponent)


def window(exponent: float) -> float:
    """n*, for which κ K(λ, n*) = θ; inf if K stays below."""
    target = THETA / CURVATURE
    if abs(exponent) < 1e-9:
        return target
    inside = 1 + target * math.expm1(exponent)
    return math.log(inside) / exponent if inside > 0 else math.inf


def expected_iterations(exponent: float, steps: int, tolerance: float) -> int:
    """The expected number of iterations, at most `steps`."""
    contraction = min(CURVATURE * amplification(exponent, steps), THETA)
    last = math.log2(1 + math.log(tolerance) / math.log(contraction)) if 0 < contraction < 1 else 1.0
    return min(steps, math.ceil(last + (steps / window(exponent) if window(exponent) < steps else 0)))


def predict(
    parallel: Parallel, exponent: Any, steps: int, at_once: int, rows: int, size: int, dtype: Any
) -> Prediction:
    """The prediction for one layer with `size` states in each row, of which `at_once` steps are in memory."""
    largest = float(np.max(np.asarray(exponent)))
    tolerance, epsilon = parallel.tolerance_for(dtype), float(jnp.finfo(dtype).eps)

    def converges(steps: int) -> bool:
        return epsilon * amplification(largest, steps) <= tolerance

    kind = jax.default_backend()
    costs = _COSTS.get(kind)

    def pays(steps: int, costs: Costs) -> bool:
        scan = steps * (costs.step + rows * size**2 * costs.row)
        once = 2 * math.log2(steps) * costs.level + 2 * steps * rows * size**3 * costs.entry
        return converges(steps) and (expected_iterations(largest, steps, tolerance) + 1) * once < scan

    lengths = [2**i for i in range(1, MOST)]
    return Prediction(
        exponent=largest,
        converges=converges(steps),
        iterations=expected_iterations(largest, steps, tolerance),
        bytes=3 * at_once * rows * size**2 * jnp.dtype(dtype).itemsize,
        pays_from=next((n for n in lengths if costs is not None and pays(n, costs)), None),
        source=_SOURCES.get(kind, f"whether it pays on {kind} is not known: no figures were measured"),
    )
