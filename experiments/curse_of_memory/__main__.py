"""Runs `experiments.curse_of_memory`; see its docstring."""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments import curse_of_memory, harness
from experiments.curse_of_memory.figure import moments_figure, valley_figure
from experiments.curse_of_memory.measure import second_moments, student_losses, valley
from rnnjax.gradients import theory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """State and sensitivity of a linear unit against its memory."""

    lambdas: tuple[float, ...] = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    """Recurrent weights λ of the unit, from -1 to 1, exclusive [dimensionless]."""
    teachers: tuple[float, ...] = (0.5, 0.9, 0.98)
    """Teachers' λ* whose valleys are drawn [dimensionless]."""
    sequences: int = 256
    """How many sequences of white noise; standard errors are over them."""
    steps: int = 4000
    """Length of each, after the transient [steps]."""

    def check(self) -> None:
        super().check()
        for name in ("lambdas", "teachers"):
            values = getattr(self, name)
            if not values or not all(-1 < value < 1 for value in values):
                raise harness.UsageError(f"--{name} is {values}; give at least one, each between -1 and 1, exclusive.")
        harness.positive("--sequences", self.sequences - 1)
        harness.positive("--steps", self.steps)


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options = run.options
    sizes = {"sequences": options.sequences, "steps": options.steps, "seed": options.seed}
    rows, residuals, losses = [], [], {}
    with run.progress("settings", len(options.lambdas) + len(options.teachers)) as advance:
        for lam in options.lambdas:
            found = run.rows.compute({"lambda": lam, **sizes}, lambda lam=lam: second_moments(lam, **sizes)).values
            row, compared = _row(lam, np.array(found["state"]), np.array(found["sensitivity"]))
            rows.append(row)
            residuals += compared
            advance(note=f"λ = {lam:g}")
        for teacher in options.teachers:
            kept = run.rows.compute({"teacher": teacher, **sizes}, lambda teacher=teacher: _losses(teacher, **sizes))
            losses[teacher] = {name: np.array(values) for name, values in kept.values.items()}
            advance(note=f"λ* = {teacher:g}")
    valleys = [_valley_row(teacher, found) for teacher, found in losses.items()]
    with harness.plotting():
        drawn = [moments_figure(run, rows), valley_figure(run, losses)]
    table = run.show(harness.residual_table(residuals, "Second moments, measured against closed form"))
    return harness.Outcome(
        summary={"rows": rows, "residuals": residuals, "valleys": valleys},
        report=[harness.Text("What is to be seen", _reading(residuals, valleys)), *drawn, table],
    )


def _row(lam: float, state: np.ndarray, sensitivity: np.ndarray) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    closed_state, closed_sensitivity = (float(each) for each in theory.curse_of_memory(lam))
    row: dict[str, Any] = {"lambda": lam}
    compared = []
    for name, samples, closed in (
        ("state", state, closed_state),
        ("sensitivity", sensitivity, closed_sensitivity),
    ):
        one = harness.residual(f"{name}, λ = {lam:g}", samples.mean(), closed, unit="1", samples=samples.tolist())
        row |= {f"{name}_second_moment": one["measured"], f"{name}_second_moment_standard_error": one["standard_error"]}
        compared.append(one)
    ratio = sensitivity.mean() / state.mean()
    influence = (sensitivity - ratio * state) / state.mean()  # first order: the two means are of the same sequences
    row |= {"ratio": ratio, "ratio_standard_error": influence.std(ddof=1) / len(state) ** 0.5}
    return row, compared


def _losses(teacher: float, sequences: int, steps: int, seed: int) -> dict[str, Any]:
    """The students whose closed-form loss is within 2.5 of the teacher's variance, as the figure shows."""
    grid = np.concatenate([np.linspace(0, 0.9, 19), 1 - np.geomspace(0.09, 0.004, 16)])
    students = grid[(1 - teacher**2) * valley(grid, teacher) < 2.5]
    loss = student_losses(students, teacher, max(2, sequences // 2), steps, seed)
    count = loss.shape[1]
    return {
        "lambda": students,
        "loss": loss.mean(axis=1),
        "standard_error": loss.std(axis=1, ddof=1) / count**0.5,
    }


def _valley_row(teacher: float, found: dict[str, np.ndarray]) -> dict[str, Any]:
    closed = valley(found["lambda"], teacher)
    off = np.abs(found["loss"] - closed)
    relative = off[closed > 0] / closed[closed > 0]
    errors = np.divide(off, found["standard_error"], out=np.zeros_like(off), where=found["standard_error"] > 0)
    return {
        "teacher": teacher,
        "worst_residual_over_teacher_variance": float(off.max() * (1 - teacher**2)),
        "worst_relative_residual": float(relative.max()),
        "worst_residual_in_standard_errors": float(errors.max()),
    }


def _reading(residuals: list[dict[str, Any]], valleys: list[dict[str, Any]]) -> list[str]:
    worst = max(abs(each["residual"]) / each["standard_error"] for each in residuals if each["standard_error"])
    relative = max(abs(each["relative_residual"]) for each in residuals if each["relative_residual"] is not None)
    return [
        f"The measured moments differ from the closed forms by {100 * relative:.1f}% at most, or {worst:.1f} standard "
        "errors; no gradient explodes here, and yet the sensitivity grows with the cube of the memory.",
        "A student's loss follows its closed form within "
        f"{max(each['worst_residual_over_teacher_variance'] for each in valleys):.3f} of the teacher's variance.",
    ]


EXPERIMENT = harness.Experiment(
    "curse_of_memory",
    curse_of_memory.__doc__ or "",
    Options,
    measure,
    quick={"sequences": 64, "lambdas": (0.0, 0.5, 0.9, 0.97)},
    code=("rnnjax", "experiments.curse_of_memory.measure"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))
