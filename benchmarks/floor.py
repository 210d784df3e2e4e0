"""The floor: the matmuls of a step alone, at the rate of a large one on this machine, measured in the same rounds.

Nothing that multiplies the same matrices can be faster. A forward pass is 2·T·B·(D + H)·G·H floating-point operations
for G gates; a training step three times that.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness

_SHAPES = {"cpu": (2048, 512, 1024)}  # rows, inner, columns: large enough for the full rate, short enough to repeat
_LARGE = (8192, 8192, 8192)


def large_matmul() -> harness.Program:
    """One large matrix product, float32 at the default precision, as the floor of a contest."""
    rows, inner, columns = _shape()
    random = np.random.default_rng(0)
    left = jnp.asarray(random.normal(size=(rows, inner)), jnp.float32)
    right = jnp.asarray(random.normal(size=(inner, columns)), jnp.float32)
    return harness.compiled(lambda a, b: a @ b, left, right, shared=lambda _: {}, compiles=1)


def floor_row(times: harness.Times | None, forward_flops: float) -> dict[str, float] | None:
    """The floor of a point, from the times of `large_matmul` in its rounds: rate, and milliseconds by task."""
    if times is None:
        return None
    rows, inner, columns = _shape()
    rate = 2.0 * rows * inner * columns / times.median
    return {
        "gflops_per_s": 1e-9 * rate,
        "forward_ms": 1e3 * forward_flops / rate,
        "train_ms": 3e3 * forward_flops / rate,
    }


def _shape() -> tuple[int, int, int]:
    return _SHAPES.get(jax.default_backend(), _LARGE)
