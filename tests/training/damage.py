"""Random damage to checkpoints: every flipped bit and truncated file must be detected, and the previous step used.

python -m tests.training.damage 200
"""

import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

from rnnjax import training
from tests.training import toy


def damage(folder: Path, rng: random.Random) -> str:
    """Flips one bit of a file under `folder`, or truncates one; returns a description."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        done = f"bit {bit} of {path.relative_to(folder)}"
    else:
        keep = rng.randrange(len(data))
        del data[keep:]
        done = f"{path.relative_to(folder)} cut to {keep} bytes"
    path.write_bytes(data)
    return done


def trials(count: int, seed: int, folder: Path) -> list[str]:
    """Damages the newest of two steps `count` times; returns failures, of which there should be none."""
    rng, failures = random.Random(seed), []
    whole = folder / "whole"
    checkpoints = training.Checkpoints(folder=whole, every=10)
    toy.run(toy.steps(20), checkpoints=checkpoints)
    before = toy.run(toy.steps(10)).state
    for trial in range(count):
        copy = folder / f"trial_{trial}"
        shutil.copytree(whole, copy)
        done = damage(copy / "step_000000020", rng)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            loaded = toy.loaded(copy, toy.start())
        try:
            assert any(w.category is training.CheckpointWarning and "step_000000020" in str(w.message) for w in told)
            toy.same_bits(loaded, before)
        except AssertionError as error:
            failures.append(f"{done}: {error or 'nobody was told'}")
        shutil.rmtree(copy)
    return failures


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        failures = trials(count, 0, Path(folder))
    print(f"{count} times damaged, {count - len(failures)} noticed and the step before used", *failures, sep="\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
