"""Several processes that work as one: `jax.distributed`, and an end that says what to do when one of them dies.

    with rnnjax.processes.joined("10.0.0.1:9911", count=2, index=0):     # before anything uses JAX
        mesh = rnnjax.sharding.make_mesh()                               # the devices of all of them
        ...                                                              # every process runs the same program

Each holds the same parameters and draws the same batches, of which it keeps its own rows. Process 0 alone writes.
Collectives go through Gloo on a CPU and through NCCL on GPUs.
"""

from rnnjax.processes.joining import joined, leads, several
from rnnjax.processes.sharing import agree, from_all, from_leader, largest
from rnnjax.processes.watch import LOST_STATUS

__all__ = ["LOST_STATUS", "agree", "from_all", "from_leader", "joined", "largest", "leads", "several"]
