"""A long stream learned online: memory must stay constant, and each program must compile once.

python -m tests.online.soak 10000
"""

import functools
import gc
import sys

import jax
import jax.numpy as jnp
import optax

import rnnjax
from rnnjax import online
from tests.training.soak import resident_bytes

CALL = 500
"""Steps per call of `fit`; carry, trace and optimizer go from one call to the next."""


def squared(y, target):
    return ((y - target) ** 2).mean()


def main(steps: int) -> int:
    cell, optimizer = rnnjax.Readout(rnnjax.GRU(8), 1), optax.adam(1e-2)
    params, traces, measured = cell.init(jax.random.key(0), 1), [], []

    @functools.partial(jax.jit, static_argnums=0)
    def learn(rule, params, kept, key):
        traces.append(1)
        xs = jax.random.normal(key, (CALL, 4, 1))
        targets = jnp.roll(xs, 1, 0).at[0].set(0)  # the input one step before
        return online.fit(cell, params, xs, targets, squared, rule, optimizer, **kept, key=key)

    for rule in (online.RTRL(), online.UORO()):
        carry, trace = cell.initial_carry(params, (4,)), rule.init(cell, params, (4,))
        kept, now = {"carry": carry, "trace": trace, "opt_state": optimizer.init(params)}, params
        traces.clear()
        measured.clear()
        for call in range(steps // CALL):
            found = learn(rule, now, kept, jax.random.key(call))
            now = found.params
            kept = {"carry": found.carry, "trace": found.trace, "opt_state": found.opt_state}
            losses = found.losses.block_until_ready()
            gc.collect()
            measured.append(resident_bytes())
        grown = (measured[-1] - measured[len(measured) // 4]) / 2**20
        loss = float(losses.mean())
        print(f"{rule}: {steps} updates, loss {loss:.4f}, grown by {grown:.2f} MiB, traced {len(traces)} times")
        if grown > 1 or len(traces) != 1 or not loss < 1:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
