"""A share of the networks in each of several processes, with a core and one thread of XLA's for each.

In one process XLA's devices share its threads, which costs programs of small kernels up to half of their speed.
"""

import multiprocessing
import os
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.observatory.networks import Networks

Build = Callable[[Networks, str, list[int]], harness.Program]
"""Of the networks with these numbers, in the process that it is called in."""


class Workers:
    """Processes that each hold a compiled program, until nobody holds them any more."""

    def __init__(self, build: Build, networks: Networks, task: str, count: int) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < count:
            raise harness.LeftOut(f"{count} cores are asked for, this process may use {len(cores)}")
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        for core, share in zip(cores, np.array_split(np.arange(len(networks)), count), strict=False):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, core, build, networks, task, share.tolist()))
            worker.daemon = True
            worker.start()
            theirs.close()
            self.pipes.append(ours)
        weakref.finalize(self, _close, self.pipes)
        self.costs = [self._received(pipe) for pipe in self.pipes]

    def call(self) -> np.ndarray:
        for pipe in self.pipes:
            pipe.send("run")
        return np.concatenate([self._received(pipe) for pipe in self.pipes])

    def _received(self, pipe: Connection) -> Any:
        try:
            found = pipe.recv()
        except EOFError:
            raise RuntimeError("a worker process of the observatory ended; its error is above.") from None
        if isinstance(found, Exception):
            raise found
        return found


def _close(pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()


def _serve(pipe: Connection, core: int, build: Build, networks: Networks, task: str, share: list[int]) -> None:
    os.sched_setaffinity(0, {core})
    os.environ["PJRT_NPROC"] = "1"  # read where XLA starts its threads

    import jax

    from rnnjax.sharding import setup_process

    setup_process(1)
    with jax.enable_x64(True):
        try:
            program = build(networks, task, share)
            pipe.send(program.cost)
            while pipe.recv():
                pipe.send(np.asarray(program.call()))
        except EOFError:  # nobody needs us any more
            pass
        except Exception as fault:
            pipe.send(fault)
