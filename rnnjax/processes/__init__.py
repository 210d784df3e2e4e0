"""Training over several processes: `jax.distributed`, with a clear message and exit when one process dies.

    with rnnjax.processes.initialize("10.0.0.1:9911", count=2, index=0):     # before anything uses JAX
        mesh = rnnjax.sharding.make_mesh()                                   # the devices of all processes
        ...                                                                  # every process runs the same program

Without arguments, as under SLURM, `jax.distributed` discovers the processes. Every process draws the same batches and
keeps its own rows. Process 0 is the coordinator. Collectives use Gloo on CPUs and NCCL on GPUs.
"""

from rnnjax.processes.joining import initialize
from rnnjax.processes.sharing import assert_equal, from_all, from_coordinator, is_coordinator, largest, several
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
