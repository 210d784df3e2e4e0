"""Training over several processes: `jax.distributed`, with a clear message and exit when one process dies.

    with rnnjax.processes.initialize("10.0.0.1:9911", count=2, index=0):     # before anything uses JAX
        mesh = rnnjax.sharding.make_mesh()                                   # the devices of all processes
        ...                                                                  # every process runs the same program

Every process holds the same parameters, draws the same batches, and keeps its own rows of each batch. Only process 0,
the coordinator, writes files. Collectives use Gloo on CPUs and NCCL on GPUs.
"""

from rnnjax.processes.joining import initialize, is_coordinator, several
from rnnjax.processes.sharing import assert_equal, from_all, from_coordinator, largest
from rnnjax.processes.watch import LOST_STATUS

__all__ = [
    "LOST_STATUS",
    "assert_equal",
    "from_all",
    "from_coordinator",
    "initialize",
    "is_coordinator",
    "largest",
    "several",
]
