"""Pictures say what they show: titles, axes, and a mark for each kind, without colour."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import rnnjax
from rnnjax import dynamics
from tests.dynamics.confirmed import elman


def test_points_eigenvalues_and_branches():
    cell, params, x = elman(1.5 * np.eye(2))
    starts = jnp.asarray([[a, b] for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)])
    found = dynamics.fixed_points(cell, params, x, starts, certify=False)
    path = rnnjax.unroll(cell, params, jnp.zeros((20, 1)), carry=jnp.array([0.1, -0.2]))[1]
    figure = Figure(figsize=(12, 4))
    points, plane, diagram = figure.subplots(1, 3)
    axes = dynamics.plot_points(points, found, trajectories=[path])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    dynamics.plot_eigenvalues(plane, list(found.eigenvalues[:2]), ["one", "two"])
    branches = dynamics.continue_in(
        cell, lambda p: params._replace(w_h=p * jnp.eye(2)), x, jnp.zeros((1, 2)), 0.5, between=(0.5, 1.5), step=0.1
    )
    dynamics.plot_branches(diagram, branches)
    for ax in (points, plane, diagram):
        assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()
    labels = [text.get_text() for text in points.get_legend().get_texts()]
    assert labels == ["stable (4)", "one unstable direction (4)", "several unstable directions (1)"]
    marks = {line.get_marker() for line in points.lines if line.get_linestyle() == "None"}
    assert len(marks) == 3
    styles = {line.get_linestyle() for line in diagram.lines}
    assert {"-", "--"} <= styles
