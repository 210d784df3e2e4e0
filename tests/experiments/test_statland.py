"""StatLand: the published numbers, and a training that does what it says."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.statland import __main__ as command
from experiments.statland import published, training


@pytest.fixture(autouse=True, scope="module")
def as_launched():
    """float64 as in a run, and ordinary promotion: Optax's Adam mixes its integer count with floats."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


BY_HAND = [  # worked out from W1 = 1.8, W2 = -0.5, W3 = 1.1
    (("low", "low"), [0.0, 0.0], 0.0),
    (("low", "medium"), [0.0, 0.9], 0.99),
    (("high", "medium"), [1.8, 0.0], 0.0),
    (("high", "high"), [1.8, 0.9], 0.99),
    (("high", "medium", "medium"), [1.8, 0.0, 0.9], 0.99),
    (("low", "medium", "high", "low"), [0.0, 0.9, 1.35, 0.0], 0.0),
]


def test_the_published_networks_give_the_published_numbers():
    for days, hidden, prediction in BY_HAND:
        trace = published.trace(days)
        assert [step["h"] for step in trace["steps"]] == pytest.approx(hidden, abs=1e-12)
        assert trace["prediction"] == pytest.approx(prediction, abs=1e-12)
        assert trace["reads_as"] == dict(published.RULES).get(days, trace["reads_as"])
    together = np.array(training.forward(training.published_network(), [days for days, _, _ in BY_HAND]))
    np.testing.assert_allclose(together.T, [(said, hidden[-1]) for _, hidden, said in BY_HAND], atol=1e-12)
    for company, prediction in (("A", 0.0064), ("B", 0.9694)):
        last = published.lstm_trace(published.COMPANIES[company])[-1]["h"]
        assert round(last, 4) == prediction
        np.testing.assert_allclose(last, training.lstm_prediction(published.COMPANIES[company]), rtol=1e-12)


def test_days_alone_are_answered_without_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--days", "low", "medium"]) == 0
    assert "low, medium → 0.99, high (rule: high)" in capsys.readouterr().out and not list(tmp_path.iterdir())
    (row,) = command.experiment(days=("high", "low"))
    assert row["prediction"] == 0 and "fate" not in row
    assert command.main(["--days"]) == 2 and "--days is" in capsys.readouterr().err


def descend_by_hand(w: list[float], rate: float, clip: float | None, updates: int) -> list[tuple[float, list[float]]]:
    """(loss before, weights after) of each update of W1, W2, b1, W3, b2, with the chain rule written out."""
    told = []
    for _ in range(updates):
        w1, w2, b1, w3, b2 = w
        total, gradient = 0.0, [0.0] * 5
        for days, tomorrow in published.RULES:
            x1, x2 = (published.DAYS[day] for day in days)
            h1 = max(0.0, x1 * w1 + b1)
            h2 = max(0.0, x2 * w1 + h1 * w2 + b1)
            residual = h2 * w3 + b2 - published.DAYS[tomorrow]
            total += residual**2
            d_s2 = 2 * residual * w3 * (h2 > 0)
            d_s1 = d_s2 * w2 * (h1 > 0)
            parts = (d_s2 * x2 + d_s1 * x1, d_s2 * h1, d_s2 + d_s1, 2 * residual * h2, 2 * residual)
            gradient = [g + part for g, part in zip(gradient, parts, strict=True)]
        factor = 1.0 if clip is None else min(1.0, clip / math.hypot(*gradient))
        w = [value - rate * factor * g for value, g in zip(w, gradient, strict=True)]
        told.append((total, w))
    return told


@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_is_gradient_descent_through_the_unrolled_copies(clip):
    asked = {"seed": 3, "steps": 40, "tolerance": 0.1, "train_three_days": False}
    asked |= {"optimizer": "sgd", "learning_rate": 0.05, "clip_norm": clip}
    rows = training.train([asked | {"index": index} for index in range(6)])
    for start, row in zip(training.draw(3, range(6)), rows, strict=True):
        told = descend_by_hand(start.tolist(), 0.05, clip, 41)
        np.testing.assert_allclose(row["loss"], [told[k][0] for k in [*training.curve_steps(40), 40]], rtol=1e-9)
        assert row["dead_at_start"] == (start[0] < 0) and (row["fate"] == "dead" or not row["dead_at_start"])
    np.testing.assert_array_equal(training.draw(3, [4]), training.draw(3, range(5))[4:])


def test_the_table_of_first_updates_is_the_training_itself():
    shown = training.first_updates(seed=0, index=0, learning_rate=0.1, clip_norm=1.0, count=5)["updates"]
    told = descend_by_hand(list(shown[0]["weights"].values()), 0.1, 1.0, 5)
    for update, (total, after) in zip(shown, told, strict=True):
        before, gradient = (np.array(list(update[name].values())) for name in ("weights", "gradient"))
        np.testing.assert_allclose(list(update["weights_after"].values()), after, rtol=1e-12)
        np.testing.assert_allclose(before - 0.1 * update["clip_factor"] * gradient, after, rtol=1e-12)
        assert update["loss"] == pytest.approx(total, rel=1e-12)
    assert shown[0]["clip_factor"] < 1


def test_every_seed_has_the_fate_it_deserves():
    learned, stuck, dead = [1.8, -0.5, 0.0, 1.1, 0.0], [1.0, 0.5, 0.0, 1.0, 0.0], [-1.0, 0.3, 0.0, 1.0, 0.5]
    diverged = [1.8, -0.5, 0.0, math.nan, 0.0], [-1.0, 0.0, 0.0, 1.0, 1e30]
    judged = training.judge(jnp.array([learned, stuck, dead, *diverged]), 0.1)
    assert [each["fate"] for each in judged] == ["learned", "stuck", "dead", "diverged", "diverged"]
    assert [each["reads_right"] for each in judged] == [True] + 4 * [False]
    assert training.judge(jnp.array([learned]), 0.001)[0]["fate"] == "stuck"  # 0.99 is not within 0.001 of 1


def test_the_loss_counts_three_days_only_when_asked_and_gives_a_dead_unit_no_gradient():
    here = jnp.array([1.0, 0.5, 0.1, 1.0, 0.2])
    four, five = (training.loss(here, three)[0] for three in (False, True))
    third, _ = training.forward(here, [published.THREE_DAYS])
    assert float(five - four) == pytest.approx((float(third[0]) - 1.0) ** 2, rel=1e-12)
    gradient = jax.grad(lambda w: training.loss(w)[0])(jnp.array([-1.0, 0.3, 0.0, 1.0, 0.0]))
    assert gradient[:4].tolist() == [0.0] * 4 and gradient[4] != 0
