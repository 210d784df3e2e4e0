"""One of two processes of a data parallel run with checkpoints, of which one gets killed.

`python -m tests.training.peer FOLDER STEPS PORT COUNT INDEX`: process 0 prints each line's step as it comes, and every
process, at the end, the SHA-256 of what it arrived at. Batches come by index, so that one process reads the same.
"""

import sys
from pathlib import Path

from rnnjax import processes, sharding


def main(folder: Path, steps: int, port: int, count: int, index: int) -> None:
    with processes.initialize(f"127.0.0.1:{port}", count, index):
        from rnnjax import training
        from tests.training import toy
        from tests.training.victim import digest

        mesh = sharding.make_mesh()
        fitted = toy.run(
            toy.steps(steps),
            gradient=training.data_parallel(toy.loss, mesh, batch_axes=0),
            checkpoints=training.Checkpoints(folder=folder, every=20, config={"steps": steps}),
            log=folder.with_suffix(".jsonl"),
            report=lambda line: print(line["step"], flush=True),
        )
        print(digest(fitted.state), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
