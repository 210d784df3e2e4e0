"""Numbers that are committed in `docs` come out again from the code as it is now, within the printed digits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PARTS = {
    "gradient_decay": ["--cells", "tanh", "lstm", "gru", "--scales", "1.0", "--kinds", "gain"],
}
"""By experiment, options that compute a small part of its rows, the others left at what the committed run had."""

NAMES = ("cell", "kind", "scale", "length")


@pytest.mark.parametrize("experiment", PARTS)
def test_a_part_of_the_committed_rows(experiment, tmp_path):
    command = [sys.executable, "-m", f"experiments.{experiment}", *PARTS[experiment], "--fresh", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def rows_of(folder: Path) -> dict:
        rows = json.loads((folder / "summary.json").read_text())["rows"]
        return {tuple(row[name] for name in NAMES): row for row in rows}

    found, committed = rows_of(tmp_path), rows_of(ROOT / "docs" / experiment)
    assert len(found) >= 24
    for name, row in found.items():
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(committed[name][key], rel=1e-6, abs=1e-9), (name, key)
            else:
                assert value == committed[name][key], (name, key)
