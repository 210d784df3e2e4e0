"""The cliff: its unit against NumPy, its closed forms against differences, and a small run as a user starts it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax
from experiments import harness
from experiments.cliff import __main__ as main
from experiments.cliff import surface
from tests.experiments.quickly import quickly  # noqa: F401 (a fixture)
from tests.experiments.toy import read

pytestmark = pytest.mark.usefixtures("quickly")


def by_numpy(w: Any, b: Any, steps: int) -> Any:
    x = 0.5
    for _ in range(steps):
        x = w / (1 + np.exp(-x)) + b
    return (1 / (1 + np.exp(-x)) - 0.7) ** 2


def test_the_surface_is_the_papers():
    """E in NumPy, and its gradient by central differences, on a grid `[b, w]`."""
    ws, bs = np.array([4.1, 5.0, 6.2]), np.array([-3.1, -2.0])
    error, norm = surface.grid(ws, bs, 12)
    for (i, j), value in np.ndenumerate(error):
        w, b, h = ws[j], bs[i], 1e-6
        np.testing.assert_allclose(value, by_numpy(w, b, 12), rtol=1e-12)
        by_w = (by_numpy(w + h, b, 12) - by_numpy(w - h, b, 12)) / (2 * h)
        by_b = (by_numpy(w, b + h, 12) - by_numpy(w, b - h, 12)) / (2 * h)
        np.testing.assert_allclose(norm[i, j], np.hypot(by_w, by_b), rtol=1e-6)


def test_the_closed_forms():
    """On the wall the state stands still and the gradient is a sum of powers, also where the slope is 1; the fold is
    where a fixed point is double."""
    ws = np.array([3.0, 1 / (surface.sigmoid(0.5) * (1 - surface.sigmoid(0.5))), 4.5, 5.0])
    found = surface.gradients_at(ws, surface.wall(ws), 20)
    closed = surface.gradient_on_wall(ws, 20)
    np.testing.assert_allclose(found.w, closed[0], rtol=1e-10)
    np.testing.assert_allclose(found.b, closed[1], rtol=1e-10)
    np.testing.assert_allclose(surface.wall(ws) + ws * surface.sigmoid(0.5), 0.5, rtol=1e-14)
    fold = surface.fold(ws)
    assert np.isnan(fold[0]) and np.isfinite(fold[2:]).all()
    for w, b in zip(ws[2:], fold[2:], strict=True):
        y = (1 + np.sqrt(1 - 4 / w)) / 2
        x = np.log(y / (1 - y))
        np.testing.assert_allclose([w * y + b, w * y * (1 - y)], [x, 1], rtol=1e-12)


def test_descents_are_clipped_where_they_say():
    """A first step of each kind, by hand; the lattice of starts lies around the wall."""
    start, rate = np.array([[5.0, float(surface.wall(np.array(5.0)))]]), 0.5
    by_w, by_b = surface.gradient_on_wall(np.array([5.0]), 50)
    plain = surface.descend(start, "none", 1.0, rate, 1, 50)
    np.testing.assert_allclose(plain["moved"][0, 0], rate * np.hypot(by_w, by_b)[0], rtol=1e-8)
    clipped = surface.descend(start, "gradient", 0.1, rate, 1, 50)
    np.testing.assert_allclose(clipped["moved"][0, 0], rate * 0.1, rtol=1e-12)
    limit = 1e-3
    adjoint = surface.descend(start, "adjoint", limit, rate, 1, 50)
    y = surface.sigmoid(0.5)
    first = 2 * (0.7 - y) * y * (1 - y)  # |dE/dx_T|: not clipped, as it comes from the loss and not from a step
    assert first > limit
    np.testing.assert_allclose(adjoint["moved"][0, 0], rate * (first + 49 * limit) * np.hypot(1, y), rtol=1e-9)
    starts = surface.around_the_wall(3)
    assert starts.shape == (9, 2)
    np.testing.assert_allclose(np.abs(starts[:, 1] - surface.wall(starts[:, 0])).max(), 0.5)


def test_the_unit_is_a_cell():
    unit = surface.SigmoidUnit()
    params = unit.init(jax.random.key(0), 1, np.float64)
    carry, ys = rnnjax.unroll(unit, params, np.zeros((3, 2, 1)))
    assert carry.shape == (2, 1) and ys.shape == (3, 2, 1)
    np.testing.assert_allclose(ys[0], surface.sigmoid(surface.sigmoid(0.5)), rtol=1e-14)


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The folder is whole, and nothing is computed again."""
    arguments = ["--quick", "--points", "25", "--updates", "20", "--starts", "3", "--out", str(tmp_path)]
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    summary = read(tmp_path)
    assert {figure["png"] for figure in summary["figures"]} == {"surface.png", "above.png", "wall.png"}
    assert [row["clip"] for row in summary["descents"]] == list(main.CLIPS)
    assert max(row["largest_relative_residual"] for row in summary["walls"]) < 1e-3
    assert summary["rows_computed_count"] == 7
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    assert read(tmp_path)["rows_computed_count"] == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--points", "2"], "--points is 2"), (["--rate", "0"], "--rate is 0")]
)
def test_bad_options_are_refused(arguments, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.launch(main.EXPERIMENT, [*arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
