"""H uncoupled tanh units of gain g > 1: `python -m tests.dynamics.corners 7` finds and certifies all 3^7 points."""

import itertools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.dynamics import fixed_points
from tests.dynamics.confirmed import confirm, elman


def check_corners(units: int, gain: float = 1.5) -> int:
    """Each unit has the points -h, 0 and h: 3^H points, of which C(H, k) 2^(H - k) have k unstable directions."""
    cell, params, x = elman(gain * np.eye(units))
    starts = np.array(list(itertools.product((-1.0, 0.05, 1.0), repeat=units)))
    found = fixed_points(cell, params, x, jnp.asarray(starts))
    assert len(found.kind) == 3**units and found.certified.all() and (found.kind == "point").all()
    assert (found.found == 1).all()
    for k in range(units + 1):
        assert (found.index == k).sum() == math.comb(units, k) * 2 ** (units - k)
    h = np.abs(found.carry).max()
    np.testing.assert_allclose(h, np.tanh(gain * h), rtol=1e-14)
    np.testing.assert_allclose(np.abs(found.carry), h * (np.abs(found.carry) > h / 2), atol=1e-12)
    slopes = np.sort(gain * (1 - np.asarray(found.carry) ** 2), axis=-1)
    np.testing.assert_allclose(np.sort(np.real(found.eigenvalues), axis=-1), slopes, rtol=1e-10)
    assert (found.stable == (np.abs(found.carry) > h / 2).all(-1)).all()
    confirm(cell, params, x, found)
    return len(found.kind)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    started = time.monotonic()
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for number in range(1, most + 1):
        print(f"H = {number}: {check_corners(number)} points, {time.monotonic() - started:.1f} s", flush=True)
