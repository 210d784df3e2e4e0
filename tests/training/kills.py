"""SIGKILL at random moments: every run must resume, and end with the same bits as an uninterrupted run.

python -m tests.training.kills 50
python -m tests.training.kills 50 loader         with batches from a loader, whose position is restored
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 400
ROOT = Path(__file__).parents[2]


def session(folder: Path, lines: int | None, delay: float, batches: str = "") -> tuple[str, bool]:
    """One process, killed `delay` seconds after so many lines of metrics; `(its last line, whether it was killed)`."""
    command = [sys.executable, "-m", "tests.training.victim", str(folder), str(STEPS), batches]
    last, seen = "", -1  # the first line only reports the start
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last, seen = line.strip(), seen + 1
            if seen == lines:
                time.sleep(delay)
                process.kill()
        process.wait()
    assert process.returncode in (0, -9), f"ended with {process.returncode} after {last!r}"
    return last, process.returncode == -9


def moment(rng: random.Random) -> tuple[int, float]:
    """A moment during start, loading and compilation, or during the updates and saves after some line."""
    return (0, rng.uniform(0, 4)) if rng.random() < 0.2 else (rng.randrange(1, 40), rng.uniform(0, 0.1))


def trials(count: int, seed: int, folder: Path, batches: str = "") -> tuple[int, list[str]]:
    """Runs until `count` kills have succeeded; `(completed runs, failures)`."""
    rng, failures, kills, runs = random.Random(seed), [], 0, 0
    expected, _ = session(folder / "alone", None, 0, batches)
    print(f"left alone: {expected}", flush=True)
    assert expected.endswith("True")
    while kills < count:
        run, last, killed, here = folder / f"run_{runs}", "", True, 0
        while killed:
            last, killed = session(run, *(moment(rng) if kills < count else (None, 0)), batches)
            kills, here = kills + killed, here + killed
            print(f"{kills} kills; run {runs} at {last[:12]}", flush=True)
        runs += 1
        if last != expected:
            failures.append(f"run {runs - 1}, killed {here} times, arrived at {last}")
    return runs, failures


def main(count: int, batches: str = "") -> int:
    with tempfile.TemporaryDirectory() as folder:
        runs, failures = trials(count, 0, Path(folder), batches)
    print(f"{count} kills over {runs} runs; {runs - len(failures)} arrived at the same bits", *failures, sep="\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
