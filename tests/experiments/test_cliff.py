"""The cliff: its unit against NumPy, its closed forms against differences, and clipped steps by hand."""

from typing import Any

import numpy as np

from experiments import cliff


def by_numpy(w: Any, b: Any, steps: int) -> Any:
    x = 0.5
    for _ in range(steps):
        x = w / (1 + np.exp(-x)) + b
    return (1 / (1 + np.exp(-x)) - 0.7) ** 2


def test_the_surface_is_the_papers():
    """E in NumPy, and its gradient by central differences."""
    ws, bs = np.array([4.1, 5.0, 6.2]), np.array([-3.1, -2.0, -2.4])
    error, found = cliff.value_and_gradient(ws, bs, 12)
    h = 1e-6
    by_w = (by_numpy(ws + h, bs, 12) - by_numpy(ws - h, bs, 12)) / (2 * h)
    by_b = (by_numpy(ws, bs + h, 12) - by_numpy(ws, bs - h, 12)) / (2 * h)
    np.testing.assert_allclose(error, by_numpy(ws, bs, 12), rtol=1e-12)
    np.testing.assert_allclose([found.w, found.b], [by_w, by_b], rtol=1e-6)


def test_the_closed_forms():
    """On the wall the state stands still and the gradient is a sum of powers, also where the slope is 1; the fold is
    where a fixed point is double."""
    ws = np.array([3.0, cliff.EDGE, 4.5, 5.0])
    _, found = cliff.value_and_gradient(ws, cliff.wall(ws), 20)
    np.testing.assert_allclose([found.w, found.b], cliff.gradient_on_wall(ws, 20), rtol=1e-10)
    np.testing.assert_allclose(cliff.wall(ws) + ws * cliff.sigmoid(0.5), 0.5, rtol=1e-14)
    fold = cliff.fold(ws)
    assert np.isnan(fold[0]) and np.isfinite(fold[2:]).all()
    y = (1 + np.sqrt(1 - 4 / ws[2:])) / 2
    np.testing.assert_allclose(ws[2:] * y + fold[2:], np.log(y / (1 - y)), rtol=1e-12)
    np.testing.assert_allclose(ws[2:] * y * (1 - y), 1, rtol=1e-12)


def test_first_steps_are_clipped_where_they_say():
    start, rate, limit = np.array([[5.0, float(cliff.wall(np.array(5.0)))]]), 0.5, 1e-3
    y = cliff.sigmoid(0.5)
    first = 2 * (0.7 - y) * y * (1 - y)  # |dE/dx_T|: not clipped, as it comes from the loss and not from a step
    assert first > limit
    norms = np.hypot(*cliff.gradient_on_wall(np.array([5.0]), 50))[0], limit, (first + 49 * limit) * np.hypot(1, y)
    for clip, norm in zip(("none", "gradient", "adjoint"), norms, strict=True):
        moved = cliff.descend(start, clip, limit, rate, 1, 50)["moved"]
        np.testing.assert_allclose(moved[0, 0], rate * norm, rtol=1e-8)
