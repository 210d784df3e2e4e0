"""The run that gets killed: `python -m tests.training.victim FOLDER STEPS`, with a checkpoint after every dispatch.

With a third argument "loader", batches come from a loader with a state.
It prints its first step, a line after each save, and at the end the SHA-256 of its final state.
"""

import hashlib
import sys
from pathlib import Path

import jax

from rnnjax import training
from rnnjax.training.checkpoints import flatten
from tests.training import toy


def digest(state: training.TrainState) -> str:
    arrays, _ = flatten(state)
    return hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in arrays.items())).hexdigest()


def main(folder: Path, steps: int, batches: str = "") -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    print("up", flush=True)
    fitted = toy.run(
        toy.steps(steps),
        batches=toy.Stream() if batches == "loader" else None,
        checkpoints=training.Checkpoints(folder=folder, every=10, config={"steps": steps}),
        report=lambda line: print(line["step"], flush=True),
    )
    print(digest(fitted.state), [line["step"] for line in fitted.history] == list(range(5, steps + 1, 5)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
