"""The curse of memory: a unit that remembers longer is harder to train, even where no gradient explodes.

    h_t = λ h_{t-1} + x_t,   x white, variance 1        E[h²] = 1/(1 - λ²)        E[(∂h/∂λ)²] = (1 + λ²)/(1 - λ²)³

Question: how do the state and its sensitivity to the weight grow as the memory 1/(1 - λ) of a linear unit grows?
Command: python -m experiments.curse_of_memory
Minutes: 0.3 on one core; 0.2 with --quick.
Expected: the state's variance and the sensitivity's second moment lie on the closed forms within a few standard
errors, 5.26 and 263.9 at λ = 0.9. Even relative to the state's variance the sensitivity grows like (1 - λ)^-2, so the
loss of a student that learns a teacher's λ has a valley that narrows as the teacher's memory grows.

Both are measured in float64 with `rnnjax.unroll` and its forward-mode derivative with respect to W2, over many
sequences of white noise, without the transient. In the valley, student and teacher receive the same input, and

    E[(h_λ - h_λ*)²] = 1/(1 - λ²) + 1/(1 - λ*²) - 2/(1 - λ λ*)

whose curvature at λ* is twice the sensitivity's second moment.

Reference: Zucchet and Orvieto, Recurrent neural networks: vanishing and exploding gradients are not the end of the
story, NeurIPS 2024.
"""

import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Lt
from jax import Array
from pydantic import PositiveInt

import rnnjax
from rnnjax.gradients import theory

from . import lab
from .lab import style

_CELL = rnnjax.Elman(1, activation="linear")
Weight = Annotated[float, Gt(-1), Lt(1)]


@lab.options(quick={"sequences": 64, "lambdas": (0.0, 0.5, 0.9, 0.97)})
class Options(lab.Options):
    """State and sensitivity of a linear unit against its memory."""

    lambdas: lab.Distinct[Weight] = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    """Recurrent weights λ of the unit, from -1 to 1, exclusive [dimensionless]."""
    teachers: lab.Distinct[Weight] = (0.5, 0.9, 0.98)
    """Teachers' λ* whose valleys are drawn [dimensionless]."""
    sequences: Annotated[int, Ge(2)] = 256
    """How many sequences of white noise; standard errors are over them."""
    steps: PositiveInt = 4000
    """Length of each, after the transient [steps]."""


def second_moments(lam: float, sequences: int, steps: int, seed: int) -> dict[str, Any]:
    """`state` and `sensitivity`, `[sequences]` each: averages over time of h² and of (∂h/∂λ)²."""
    transient = transient_steps(lam)
    key = jax.random.fold_in(jax.random.key(seed), round((1 + lam) * 1e6))  # noise of its own for every λ
    state, sensitivity = _moments(jnp.asarray(lam), key, sequences, steps + transient, transient)
    return {"state": np.asarray(state), "sensitivity": np.asarray(sensitivity)}


def student_losses(teacher: float, sequences: int, steps: int, seed: int) -> dict[str, Any]:
    """Loss of the students whose closed-form loss is below 2.5 times the teacher's variance, as the figure shows them.

    Returns:
      `students`, their λ, `loss` and its `standard_error` over half as many sequences: `[students]` each.
    """
    grid = np.concatenate([np.linspace(0, 0.9, 19), 1 - np.geomspace(0.09, 0.004, 16)])
    students = grid[(1 - teacher**2) * valley(grid, teacher) < 2.5]
    count, transient = max(2, sequences // 2), transient_steps(max(float(students.max()), abs(teacher)))
    found = _losses(jnp.asarray(students), jnp.asarray(teacher), jax.random.key(seed), count, steps, transient)
    loss, error = np.asarray(found).mean(axis=1), np.asarray(found).std(axis=1, ddof=1) / count**0.5
    return {"students": students, "loss": loss, "standard_error": error}


def valley(lam: np.ndarray, teacher: float) -> np.ndarray:
    """E[(h_λ - h_λ*)²] for white input of variance 1, in closed form."""
    return 1 / (1 - lam**2) + 1 / (1 - teacher**2) - 2 / (1 - lam * teacher)


def transient_steps(lam: float) -> int:
    """20 times the memory 1/(1 - |λ|), in hundreds: then λ^(2t) t² is below 1e-12 of the stationary sensitivity."""
    return int(np.ceil(20 / (1 - abs(lam)) / 100)) * 100


def _noise(key: Array, steps: int, sequences: int) -> Array:
    return jax.random.normal(key, (steps, sequences, 1), "float64")


def _states(lam: Array, xs: Array) -> Array:
    one = jnp.ones((1, 1), xs.dtype)
    params = rnnjax.ElmanParams(w_x=one, w_h=lam * one, b=jnp.zeros(1, xs.dtype))
    return rnnjax.unroll(_CELL, params, xs)[1][..., 0]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _moments(lam: Array, key: Array, sequences: int, steps: int, transient: int) -> tuple[Array, Array]:
    xs = _noise(key, steps, sequences)
    hs, slopes = jax.jvp(lambda lam: _states(lam, xs), (lam,), (jnp.ones_like(lam),))
    return (hs[transient:] ** 2).mean(axis=0), (slopes[transient:] ** 2).mean(axis=0)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _losses(lams: Array, teacher: Array, key: Array, sequences: int, steps: int, transient: int) -> Array:
    """`[lams, sequences]`: mean squared difference between each student and the teacher."""
    xs = _noise(key, steps + transient, sequences)
    target = _states(teacher, xs)
    return jax.lax.map(lambda lam: ((_states(lam, xs) - target)[transient:] ** 2).mean(axis=0), lams)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    sizes = {"sequences": options.sequences, "steps": options.steps, "seed": options.seed}
    moments = run.rows(second_moments, [{"lam": lam, **sizes} for lam in options.lambdas], "weights")
    losses = run.rows(student_losses, [{"teacher": teacher, **sizes} for teacher in options.teachers], "teachers")
    return moments + losses


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    moments, residuals, valleys, losses = [], [], [], [row for row in rows if "teacher" in row]
    for row in (row for row in rows if "lam" in row):
        names, (state, sensitivity) = ("state", "sensitivity"), (row["state"], row["sensitivity"])
        of_state, of_sensitivity = (
            lab.residual(f"{name}, λ = {row['lam']:g}", row[name].mean(), float(closed), unit="1", samples=row[name])
            for name, closed in zip(names, theory.curse_of_memory(row["lam"]), strict=True)
        )
        residuals += [of_state, of_sensitivity]
        ratio = sensitivity.mean() / state.mean()
        influence = (sensitivity - ratio * state) / state.mean()  # first order: both means are of the same sequences
        moments.append({
            "lambda": row["lam"],
            "state_second_moment": of_state["measured"],
            "state_second_moment_standard_error": of_state["standard_error"],
            "sensitivity_second_moment": of_sensitivity["measured"],
            "sensitivity_second_moment_standard_error": of_sensitivity["standard_error"],
            "ratio": ratio,
            "ratio_standard_error": influence.std(ddof=1) / len(influence) ** 0.5,
        })  # fmt: skip
    for row in losses:
        closed, error = valley(row["students"], row["teacher"]), row["standard_error"]
        off = np.abs(row["loss"] - closed)
        valleys.append({
            "teacher": row["teacher"],
            "worst_residual_over_teacher_variance": off.max() * (1 - row["teacher"] ** 2),
            "worst_relative_residual": (off[closed > 0] / closed[closed > 0]).max(),
            "worst_residual_in_standard_errors": (off[error > 0] / error[error > 0]).max(),
        })  # fmt: skip
    relative = max(abs(each["relative_residual"]) for each in residuals)
    worst = max(abs(each["residual"]) / each["standard_error"] for each in residuals)
    off = max(each["worst_residual_over_teacher_variance"] for each in valleys)
    page.text("Results", [
        f"The measured moments differ from the closed forms by at most {100 * relative:.1f}%, or {worst:.1f} standard "
        "errors. No gradient explodes here, and yet the sensitivity grows with the cube of the memory.",
        f"A student's loss follows its closed form within {off:.3f} of the teacher's variance.",
    ])  # fmt: skip
    page.figure(
        "moments",
        _moments_figure(moments),
        alt="Second moments of state and sensitivity against memory on logarithmic axes: straight rising lines, the "
        "sensitivity three times as steep.",
        caption="Measured (markers, two standard errors) and closed form (lines): E[h²] = 1/(1 − λ²) grows with the "
        "memory, E[(∂h/∂λ)²] = (1 + λ²)/(1 − λ²)³ with its cube.",
    )
    page.figure(
        "valley",
        _valley_figure(losses),
        alt="Loss against the student's weight for three teachers: the longer the teacher's memory, the narrower the "
        "valley, with a cliff towards 1.",
        caption="Measured (markers) and closed form (lines). The valley around a teacher with a long memory is narrow "
        "and ends in a wall: a step that suits λ* = 0.5 throws a student out of the valley of λ* = 0.98.",
    )
    page.residuals(residuals, "Second moments, measured and in closed form")
    page.summary |= {"rows": moments, "residuals": residuals, "valleys": valleys}


def _moments_figure(moments: list[dict[str, Any]]) -> style.Figure:
    lams = np.array([row["lambda"] for row in moments])
    fine = 1 - np.geomspace(1 - lams.min(), 1 - lams.max(), 200)
    state, sensitivity = theory.curse_of_memory(fine)
    curves = (
        ("state_second_moment", "state, E[h²]", state),
        ("sensitivity_second_moment", "sensitivity, E[(∂h/∂λ)²]", sensitivity),
        ("ratio", "sensitivity / state", sensitivity / state),
    )
    fig, ax = style.figure(7, 4.6)
    for i, (name, label, closed) in enumerate(curves):
        measured, errors = ([row[each] for row in moments] for each in (name, f"{name}_standard_error"))
        ax.plot(1 / (1 - fine), closed, **style.curve(i))
        ax.errorbar(1 / (1 - lams), measured, 2 * np.array(errors), **style.markers(i), label=label)
    ax.set(title="A linear unit's state and its sensitivity to the weight", xscale="log", yscale="log")
    ax.set(xlabel="memory 1/(1 − λ) [steps]", ylabel="second moment [input variance]")
    ax.legend(loc="upper left")
    return fig


def _valley_figure(losses: list[lab.Row]) -> style.Figure:
    """A student's loss, divided by the teacher's variance, against the student's λ."""
    fig, ax = style.figure(7, 4.2)
    for i, row in enumerate(losses):
        teacher, students = row["teacher"], row["students"]
        fine = 1 - np.geomspace(1 - students.min(), 1 - students.max(), 400)
        ax.plot(fine, (1 - teacher**2) * valley(fine, teacher), **style.curve(i))
        ax.plot(students, (1 - teacher**2) * row["loss"], **style.markers(i), label=f"teacher λ* = {teacher:g}")
    ax.set(title="Loss of a student by the teacher's memory", ylim=(-0.05, 2.5))
    ax.set(xlabel="student's λ", ylabel="loss E[(h − h*)²] / E[h*²]")
    ax.legend()
    return fig


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()
