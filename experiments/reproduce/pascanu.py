"""Of Pascanu, Mikolov and Bengio 2013: the wall of figure 6, and what clipping and Ω make trainable."""

from collections.abc import Callable

import jax
import numpy as np

from experiments.cliff.surface import gradient_on_wall, gradients_at, wall
from experiments.reproduce.row import Found, Row
from experiments.temporal_order.training import METHODS, train

_PAPER = "Pascanu, Mikolov and Bengio 2013"


def _on_the_wall(quick: bool) -> Found:
    """‖∇E‖ where x_0 is a repelling fixed point over its closed form, w = 5.5, T = 50."""
    ws = np.array([5.5])
    found = gradients_at(ws, wall(ws), 50)
    return Found(float(np.hypot(found.w, found.b)[0] / np.hypot(*gradient_on_wall(ws, 50))[0]))


def _solved(method: str) -> Callable[[bool], Found]:
    """Share of five networks of 50 smart tanh units that learn T = 50; the rate is ten times the authors', so that
    thousands of updates do for their millions."""

    def measure(quick: bool) -> Found:
        with_omega = method == METHODS[2]
        asked = {"initialisation": "smart tanh", "steps": 50, "omega": with_omega, "seeds": 5, "seed": 0}
        asked |= {"omega_weight": 4.0 if with_omega else 0.0, "hidden_size": 50, "updates": 4000, "batch": 20}
        with jax.enable_x64(False):
            found, _ = train(asked | {"rate": 0.1, "max_norm": 1.0})
        return Found(float(np.mean(found[method]["solved"])), 5)

    return measure


ROWS = (
    Row(
        name="cliff-wall",
        what="error surface of one unit, w = 5.5, T = 50: gradient on the wall over its closed form",
        published=1.0,
        tolerance=1e-6,
        source=f"{_PAPER}, figure 6; closed form of a repelling fixed point",
        measure=_on_the_wall,
        exact=True,
    ),
    *(
        Row(
            name=f"order-{name}",
            what=f"temporal order, T = 50, 50 tanh units, {method}: share of seeds that solve it",
            published=share,
            tolerance=0.2,
            source=f"{_PAPER}, 4.1: plain descent fails as T grows, clipping and Ω solve 50 to 200; rate 0.1",
            measure=_solved(method),
            full_only=True,
        )
        for name, method, share in (("plain", METHODS[0], 0.0), ("omega", METHODS[2], 1.0))
    ),
)
