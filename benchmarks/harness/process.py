"""What a benchmark sets up for its own process, the same for every contestant in it."""

import contextlib
import os
from collections.abc import Iterator


def prepare(devices: int) -> dict[str, bool | int | None]:
    """Sets the number of CPU devices and the allocator, and Keras's backend; call it before JAX's first use.

    PyTorch's threads are set where it is loaded, to all cores.

    Args:
      devices: how many devices JAX makes of the CPU's cores.
    Returns:
      What was set, for the record.
    """
    from rnnjax import sharding

    os.environ.setdefault("KERAS_BACKEND", "jax")
    done = sharding.setup_process(device_count=devices)
    return {"cpu_devices": done.device_count, "allocator_keeps_memory": done.allocator}


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """JAX's own defaults for dtypes inside the block, whatever the process has set: float32 and usual promotion.

    Matrix products are in float32 proper: on a GPU, JAX would by default round their factors to TensorFloat-32.
    """
    import jax

    precision = None if jax.default_backend() == "cpu" else "highest"
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision(precision):
        yield


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
