"""`import rnnjax` loads jax and nothing heavier. Loaded modules are asserted; times are only printed."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"flax", "optax", "chex", "matplotlib", "orbax", "tensorstore", "rich", "tyro", "hypothesis", "experiments"}


def import_times(statement: str) -> dict[str, float]:
    """The import time of each module in milliseconds, in a fresh interpreter."""
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
    """No flax, optax, chex or dependencies of the experiments, and no submodules that import them."""
    jax_alone, rnnjax = import_times("import jax"), import_times("import rnnjax")
    added = {name: ms for name, ms in rnnjax.items() if name not in jax_alone}
    total = sum(jax_alone.values())
    print(f"import rnnjax adds {sum(added.values()):.1f} ms and {len(added)} modules to jax's {total:.0f} ms")

    assert "jax" in jax_alone and "rnnjax._unroll" in added  # the log was read
    assert not HEAVY & {name.split(".")[0] for name in rnnjax}
    submodules = {name for name in rnnjax if name.startswith("rnnjax.")}
    assert not {"dynamics", "flax", "training", "gradients", "processes", "tasks"} & {
        name.split(".")[1] for name in submodules
    }
    assert {name.split(".")[0] for name in added} - sys.stdlib_module_names <= {"jax", "jaxlib", "numpy", "rnnjax"}


def test_the_heavy_would_be_noticed():
    """The test above can fail: it would find chex if it were imported."""
    assert HEAVY & {name.split(".")[0] for name in import_times("import chex")}
