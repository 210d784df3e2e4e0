"""One of two processes of a data-parallel run with checkpoints, one of which gets killed.

`python -m tests.training.peer FOLDER STEPS PORT COUNT INDEX [loader]`: process 0 prints the step of each line of
metrics, and every process prints the SHA-256 of its final state. Batches are drawn by index, or by a loader with a
state, so that every process, and a single one, gets the same ones.
"""

import sys
from pathlib import Path

from rnnjax import processes, sharding


def main(folder: Path, steps: int, port: int, count: int, index: int, batches: str = "") -> None:
    with processes.initialize(f"127.0.0.1:{port}", count, index):
        from rnnjax import training
        from tests.training import toy
        from tests.training.victim import digest

        mesh = sharding.make_mesh()
        fitted = toy.run(
            toy.steps(steps),
            batches=toy.Stream() if batches == "loader" else None,
            gradient=training.data_parallel(toy.loss, mesh, batch_axes=0),
            checkpoints=training.Checkpoints(folder=folder, every=20, config={"steps": steps}),
            report=lambda line: print(line["step"], flush=True),
        )
        print(digest(fitted.state), flush=True)


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[2:6]]
    main(Path(sys.argv[1]), numbers[0], numbers[1], numbers[2], numbers[3], *sys.argv[6:])
