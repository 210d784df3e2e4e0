"""A long run: memory must stay constant, and the program must compile once.

python -m tests.training.soak 10000
python -m tests.training.soak 10000 loader       with batches from a loader
"""

import gc
import itertools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import rnnjax
from rnnjax import tasks, training

CELL = rnnjax.LSTM(8)


def resident_bytes() -> int:
    """The current memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main(steps: int, batches: str = "") -> int:
    key = jax.random.key(0)
    params = {"rnn": CELL.init(key, 2), "w": 0.1 * jax.random.normal(key, (8, 1)), "b": jnp.zeros(1)}
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.adam(5e-3))
    traces, measured = [], []

    def loss(params, batch):
        traces.append(1)
        _, ys = rnnjax.unroll(CELL, params["rnn"], batch.xs)
        return tasks.squared_error(ys @ params["w"] + params["b"], batch)

    def report(line: dict) -> None:
        gc.collect()
        live = sum(array.nbytes for array in jax.live_arrays())
        measured.append((line["step"], resident_bytes(), live))

    state = training.init_state(params, rule, jax.random.key(1))
    data = lambda key, step: tasks.adding(key, 50, (16,))  # noqa: E731
    drawn: Any = data
    if batches == "loader":
        draw = jax.jit(data)
        drawn = (jax.device_get(draw(jax.random.fold_in(key, i), i)) for i in itertools.count())
    training.fit(loss, state, rule, drawn, training.FitOptions(steps=steps, chunk=steps // 20), report=report)
    warm = measured[len(measured) // 10 :]
    growth = warm[-1][1] / warm[0][1] - 1
    most = max(bytes for _, bytes, _ in warm) / min(bytes for _, bytes, _ in warm) - 1
    print(f"{steps} steps; resident {warm[0][1] / 2**20:.1f} MiB after {warm[0][0]} and {warm[-1][1] / 2**20:.1f} MiB ")
    print(
        f"at the end: {100 * growth:+.2f}%, spread {100 * most:.2f}%; live arrays {warm[0][2]} -> {warm[-1][2]} bytes"
    )
    print(f"traced {len(traces)} time(s)")
    return int(most > 0.01 or len(traces) != 1 + bool(batches) or warm[0][2] != warm[-1][2])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
