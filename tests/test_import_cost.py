"""`import rnnjax` costs jax and nothing heavier. What is loaded is asserted; the time is printed, never asserted."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"flax", "optax", "chex", "matplotlib", "orbax", "tensorstore", "rich", "tyro", "hypothesis", "experiments"}


def import_times(statement: str) -> dict[str, float]:
    """Milliseconds that each module took by itself, in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.removeprefix("import time:").split("|") for line in run.stderr.splitlines() if line.count("|") == 2]
    return {name.strip(): int(own) / 1000 for own, _, name in rows if own.strip().isdigit()}


def test_import_loads_jax_and_nothing_heavier():
    """Neither flax nor optax nor chex nor anything of the experiments; nor the doors to them."""
    jax_alone, rnnjax = import_times("import jax"), import_times("import rnnjax")
    added = {name: ms for name, ms in rnnjax.items() if name not in jax_alone}
    total = sum(jax_alone.values())
    print(f"import rnnjax adds {sum(added.values()):.1f} ms and {len(added)} modules to jax's {total:.0f} ms")

    assert "jax" in jax_alone and "rnnjax._unroll" in added  # the log was read
    assert not HEAVY & {name.split(".")[0] for name in rnnjax}
    submodules = {name for name in rnnjax if name.startswith("rnnjax.")}
    assert not {"flax", "training", "gradients", "processes", "tasks"} & {name.split(".")[1] for name in submodules}
    assert {name.split(".")[0] for name in added} - sys.stdlib_module_names <= {"jax", "jaxlib", "numpy", "rnnjax"}


def test_the_heavy_would_be_noticed():
    """The test above can fail: the same reading finds chex where it is imported."""
    assert HEAVY & {name.split(".")[0] for name in import_times("import chex")}
