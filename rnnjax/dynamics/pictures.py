"""Pictures of fixed points, eigenvalues and branches, drawn into matplotlib's axes that the caller makes.

Stability and index are told apart by marks and lines as well as by the colours, which are those of Okabe and Ito, so
that pictures can be read in grey and by the colour-blind.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from rnnjax.cell import PyTree
from rnnjax.dynamics.continuation import BRANCHING, FLIP, FOLD, NEIMARK_SACKER, Branch
from rnnjax.dynamics.fixed_points import LINE, SLOW, SURFACE, FixedPoints
from rnnjax.dynamics.problem import rows_of

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#E69F00", "#009E73", "#8c8c8c", "#000000"
KINDS: tuple[tuple[str, str, str, bool], ...] = (
    ("stable", "o", BLUE, True),
    ("one unstable direction", "^", ORANGE, False),
    ("several unstable directions", "s", BLACK, False),
    ("slow point", "x", GREY, True),
    ("continuum", "D", GREEN, True),
)
MARKS = {FOLD: "<", BRANCHING: "P", FLIP: "d", NEIMARK_SACKER: "*"}


def plot_points(ax: Any, found: FixedPoints, *, trajectories: Sequence[PyTree] = ()) -> np.ndarray:
    """Fixed points, and trajectories, in the first two principal components of all of them.

    Args:
      ax: a matplotlib `Axes`.
      found: the points; one with several unstable directions has their number beside it.
      trajectories: carries with leaves `[T, ...]`, drawn as thin lines.
    Returns:
      `[2, S]`, the directions of the two axes (`[1, S]`, and time across, if S is 1).

    Example: `fig, ax = matplotlib.pyplot.subplots(); plot_points(ax, found)`.
    """
    points, paths = rows_of(found.carry), [rows_of(path) for path in trajectories]
    lines = [rows_of(line) for line in found.line if line is not None]
    everything = np.concatenate([points, *lines, *paths])
    centre = everything.mean(0)
    axes = np.linalg.svd(everything - centre, full_matrices=False)[2][:2]

    def seen(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = (rows - centre) @ axes.T
        return at[:, 0], at[:, 1] if at.shape[1] > 1 else np.zeros(len(at))

    for path in paths:
        ax.plot(*seen(path), color=GREY, linewidth=0.6, zorder=1)
    for line in lines:
        ax.plot(*seen(line), color=GREEN, linewidth=3, alpha=0.6, zorder=2)
    across, up = seen(points)
    group = _groups(found)
    for number, (label, mark, color, filled) in enumerate(KINDS):
        own = group == number
        if own.any():
            face = color if filled else "white"
            look: dict[str, Any] = {"color": color, "markerfacecolor": face, "linestyle": "none", "zorder": 3}
            ax.plot(across[own], up[own], marker=mark, label=f"{label} ({own.sum()})", **look)
    for i in np.flatnonzero(group == 2):
        ax.annotate(str(found.index[i]), (across[i], up[i]), (4, 4), textcoords="offset points", fontsize="small")
    ax.set(xlabel="first principal component", ylabel="second principal component", title="Fixed points")
    ax.legend()
    return axes


def plot_eigenvalues(ax: Any, eigenvalues: ArrayLike | Sequence[ArrayLike], labels: Sequence[str] = ()) -> None:
    """Eigenvalues in the complex plane, with the unit circle.

    Args:
      ax: a matplotlib `Axes`.
      eigenvalues: `[S]`, or several of those, each with its own mark.
      labels: one for each.
    """
    given: Any = eigenvalues
    several: list[Any] = [np.asarray(each) for each in (given if np.ndim(given[0]) else [given])]
    angle = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(angle), np.sin(angle), color=GREY, linewidth=1, zorder=1)
    ax.axhline(0, color=GREY, linewidth=0.4, zorder=0)
    for number, values in enumerate(several):
        _, mark, color, _ = KINDS[number % len(KINDS)]
        look: dict[str, Any] = {"marker": mark, "color": color, "linestyle": "none", "zorder": 2}
        face = color if mark == "x" else "none"
        ax.plot(values.real, values.imag, markerfacecolor=face, label=[*labels, ""][min(number, len(labels))], **look)
    ax.set_aspect("equal")
    ax.set(xlabel="real part of λ", ylabel="imaginary part of λ", title="Eigenvalues and the unit circle")
    if labels:
        ax.legend()


def plot_branches(
    ax: Any, branches: Sequence[Branch], of: Callable[[PyTree], float] | None = None, name: str = "first unit"
) -> None:
    """A bifurcation diagram: solid where a branch is stable, dashed where it is not, with marks at bifurcations.

    Args:
      ax: a matplotlib `Axes`.
      branches: what `continue_in` returns.
      of: what to draw of a carry; by default its first number.
      name: of what is drawn.
    """
    drawn = of or (lambda carry: float(np.ravel(jax.tree.leaves(carry)[0])[0]))
    labelled: set[str] = set()

    def once(label: str) -> str:
        return "" if label in labelled else (labelled.add(label) or label)

    for branch in branches:
        heights = np.array([drawn(jax.tree.map(lambda leaf: leaf[i], branch.carry)) for i in range(len(branch.values))])  # noqa: B023
        pieces = np.flatnonzero(np.diff(branch.stable.astype(int))) + 1
        for first, last in zip([0, *pieces], [*pieces, len(heights)], strict=True):
            own = slice(max(first - 1, 0), last)  # with the point before, so that there is no gap
            stable = bool(branch.stable[first])
            look: dict[str, Any] = {"linestyle": "-" if stable else "--", "linewidth": 1.8 if stable else 1.0}
            label = once("stable" if stable else "unstable")
            ax.plot(branch.values[own], heights[own], color=BLUE if stable else ORANGE, label=label, **look)
        for found in branch.bifurcations:
            at: dict[str, Any] = {"marker": MARKS[found.kind], "color": BLACK, "linestyle": "none", "zorder": 3}
            ax.plot([found.value], [drawn(found.carry)], label=once(found.kind), **at)
    ax.set(xlabel="parameter", ylabel=name, title="Branches of fixed points")
    ax.legend()


def _groups(found: FixedPoints) -> np.ndarray:
    """The place of each point in `KINDS`."""
    group = np.minimum(np.where(found.stable, 0, np.maximum(found.index, 1)), 2)
    group = np.where(found.kind == SLOW, 3, group)
    return np.where((found.kind == LINE) | (found.kind == SURFACE), 4, group)
