"""Runs an experiment in this process, as its command line does, and reads what it leaves."""

from pathlib import Path
from typing import Any

import jax

from experiments import harness
from tests.experiments.toy import read


def launched(
    experiment: harness.Experiment, folder: Path, *arguments: str, promotion: str = "strict"
) -> dict[str, Any]:
    """`summary.json` of a run with these arguments; its figures must be there.

    Sizes are best those of other tests of the file: then compiled programs are shared. Optax's Adam, which mixes its
    integer count with floats, needs `promotion="standard"`, as a user has it.
    """
    with jax.numpy_dtype_promotion(promotion):  # pyright: ignore[reportArgumentType]
        assert harness.launch(experiment, [*arguments, "--out", str(folder)]) == 0
    summary = read(folder)
    assert summary["figures"], "an experiment shows something"
    for figure in summary["figures"]:
        assert (folder / figure["png"]).read_bytes().startswith(b"\x89PNG") and len(figure["alt"]) > 20
    for each in summary["residuals"]:
        assert each["residual"] == each["measured"] - each["theory"] and each["unit"]
    return summary


def refused(experiment: harness.Experiment, folder: Path, capsys: Any, *arguments: str) -> str:
    """What a run with a bad option says: one line, before any work."""
    assert harness.launch(experiment, [*arguments, "--out", str(folder / "new")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and not (folder / "new").exists()
    return said
