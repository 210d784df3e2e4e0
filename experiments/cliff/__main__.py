"""Runs `experiments.cliff`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import cliff, harness
from experiments.cliff.figures import above_figure, surface_figure, wall_figure
from experiments.cliff.surface import around_the_wall, descend, gradient_on_wall, gradients_at, grid, wall
from experiments.harness import UsageError

THROWN, REACHED = 1.0, 1e-3  # a step in w and b longer than the first, an error below the second
CLIPS = ("none", "gradient", "adjoint")
STARTS = ((4.9, -2.2), (5.5, -3.1))  # of the descents drawn: above the wall and below it
WINDOW = ((4.0, 6.4), (-3.6, -1.4))  # w and b of the picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """The error surface of one unit, and descents over it."""

    steps: int = 50
    """T [steps]."""
    points: int = 281
    """Points of the grid along each axis."""
    starts: int = 12
    """Descents begin at this number squared of points around the wall."""
    rate: float = 0.5
    """Learning rate of plain gradient descent."""
    max_norm: float = 0.1
    """Where the gradient's norm is clipped."""
    adjoint_max_norm: float = 0.01
    """Where the adjoint's norm is clipped, at each of the T steps: the gradient is then at most T √1.4 times that."""
    updates: int = 200
    """Steps of descent."""

    def check(self) -> None:
        super().check()
        for name in ("steps", "points", "starts", "rate", "max_norm", "adjoint_max_norm", "updates"):
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
    starts = np.concatenate([STARTS, around_the_wall(options.starts)])
    paths = []
    with run.progress("descents", len(CLIPS)) as advance:
        for clip in CLIPS:
            max_norm = options.adjoint_max_norm if clip == "adjoint" else options.max_norm
            asked = {"clip": clip, "max_norm": max_norm, "rate": options.rate, "updates": options.updates}
            asked |= {"steps": options.steps}
            paths.append(
                run.rows.compute(asked | {"starts": options.starts}, lambda asked=asked: _paths(starts, **asked))
            )
            advance(note=clip)

    drawn = [
        (row.options["clip"], {name: values[i] for name, values in row.arrays.items()})
        for i in range(len(STARTS))
        for row in paths
    ]
    with harness.plotting():
        figures = [
            surface_figure(run, ws, bs, surface.arrays["error"], drawn),
            above_figure(run, ws, bs, surface.arrays["error"], drawn),
            wall_figure(run, along, {row.options["steps"]: row.arrays["norm"] for row in walls}),
        ]
    columns = ("clip", "max_norm", "thrown_share", "reached_share", "longest_step", "median_last_error")
    table = run.show(harness.Table.of([row.flat for row in paths], columns, "Descents"))
    worst = max(row.values["largest_relative_residual"] for row in walls)
    reading = [
        f"On the wall the gradient's norm is that of the closed form, to {worst:.1e} of it; its largest value in the "
        f"picture is {surface.values['largest_norm']:.3g}.",
        "For w above 4.6 the jump of E lies within "
        f"{surface.values['jump_distance']:.4f} of the line of theory in b; the grid has a point every "
        f"{bs[1] - bs[0]:.4f}.",
    ]
    return harness.Outcome(
        summary={
            "surface": surface.values,
            "walls": [row.flat for row in walls],
            "descents": [row.flat for row in paths],
            "thrown_is_a_step_above": THROWN,
            "reached_is_an_error_below": REACHED,
        },
        report=[harness.Text("What is to be seen", reading), *figures, table],
    )


def _surface(ws: np.ndarray, bs: np.ndarray, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    error, norm = grid(ws, bs, steps)
    steep = ws >= 4.6  # from there on μ^50 is above 50
    jumps = np.abs(np.diff(error[:, steep], axis=0)).argmax(axis=0)
    distance = np.abs((bs[jumps] + bs[jumps + 1]) / 2 - wall(ws[steep]))
    values = {"largest_norm": norm.max(), "jump_distance": float(distance.max())}
    return values, {"error": error, "norm": norm}


def _wall(ws: np.ndarray, steps: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = gradients_at(ws, wall(ws), steps)
    norm, closed = np.hypot(found.w, found.b), np.hypot(*gradient_on_wall(ws, steps))
    residual = np.abs(norm / closed - 1)
    return {"largest_norm": norm.max(), "largest_relative_residual": residual.max()}, {"norm": norm}


def _paths(starts: np.ndarray, **asked: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Shares are of the starts around the wall; arrays those of the descents drawn."""
    found = descend(starts, **asked)
    around = {name: values[len(STARTS) :] for name, values in found.items()}
    values = {
        "thrown_share": float((around["moved"] > THROWN).any(axis=1).mean()),
        "reached_share": float((around["error"] < REACHED).any(axis=1).mean()),
        "longest_step": around["moved"].max(),
        "median_last_error": float(np.median(around["error"][:, -1])),
    }
    return values, {name: array[: len(STARTS)] for name, array in found.items()}


EXPERIMENT = harness.Experiment(
    "cliff",
    cliff.__doc__ or "",
    Options,
    measure,
    quick={"points": 81, "updates": 60, "starts": 4},
    code=("rnnjax", "experiments.cliff.surface"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))
