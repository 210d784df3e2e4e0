"""Certificates of random tanh networks against Newton's method in extended precision, from points within the ball.

python -m tests.dynamics.certificates 1500
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from rnnjax.dynamics.certify import certifier

STARTS = 5


class Tally(NamedTuple):
    """Of `points` carries, how many were certified, and how many of these proofs another computation contradicts."""

    points: int
    fixed: int  # Newton's method converged to the carry
    certified: int
    contradicted: int


def newton(h, w, b, steps=60):
    """A zero of h - tanh(h W + b), in extended precision with slopes in float64; None if it does not converge."""
    for _ in range(steps):
        values = np.tanh(h @ w + b)
        residual = h - values
        if np.abs(residual).max() < 1e-17:
            return h
        slope = np.eye(len(h)) - ((1 - values**2)[:, None] * w.T).astype(float)
        try:
            h = h - np.linalg.solve(slope, residual.astype(float))
        except np.linalg.LinAlgError:
            return None
        if not np.abs(h).max() < 1e6:
            return None
    return h if np.abs(residual).max() < 1e-15 else None


def tally(points: int, seed: int = 0, units: int = 8) -> Tally:
    """Networks of 1 to `units` units with gains from 0.3 to 3; every third carry is not quite, or not at all, fixed."""
    rng = np.random.default_rng(seed)
    fixed = certified = contradicted = 0
    for k in range(points):
        size = int(rng.integers(1, units + 1))
        w = rng.uniform(0.3, 3) * rng.normal(size=(size, size)) / np.sqrt(size)
        b = rng.normal(size=size) * rng.choice([0, 0.3])
        wide = [a.astype(np.longdouble) for a in (w, b)]
        found = newton(rng.uniform(-1, 1, size).astype(np.longdouble), *wide)
        carry = rng.uniform(-1, 1, size) if found is None else found.astype(float)
        if k % 3 == 0:
            carry = carry + rng.normal(size=size) * 10.0 ** rng.uniform(-12, 0)
        fixed += found is not None and k % 3 != 0
        with jax.enable_x64(True):
            params = rnnjax.ElmanParams(*map(jnp.asarray, (np.zeros((1, size)), w, b)))
            proof = certifier(rnnjax.Elman(size), params, np.zeros(1))(carry)
        if not proof.certified:
            continue
        certified += 1
        starts = [carry, *(carry + proof.radius * rng.uniform(-1, 1, (STARTS, size)))]
        limits = [newton(start.astype(np.longdouble), *wide) for start in starts]
        inside = [h for h in limits if h is not None and np.abs(h - carry).max() <= proof.radius]
        exists = limits[0] is not None and np.abs(limits[0] - carry).max() <= proof.error
        contradicted += not exists or any(np.abs(h - limits[0]).max() > 1e-12 for h in inside)
    return Tally(points, fixed, certified, contradicted)


if __name__ == "__main__":
    found = tally(int(sys.argv[1]))
    print(found)
    sys.exit(found.contradicted > 0)
