"""Delayed XOR with and without flossing: a small run, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from experiments import harness
from experiments.flossing import __main__ as main
from tests.experiments.quickly import quickly  # noqa: F401 (a fixture)
from tests.experiments.toy import read

pytestmark = pytest.mark.usefixtures("quickly")


def made_up(asked, mesh=None):
    """What `train` gives, in shape; a real one takes a third of a minute to compile (`--quick` runs it)."""
    seeds = asked["seeds"]
    shares = {"plain": 0.6, "flossed": 0.9}
    values = {name: {"accuracy": [share] * seeds, "failed": [False] * seeds} for name, share in shares.items()}
    spectrum = -0.1 * np.arange(asked["exponents"])
    exponents = np.stack([np.tile(scale * spectrum, (seeds, 1)) for scale in (1.0, 0.0, 2.0, 0.5)])
    arrays = {"exponents": exponents, "updates": np.arange(3), "accuracy": np.full((3, 2, seeds), 0.7)}
    return values | {"floss_loss": [0.0] * seeds}, arrays


def test_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """From rows to lines; every delay once, and none computed again."""
    monkeypatch.setattr(main, "train", made_up)
    arguments = ["--delays", "4", "8", "--seeds", "2", "--exponents", "3", "--out", str(tmp_path)]
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    summary = read(tmp_path)
    assert [row["delay"] for row in summary["rows"]] == [4, 8]
    for row in summary["rows"]:
        np.testing.assert_allclose([row["plain_accuracy"], row["flossed_accuracy"]], [0.6, 0.9])
        np.testing.assert_allclose(row["mean_square_before"], (0.01 + 0.04) / 3)
        assert row["mean_square_flossed"] == 0 and row["leading_exponent_before"] == 0
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    assert read(tmp_path)["rows_computed_count"] == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--delays", "1"], "--delays is"), (["--exponents", "99"], "--exponents is 99")]
)
def test_bad_options_are_refused(arguments, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.launch(main.EXPERIMENT, [*arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
