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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax._unroll.newton import Parallel

CURVATURE, THETA = 0.082, 0.9
"""κ, and θ, by which an error shrinks at least: fitted to Elman, GRU and LSTM networks of 16 units driven by noise."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What Newton's method in time is expected to need for one layer, from the leading exponent.

    Attributes:
      exponent: λ, in nats per step.
      converges: whether rounding errors, as amplified over T steps, stay below the tolerance.
      iterations: the expected number, at most T: for tanh networks, LSTMs and GRUs within a factor of 2 where
        λ < -0.1; nearer to 0 see docs/newton.
      bytes: of the Jacobians of all steps and rows and their products; of one segment, with `chunk` or `checkpoint`.
      pays_from: the length T from which it is faster than a scan on this kind of device; None if no length is known.
      source: how that is known, or not.
    """

    exponent: float
    converges: bool
    iterations: int
    bytes: int
    pays_from: int | None
    source: str

    def __str__(self) -> str:
        if not self.converges:
            return f"exponent {self.exponent:.3g}: rounding errors grow above the tolerance, it should not converge"
        length = "" if self.pays_from is None else f"from T = {self.pays_from:,}, "
        needs = f"exponent {self.exponent:.3g}: about {self.iterations} iterations"
        return f"{needs}; faster than a scan: {length}{self.source}"


PAYS: dict[str, tuple[int | None, str]] = {
    "cpu": (None, "no: slower on two cores wherever it was measured (benchmarks.scan_vs_loop)"),
}
"""By kind of device, the length from which it pays and how that is known. Other kinds were not measured."""


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
    kind = jax.default_backend()
    pays_from, source = PAYS.get(kind, (None, f"not known, as it was not measured on a {kind}"))
    return Prediction(
        exponent=largest,
        converges=epsilon * amplification(largest, steps) <= tolerance,
        iterations=expected_iterations(largest, steps, tolerance),
        bytes=3 * at_once * rows * size**2 * jnp.dtype(dtype).itemsize,
        pays_from=pays_from,
        source=source,
    )
