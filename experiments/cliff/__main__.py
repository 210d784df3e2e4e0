"""Runs `experiments.cliff`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import cliff, harness
from experiments.cliff.figures import above_figure, surface_figure, wall_figure
from experiments.cliff.surface import descend, gradient_on_wall, gradients_at, grid, wall
from experiments.harness import UsageError

CLIPS = ("none", "gradient", "adjoint")
STARTS = ((5.4, -2.4), (5.5, -3.1))
WINDOW = ((3.5, 7.0), (-4.2, -1.2))  # w and b of the picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """The error surface of one unit, and descents over it."""

    steps: int = 50
    """T [steps]."""
    points: int = 281
    """Points of the grid along each axis."""
    rate: float = 0.2
    """Learning rate of plain gradient descent."""
    max_norm: float = 0.3
    """Where the gradient's norm is clipped."""
    adjoint_max_norm: float = 0.03
    """Where the adjoint's norm is clipped, at each of the T steps: the gradient is then at most T √1.4 times that."""
    updates: int = 400
    """Steps of descent."""

    def check(self) -> None:
        super().check()
        for name in ("steps", "points", "rate", "max_norm", "adjoint_max_norm", "updates"):
            harness.positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.points < 3:
            raise UsageError(f"--points is {self.points}; a surface needs at least 3 along each axis.")


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options = run.options
    ws, bs = (np.linspace(*ends, options.points) for ends in WINDOW)
    surface = run.rows.compute(
        {"what": "surface", "steps": options.steps, "points": options.points}, lambda: _surface(ws, bs, options.steps)
    )
    along = np.linspace(3.6, 6.9, 67)
    lengths = sorted({max(1, options.steps // 5), max(1, options.steps // 2), options.steps})
    walls = [run.rows.compute({"what": "wall", "steps": T}, lambda T=T: _wall(along, T)) for T in lengths]
    paths = []
    with run.progress("descents", len(CLIPS) * len(STARTS)) as advance:
        for start in STARTS:
            for clip in CLIPS:
                max_norm = options.adjoint_max_norm if clip == "adjoint" else options.max_norm
                asked = {"clip": clip, "start": start, "max_norm": max_norm, "rate": options.rate}
                asked |= {"updates": options.updates, "steps": options.steps}
                paths.append(run.rows.compute(asked, lambda asked=asked: _path(**asked)))
                advance(note=clip)

    drawn = [(row.options, row.arrays) for row in paths]
    with harness.plotting():
        figures = [
            surface_figure(run, ws, bs, surface.arrays["error"], drawn),
            above_figure(run, ws, bs, surface.arrays["norm"], drawn),
            wall_figure(run, along, {row.options["steps"]: row.arrays["norm"] for row in walls}),
        ]
    columns = ("clip", "max_norm", "start", "longest_step", "lowest_error", "last_error", "last_w", "last_b")
    table = run.show(harness.Table.of([row.flat for row in paths], columns, "Descents"))
    worst = max(row.values["largest_relative_residual"] for row in walls)
    reading = [
        f"On the wall the gradient's norm is that of the closed form, to {worst:.1e} of it; its largest value in the "
        f"picture is {surface.values['largest_norm']:.3g}.",
        "Of the ridge of the gradient, for w above 4.6, the distance to the line of theory is at most "
        f"{surface.values['ridge_distance']:.4f} in b; the grid has a point every {bs[1] - bs[0]:.4f}.",
    ]
    return harness.Outcome(
        summary={
            "surface": surface.values,
            "walls": [row.flat for row in walls],
            "descents": [row.flat for row in paths],
        },
        report=[harness.Text("What is to be seen", reading), *figures, table],
    )


def _surface(ws: np.ndarray, bs: np.ndarray, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    error, norm = grid(ws, bs, steps)
    steep = ws >= 4.6  # from there on μ^50 is above 50
    ridge = bs[norm[:, steep].argmax(axis=0)] if steep.any() else np.zeros(0)
    distance = np.abs(ridge - wall(ws[steep]))
    values = {"largest_norm": norm.max(), "ridge_distance": float(distance.max()) if steep.any() else None}
    return values, {"error": error, "norm": norm}


def _wall(ws: np.ndarray, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = gradients_at(ws, wall(ws), steps)
    norm, closed = np.hypot(found.w, found.b), np.hypot(*gradient_on_wall(ws, steps))
    residual = np.abs(norm / closed - 1)
    return {"largest_norm": norm.max(), "largest_relative_residual": residual.max()}, {"norm": norm}


def _path(start: tuple[float, float], **asked: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = descend(start, **asked)
    values = {
        "longest_step": path["moved"].max(),
        "lowest_error": path["error"].min(),
        "last_error": path["error"][-1],
        "last_w": path["w"][-1],
        "last_b": path["b"][-1],
    }
    return values, path


EXPERIMENT = harness.Experiment(
    "cliff",
    cliff.__doc__ or "",
    Options,
    measure,
    quick={"points": 81, "updates": 150},
    code=("rnnjax", "experiments.cliff.surface"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))
