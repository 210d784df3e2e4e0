"""StatLand: the published numbers, and a training that does what it says."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import harness
from experiments.statland import diagram, published, tables, training
from experiments.statland.experiment import EXPERIMENT, Options, train_row, training_rows
from experiments.statland.training import FATES


@pytest.fixture(autouse=True, scope="module")
def as_launched() -> Iterator[None]:
    """float64 as in a run, and ordinary promotion: Optax's Adam mixes its integer count with floats."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


# The published recurrent network; numbers worked out by hand from W1 = 1.8, W2 = -0.5, W3 = 1.1

BY_HAND = [
    (("low", "low"), [0.0, 0.0], 0.0),
    (("low", "medium"), [0.0, 0.9], 0.99),
    (("high", "medium"), [1.8, 0.0], 0.0),
    (("high", "high"), [1.8, 0.9], 0.99),
    (("high", "medium", "medium"), [1.8, 0.0, 0.9], 0.99),
    (("low", "medium", "high", "low"), [0.0, 0.9, 1.35, 0.0], 0.0),
    (("medium",), [0.9], 0.99),
]


@pytest.mark.parametrize(("days", "hidden", "prediction"), BY_HAND)
def test_the_unrolled_network_gives_the_published_numbers(
    days: tuple[str, ...], hidden: list[float], prediction: float
) -> None:
    trace = published.trace(published.published_network(), days)
    assert [step["h"] for step in trace["steps"]] == pytest.approx(hidden, abs=1e-12)
    assert trace["prediction"] == pytest.approx(prediction, abs=1e-12)
    for step in trace["steps"]:
        assert step["h"] == pytest.approx(max(0.0, step["x_w1"] + step["h_w2"] + step["b1"]), abs=1e-15)
        assert step["sum"] == pytest.approx(step["x"] * 1.8 + step["h_before"] * -0.5, abs=1e-15)


def test_it_meets_every_rule_within_a_hundredth() -> None:
    for days, tomorrow in published.RULES:
        trace = published.trace(published.published_network(), days)
        assert trace["reads_as"] == tomorrow
        assert abs(trace["prediction"] - published.DAYS[tomorrow]) <= 0.01 + 1e-12


def test_rows_of_unequal_length_in_one_batch_equal_each_alone() -> None:
    network = published.published_network()
    rows = [days for days, _, _ in BY_HAND]
    together, _ = published.forward(network, published.encode(rows))
    np.testing.assert_allclose(together, [prediction for _, _, prediction in BY_HAND], atol=1e-12)


@pytest.mark.parametrize(
    ("value", "day"),
    [(-3.0, "low"), (0.24, "low"), (0.26, "medium"), (0.74, "medium"), (0.76, "high"), (math.nan, "none")],
)
def test_a_prediction_reads_as_the_nearest_day(value: float, day: str) -> None:
    assert published.reading(value) == day


def test_the_drawing_has_every_number_in_it() -> None:
    network = published.published_network()
    trace = published.trace(network, ("low", "medium", "high", "low"))
    fig = diagram.unrolled(trace, published.weights(network))
    words = "\n".join(text.get_text() for text in fig.axes[0].texts)
    assert [words.count(each) for each in ("W1 = 1.8", "W2 = −0.5", "W3 = 1.1")] == [4, 3, 1]
    for piece in ("day 3: high\nx = 1", "1.8 + (−0.45) + 0\n= 1.35", "h = 1.35", "= −0.675", "reads as low"):
        assert piece in words
    long = diagram.unrolled(published.trace(network, ("high",) * 40), published.weights(network))
    assert any("30 more copies" in text.get_text() for text in long.axes[0].texts)


def test_the_table_prints_outputs_to_a_millionth() -> None:
    table = tables.unrolled(published.trace(published.published_network(), ("low", "medium")), "high")
    assert table.rows[-1][-1] == "0.99" and "low, medium → 0.99, high (rule: high)" in table.caption
    assert tables.exact(0.1234567891) == "0.1234567891" and tables.exact(-0.0) == "0"


# The published LSTM, against a second computation in NumPy with the gates written out one by one


def lstm_by_hand(prices: tuple[float, ...]) -> list[tuple[float, float]]:
    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    h = c = 0.0
    states = []
    for x in prices:
        keep = sigmoid(2.70 * h + 1.63 * x + 1.62)
        add = sigmoid(2.00 * h + 1.65 * x + 0.62)
        candidate = math.tanh(1.41 * h + 0.94 * x - 0.32)
        show = sigmoid(4.38 * h - 0.19 * x + 0.59)
        c = keep * c + add * candidate
        h = show * math.tanh(c)
        states.append((c, h))
    return states


@pytest.mark.parametrize(("company", "prediction"), [("A", 0.0064), ("B", 0.9694)])
def test_the_lstm_tells_the_companies_apart(company: str, prediction: float) -> None:
    prices = published.COMPANIES[company]
    days = published.lstm_trace(prices)
    np.testing.assert_allclose([(day["c"], day["h"]) for day in days], lstm_by_hand(prices), rtol=1e-12)
    assert round(days[-1]["h"], 4) == prediction
    for before, day in itertools.pairwise(days):
        assert (day["h_before"], day["c_before"]) == (before["h"], before["c"])
    for day in days:
        assert day["c"] == pytest.approx(day["forget"] * day["c_before"] + day["input"] * day["candidate"], rel=1e-12)
        assert day["h"] == pytest.approx(day["output"] * math.tanh(day["c"]), rel=1e-12)


# Training, against gradient descent with the chain rule written out


def descend_by_hand(w: list[float], rate: float, clip: float | None, updates: int) -> list[tuple[float, list[float]]]:
    """(loss before, weights after) of each update of W1, W2, b1, W3, b2."""
    told = []
    for _ in range(updates):
        w1, w2, b1, w3, b2 = w
        total, gradient = 0.0, [0.0] * 5
        for days, tomorrow in published.RULES:
            x1, x2 = (published.DAYS[day] for day in days)
            s1 = x1 * w1 + b1
            h1 = max(0.0, s1)
            s2 = x2 * w1 + h1 * w2 + b1
            h2 = max(0.0, s2)
            residual = h2 * w3 + b2 - published.DAYS[tomorrow]
            total += residual**2
            d_s2 = 2 * residual * w3 * (s2 > 0)
            d_s1 = d_s2 * w2 * (s1 > 0)
            parts = (d_s2 * x2 + d_s1 * x1, d_s2 * h1, d_s2 + d_s1, 2 * residual * h2, 2 * residual)
            gradient = [g + part for g, part in zip(gradient, parts, strict=True)]
        norm = math.sqrt(sum(g * g for g in gradient))
        factor = 1.0 if clip is None or norm < clip else clip / norm
        w = [value - rate * factor * g for value, g in zip(w, gradient, strict=True)]
        told.append((total, w))
    return told


@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_is_gradient_descent_through_the_unrolled_copies(clip: float | None) -> None:
    seeds, updates = 6, 40
    starts = training.draw_seeds(3, seeds)
    trained = training.train_seeds(3, seeds, updates, "sgd", 0.05, clip, three_days=False)
    kept = training.curve_steps(updates)
    for s in range(seeds):
        start = list(published.weights(jax.tree.map(lambda leaf, s=s: leaf[s], starts)).values())
        told = descend_by_hand(start, 0.05, clip, updates)
        end = published.weights(jax.tree.map(lambda leaf, s=s: leaf[s], trained.network))
        np.testing.assert_allclose(list(end.values()), told[-1][1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(trained.losses[s, :-1], [told[k][0] for k in kept], rtol=1e-9)


def test_the_table_of_first_updates_is_the_training_itself() -> None:
    shown = training.first_updates(seed=0, seeds=64, index=0, learning_rate=0.1, clip_norm=1.0, count=5)
    told = descend_by_hand(list(shown[0]["weights"].values()), 0.1, 1.0, 5)
    for update, (total, after) in zip(shown, told, strict=True):
        assert update["loss"] == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(list(update["weights_after"].values()), after, rtol=1e-12)
        for name, before in update["weights"].items():
            step = 0.1 * update["clip_factor"] * update["gradient"][name]
            assert update["weights_after"][name] == pytest.approx(before - step, rel=1e-12, abs=1e-15)
    assert shown[0]["clip_factor"] < 1  # so the clipping is to be seen


def test_the_same_seed_starts_from_the_same_networks_whatever_the_optimizer() -> None:
    losses = [
        np.asarray(training.train_seeds(7, 5, 1, name, 0.01, clip, False).losses[:, 0])
        for name, clip in (("sgd", None), ("adam", 1.0))
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert len(np.unique(training.draw_seeds(7, 5).rnn.w_x)) == 5


def network(w1: float, w2: float, b1: float, w3: float, b2: float) -> published.Network:
    rnn = published.published_network().rnn._replace(w_x=jnp.array([[w1]]), w_h=jnp.array([[w2]]), b=jnp.array([b1]))
    return published.Network(rnn, jnp.array(w3), jnp.array(b2))


def test_every_seed_has_the_fate_it_deserves() -> None:
    cases = {
        "learned": network(1.8, -0.5, 0.0, 1.1, 0.0),
        "stuck": network(1.0, 0.5, 0.0, 1.0, 0.0),
        "dead": network(-1.0, 0.3, 0.0, 1.0, 0.5),
        "diverged": network(1.8, -0.5, 0.0, math.nan, 0.0),
    }
    exploded = network(-1.0, 0.0, 0.0, 1.0, 1e30)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases.values(), exploded)
    judged = training.judge(together, 0.1)
    assert [FATES[index] for index in judged.fates] == [*cases, "diverged"]
    assert judged.reads_right.tolist() == [True, False, False, False, False]
    assert judged.three_days[0] == pytest.approx(0.99)
    assert FATES[training.judge(together, 0.001).fates[0]] == "stuck"  # 0.99 is not within 0.001 of 1


def test_a_dead_unit_gets_no_gradient_and_can_only_say_one_half() -> None:
    dead = network(-1.0, 0.3, 0.0, 1.0, 0.0)
    gradient = published.weights(jax.grad(lambda n: training.loss(n, training.lesson(False))[0])(dead))
    assert [gradient[name] for name in ("W1", "W2", "b1", "W3")] == [0.0] * 4 and gradient["b2"] != 0
    trained = training.train_seeds(0, 32, 400, "sgd", 0.1, None, three_days=False)
    before, after = training.judge(training.draw_seeds(0, 32), 0.1), training.judge(trained.network, 0.1)
    was, now = before.fates == FATES.index("dead"), after.fates == FATES.index("dead")
    assert was.any() and now[was].all()
    np.testing.assert_array_equal(was, np.asarray(training.draw_seeds(0, 32).rnn.w_x)[:, 0, 0] < 0)
    np.testing.assert_allclose(np.asarray(trained.losses)[now, -1], 1.0, rtol=1e-9)


def test_the_row_of_three_days_counts_only_when_asked() -> None:
    here = network(1.0, 0.5, 0.1, 1.0, 0.2)
    four, five = (training.loss(here, training.lesson(three))[0] for three in (False, True))
    third, _ = published.forward(here, published.encode([published.THREE_DAYS]))
    assert float(five - four) == pytest.approx((float(third[0]) - 1.0) ** 2, rel=1e-12)


def test_clipping_lets_more_seeds_learn_by_gradient_descent() -> None:
    rows = [row for row in training_rows(Options(steps=600)) if row["optimizer"] == "sgd"]
    shares = [train_row(row)[0]["share_learned"] for row in rows]
    assert [row["clip_norm"] for row in rows] == [None, 1.0]
    assert 0.1 < shares[0] < shares[1] < 0.4


# The whole


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statland")
    assert harness.launch(EXPERIMENT, ["--quick", "--steps", "30", "--seeds", "8", "--out", str(path)]) == 0
    return path


def test_the_folder_has_all_three_sections(result: Path) -> None:
    def refuse(token: str) -> Any:
        raise AssertionError(token)

    summary = json.loads((result / "summary.json").read_text(), parse_constant=refuse)
    predictions = {tuple(row["days"]): row["prediction"] for row in summary["published_rnn"]["rows"]}
    for days, _, prediction in BY_HAND[:5]:
        assert predictions[days] == pytest.approx(prediction, abs=1e-6)
    lstm = {each["company"]: each["prediction"] for each in summary["published_lstm"]["companies"]}
    assert {name: round(value, 4) for name, value in lstm.items()} == {"A": 0.0064, "B": 0.9694}
    assert len(summary["rows"]) == 4
    for row in summary["rows"]:
        assert sum(row[f"share_{fate}"] for fate in FATES) == pytest.approx(1)
    for figure in summary["figures"]:
        assert (result / figure["png"]).exists() and (result / figure["svg"]).exists() and figure["alt"]
    page = (result / "report.html").read_text()
    assert page.count("<figure>") == len(summary["figures"]) == 5 and "0.969393" in page and "0.99" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--days", "low", "huge"], "--days has 'huge'; the words are low, medium, high."),
        (["--days"], "--days is empty"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--steps", "-5"], "--steps is -5"),
        (["--sgd-learning-rate", "nan"], "--sgd-learning-rate is nan"),
        (["--adam-learning-rate", "inf"], "--adam-learning-rate is inf"),
        (["--clip-norm", "0"], "--clip-norm is 0"),
        (["--tolerance", "-0.1"], "--tolerance is -0.1"),
        (["--show-updates", "0"], "--show-updates is 0"),
    ],
)
def test_bad_options_are_one_line_before_any_work(tmp_path: Path, capsys: Any, arguments: list[str], says: str) -> None:
    assert harness.launch(EXPERIMENT, [*arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and said.startswith("error: ") and "\n" not in said
    assert not (tmp_path / "out").exists()
