"""Two pictures: moments against memory, and the valley that narrows."""

from typing import Any

import numpy as np

from experiments import harness
from experiments.curse_of_memory.measure import valley
from experiments.harness import style
from rnnjax.gradients import theory


def moments_figure(run: harness.Run[Any], rows: list[dict[str, Any]]) -> harness.Figure:
    """Markers measured, lines closed form, against the memory 1/(1 - λ)."""
    lams = np.array([row["lambda"] for row in rows])
    fine = 1 - np.geomspace(1 - lams.min(), 1 - lams.max(), 200)
    state, sensitivity = (np.asarray(each) for each in theory.curse_of_memory(fine))
    curves = {
        "state_second_moment": ("state, E[h²]", state, 1.0),
        "sensitivity_second_moment": ("sensitivity, E[(∂h/∂λ)²]", sensitivity, 1.0),
        "ratio": ("sensitivity / state", sensitivity / state, 1.0),
    }
    fig, ax = style.figure(7, 4.6)
    for i, (name, (label, closed, _)) in enumerate(curves.items()):
        look = style.line(i)
        measured = np.array([row[name] for row in rows])
        errors = np.array([row[f"{name}_standard_error"] for row in rows])
        ax.plot(1 / (1 - fine), closed, color=look.color, linestyle=look.linestyle)
        ax.errorbar(1 / (1 - lams), measured, 2 * errors, color=look.color, linestyle="none", marker=look.marker,
                    markerfacecolor="white", capsize=2, label=label)  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("memory 1/(1 − λ) [steps]")
    ax.set_ylabel("second moment [input variance = 1]")
    ax.legend(loc="upper left")
    return run.figure(
        "moments",
        fig,
        alt="Second moments of state and sensitivity against memory on logarithmic axes: straight rising lines, the "
        "sensitivity three times as steep.",
        caption="Measured (markers, two standard errors) on the closed forms (lines): E[h²] = 1/(1 − λ²) grows with "
        "the memory, E[(∂h/∂λ)²] = (1 + λ²)/(1 − λ²)³ with its cube.",
    )


def valley_figure(run: harness.Run[Any], losses: dict[float, dict[str, np.ndarray]]) -> harness.Figure:
    """A student's loss, divided by the teacher's variance, against the student's λ."""
    fig, ax = style.figure(7, 4.2)
    for i, (teacher, found) in enumerate(losses.items()):
        look, scale = style.line(i), 1 - teacher**2  # one over the teacher's variance
        fine = 1 - np.geomspace(1 - found["lambda"].min(), 1 - found["lambda"].max(), 400)
        ax.plot(fine, scale * valley(fine, teacher), color=look.color, linestyle=look.linestyle)
        ax.plot(found["lambda"], scale * found["loss"], look.marker, color=look.color, markerfacecolor="white",
                label=f"teacher λ* = {teacher:g}")  # fmt: skip
    ax.set_ylim(-0.05, 2.5)
    ax.set_xlabel("student's λ")
    ax.set_ylabel("E[(h − h*)²] / E[h*²]")
    ax.legend()
    return run.figure(
        "valley",
        fig,
        alt="Loss against the student's weight for three teachers: the longer the teacher's memory the narrower the "
        "valley, with a cliff towards 1.",
        caption="Measured (markers) on the closed form (lines). The valley around a teacher with a long memory is "
        "narrow and ends in a wall: a step that suits λ* = 0.5 throws a student out of the valley of λ* = 0.98.",
    )
