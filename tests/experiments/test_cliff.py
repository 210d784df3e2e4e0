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
    """E in NumPy, and its gradient by central differences, on a grid `[b, w]`."""
    ws, bs = np.array([4.1, 5.0, 6.2]), np.array([-3.1, -2.0])
    error, norm = cliff.grid(ws, bs, 12)
    for (i, j), value in np.ndenumerate(error):
        w, b, h = ws[j], bs[i], 1e-6
        np.testing.assert_allclose(value, by_numpy(w, b, 12), rtol=1e-12)
        by_w = (by_numpy(w + h, b, 12) - by_numpy(w - h, b, 12)) / (2 * h)
        by_b = (by_numpy(w, b + h, 12) - by_numpy(w, b - h, 12)) / (2 * h)
        np.testing.assert_allclose(norm[i, j], np.hypot(by_w, by_b), rtol=1e-6)


def test_the_closed_forms():
    """On the wall the state stands still and the gradient is a sum of powers, also where the slope is 1; the fold is
    where a fixed point is double."""
    ws = np.array([3.0, cliff.EDGE, 4.5, 5.0])
    found = cliff.gradients_at(ws, cliff.wall(ws), 20)
    np.testing.assert_allclose([found.w, found.b], cliff.gradient_on_wall(ws, 20), rtol=1e-10)
    np.testing.assert_allclose(cliff.wall(ws) + ws * cliff.sigmoid(0.5), 0.5, rtol=1e-14)
    fold = cliff.fold(ws)
    assert np.isnan(fold[0]) and np.isfinite(fold[2:]).all()
    for w, b in zip(ws[2:], fold[2:], strict=True):
        y = (1 + np.sqrt(1 - 4 / w)) / 2
        np.testing.assert_allclose([w * y + b, w * y * (1 - y)], [np.log(y / (1 - y)), 1], rtol=1e-12)


def test_first_steps_are_clipped_where_they_say():
    start, rate, limit = np.array([[5.0, float(cliff.wall(np.array(5.0)))]]), 0.5, 1e-3
    y = cliff.sigmoid(0.5)
    first = 2 * (0.7 - y) * y * (1 - y)  # |dE/dx_T|: not clipped, as it comes from the loss and not from a step
    assert first > limit
    expected = {
        "none": np.hypot(*cliff.gradient_on_wall(np.array([5.0]), 50))[0],
        "gradient": limit,
        "adjoint": (first + 49 * limit) * np.hypot(1, y),
    }
    for clip, norm in expected.items():
        moved = cliff.descend(start, clip, limit, rate, 1, 50)["moved"]
        np.testing.assert_allclose(moved[0, 0], rate * norm, rtol=1e-8)
