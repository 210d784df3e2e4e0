"""SIGKILL to one of two processes: the other must report it and exit within 15 s, and after a restart both must end
with the same bits as an uninterrupted run.

python -m tests.training.peers_killed            kills process 1, and in a second run process 0
python -m tests.training.peers_killed loader     with batches from a loader in each, whose positions are restored
"""

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rnnjax.processes import LOST_STATUS

STEPS, KILL_AT = 400, 60
SECONDS = 15
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, steps: int, batches: str = "") -> list[subprocess.Popen[str]]:
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.peer", *map(str, (folder, steps, port, 2, index)), batches],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def finish(both: list[subprocess.Popen[str]]) -> str:
    """Waits for both processes; returns their common digest."""
    heard = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n\n".join(err[-3000:] for _, err in heard)
    ends = [out.split()[-1] for out, _ in heard]
    assert ends[0] == ends[1], "the processes arrived at different states"
    return ends[0]


def killed(folder: Path, victim: int, batches: str = "", steps: int = STEPS) -> tuple[float, str]:
    """Kills `victim` during training; `(seconds until the other process exited, its output)`."""
    both = start(folder, steps, batches)
    try:
        stdout = both[0].stdout
        assert stdout is not None
        for line in stdout:
            if line.strip().isdecimal() and int(line) >= KILL_AT:
                break
        both[victim].kill()
        struck = time.monotonic()
        survivor = both[1 - victim]
        _, err = survivor.communicate(timeout=SECONDS)
        took = time.monotonic() - struck
        assert survivor.returncode == LOST_STATUS, f"ended with {survivor.returncode}: {err[-2000:]}"
        said = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and re.search(rf"process {victim} of 2 is gone.*Run the same command again", said[0]), err
        return took, said[0]
    finally:
        for process in both:
            process.kill()
            process.communicate()


def main(batches: str = "") -> int:
    with tempfile.TemporaryDirectory() as folder:
        alone = finish(start(Path(folder) / "alone", STEPS, batches))
        print(f"undisturbed: {alone}", flush=True)
        for victim in (1, 0):
            run = Path(folder) / f"killed_{victim}"
            took, said = killed(run, victim, batches)
            print(f"process {victim} killed; the other ended after {took:.1f} s with\n  {said}", flush=True)
            steps = sorted(path.name for path in run.glob("step_*"))
            again = finish(start(run, STEPS, batches))
            print(f"went on from {steps[-1]}, arrived at {again}", flush=True)
            if again != alone:
                print("FAILED: not where the undisturbed run arrived")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
