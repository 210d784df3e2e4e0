"""Stocks: nothing of the future is known, what can be predicted is found, and what cannot is not."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lab
from experiments.stocks import Options, training, walk

STEPS, DAYS = 10, 126
DOCS = Path(__file__).parents[2] / "docs" / "stocks" / "summary.json"


@pytest.fixture(scope="module")
def real():
    return walk.load("stocks")


def changed(panel, day):
    """The same past, another future."""
    values = panel.values.copy()
    values[day:] = 3 * values[day:] + 0.05
    return panel._replace(values=values)


def test_folds_follow_each_other_and_know_only_the_past(real):
    folds = walk.walk_forward(real, 16, DAYS, 30)
    assert (np.diff(folds.first) == DAYS).all() and folds.first[-1] + DAYS == len(real.dates)
    np.testing.assert_array_equal(folds.truth[:, :, 0].ravel(), real.values[folds.first[0] :, 0])
    assert (folds.cut + walk.CURVE_DAYS == folds.first).all()
    assert folds.served[:, 0].all() and folds.served[:, 1].tolist() == [False] * 15 + [True]  # FB came in 2012
    past = real.values[: folds.cut[3], 0]
    np.testing.assert_allclose([folds.mean[3, 0], folds.std[3, 0]], [past.mean(), past.std()], rtol=1e-14)
    other = walk.walk_forward(changed(real, folds.cut[7]), 16, DAYS, 30)
    for ours, theirs in ((folds.mean, other.mean), (folds.std, other.std)):
        np.testing.assert_array_equal(ours[:8], theirs[:8])
        assert (ours[8, 0] != theirs[8, 0]).all()


def test_no_baseline_knows_the_day_that_it_forecasts(real):
    for name in walk.BASELINES:
        folds = walk.walk_forward(real, 3, DAYS, 30)
        day, own = int(folds.first[1]) + 5, walk.forecasts(name, real, folds)
        panel = changed(real, day)
        other = walk.forecasts(name, panel, walk.walk_forward(panel, 3, DAYS, 30))
        np.testing.assert_array_equal(own.reshape(-1, 5)[: DAYS + 6], other.reshape(-1, 5)[: DAYS + 6])
        assert name == "persistence" or own[2, 0, 0] != other[2, 0, 0]


def test_baselines_are_what_they_say(real):
    folds = walk.walk_forward(real, 2, DAYS, 30)
    day, own = int(folds.first[1]) + 9, real.values[:, 3]
    said = {name: walk.forecasts(name, real, folds)[1, 9, 3] for name in walk.BASELINES}
    rows = [[1.0, *own[t - 5 : t][::-1]] for t in range(5, folds.cut[1])]  # one by one
    weights = np.linalg.lstsq(np.array(rows), own[5 : folds.cut[1]], rcond=None)[0]
    expected = {"persistence": 0, "drift": own[: folds.cut[1]].mean(), "moving average": own[day - 20 : day].mean()}
    assert said == pytest.approx(expected | {"linear AR": weights @ [1.0, *own[day - 5 : day][::-1]]}, rel=1e-10)
    ours = walk.losses(folds, 0.0)
    np.testing.assert_allclose(ours[1, 9, 3], (own[day] / folds.std[1, 3]) ** 2)
    assert np.isnan(ours[0, :, 1]).all()  # FB is not served yet


@pytest.fixture
def single():
    """Experiments train in float32, and mix dtypes as NumPy does."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def test_windows_end_before_the_cut_and_before_the_day(real, single):
    """Read off the series itself: each value is its own day and company."""
    days, companies = real.values.shape
    marked = jnp.asarray(np.arange(days)[:, None] + np.arange(companies) / 8, jnp.float32)
    folds = walk.walk_forward(real, 2, DAYS, STEPS)
    setting = {name: leaf[1] for name, leaf in training.known(folds).items()}
    setting |= {"mean": jnp.zeros(companies), "std": jnp.ones(companies)}
    batch = training.training_windows(marked, real.starts, STEPS, 4000, jax.random.key(0), jnp.asarray(0), setting)
    seen = np.concatenate([np.asarray(batch.xs), np.asarray(batch.targets[-1:])])[:, :, 0]
    day, company = np.floor(seen).astype(int), np.round(8 * (seen % 1)).astype(int)
    assert (np.diff(day, axis=0) == 1).all() and (company == company[0]).all() and set(company[0]) == {0, 1, 2, 3, 4}
    for c, start in enumerate(real.starts):  # the first and the last possible window are drawn
        assert day[-1][company[0] == c].max() < folds.cut[1] and start <= day[0][company[0] == c].min() < start + 60
    asked = training.windows_before(marked, setting, setting["first"], 7, STEPS)
    last = np.floor(np.asarray(asked.xs)[-1, :, 0]).astype(int)
    np.testing.assert_array_equal(last, np.repeat(folds.first[1] + np.arange(7) - 1, companies))
    np.testing.assert_array_equal(np.floor(np.asarray(asked.targets)[-1, :, 0]), last + 1)
    assert asked.weights.sum() == 7 * 5 and not asked.weights[:-1].any()


def test_a_network_finds_what_is_planted_and_knows_nothing_of_the_future(single, monkeypatch):
    asked = {"input": "planted", "cell": "elman", "network": 0, "max_norm": 1.0, "seed": 0, "folds": 2, "days": DAYS}
    asked |= {"steps": STEPS, "hidden_size": 6, "updates": 80, "batch": 64, "rate": 0.02}
    panel = walk.load("planted", 0)
    folds = walk.walk_forward(panel, 2, DAYS, STEPS)
    said = training.train([asked])[0]["forecast"]
    named = {name: walk.forecasts(name, panel, folds)[None] for name in walk.BASELINES} | {"elman": said[None]}
    lines = {line["model"]: line for line in walk.lines_of(folds, named)}
    assert lines["elman"]["verdict"] == lines["linear AR"]["verdict"] == "better"
    assert lines["elman"]["gain_over_persistence"] > 0.1

    day = int(folds.first[1]) + 5
    monkeypatch.setattr(training, "load", lambda *_: changed(panel, day))
    other = training.train([asked])[0]["forecast"]
    np.testing.assert_array_equal(said.reshape(-1, 5)[: DAYS + 6], other.reshape(-1, 5)[: DAYS + 6])
    assert said[1, 6, 0] != other[1, 6, 0]


def test_the_statistic_by_hand_and_its_verdicts():
    d = np.random.default_rng(0).standard_normal(300).cumsum() * 0.01 + 0.1
    n, lags = 300, int(4 * 3 ** (2 / 9))
    c = d - d.mean()
    sums = [sum(c[t] * c[t - k] for t in range(k, n)) / n for k in range(lags + 1)]
    variance = sums[0] + 2 * sum((1 - k / (lags + 1)) * sums[k] for k in range(1, lags + 1))
    np.testing.assert_allclose(walk.compare(d)["diebold_mariano"], d.mean() / np.sqrt(variance / n), rtol=1e-10)
    noise = np.random.default_rng(2).standard_normal((50, 400))
    verdicts = [walk.compare(each)["verdict"] for each in (noise[0] - 0.5, noise[0] + 0.5)]
    assert verdicts == ["better", "worse"] and walk.compare(np.zeros(9))["difference_low"] == 0
    assert 44 <= [walk.compare(each)["verdict"] for each in noise].count("no difference shown") <= 50


def test_folds_that_leave_no_past_are_refused():
    with pytest.raises(lab.UsageError, match="give fewer folds or days"):
        Options(folds=26)
    Options(folds=25, control_folds=0)


def test_the_recorded_controls_say_that_the_method_works():
    lines = json.loads(DOCS.read_text())["lines"]
    verdicts = {name: {line["model"]: line["verdict"] for line in own} for name, own in lines.items()}
    assert verdicts["planted"]["gru, clipped"] == verdicts["planted"]["linear AR"] == "better"
    assert {verdicts["walk"][name] for name in ("gru, clipped", "linear AR")} <= {"worse", "no difference shown"}
