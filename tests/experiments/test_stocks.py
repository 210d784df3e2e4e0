"""Stocks: nothing of the future is known, what can be predicted is found, and what cannot is not."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stocks import baselines, series, significance, table, training
from experiments.stocks.__main__ import EXPERIMENT, Options
from experiments.stocks.folds import CURVE_DAYS, walk_forward
from tests.experiments.launched import refused
from tests.experiments.quickly import quickly  # noqa: F401

STEPS, DAYS = 10, 126
DOCS = Path(__file__).parents[2] / "docs" / "stocks"


@pytest.fixture(scope="module")
def real():
    return series.load("stocks")


def changed(panel, day):
    """The same past, another future."""
    values = panel.values.copy()
    values[day:] = 3 * values[day:] + 0.05
    return dataclasses.replace(panel, values=values)


def test_the_panel_is_the_returns_of_each_company(real):
    assert real.names == ("AAPL", "FB", "GOOG", "IBM", "MSFT") and real.values.shape == (3269, 5)
    assert (3269 - real.starts).tolist() == [3269, 195, 2147, 3269, 3269]
    for column, start in enumerate(real.starts):
        assert np.isfinite(real.values[start:, column]).all() and np.isnan(real.values[:start, column]).all()


def test_folds_follow_each_other_and_know_only_what_was(real):
    folds = walk_forward(real, 16, DAYS, 30)
    assert (folds.first[1:] == folds.end[:-1]).all() and folds.end[-1] == len(real.dates)
    assert (folds.cut + CURVE_DAYS == folds.first).all()
    assert folds.served[:, 0].all() and folds.served[:, 1].tolist() == [False] * 15 + [True]  # FB came in 2012
    past = real.values[: folds.cut[3], 0]
    np.testing.assert_allclose([folds.mean[3, 0], folds.std[3, 0]], [past.mean(), past.std()], rtol=1e-14)
    other = walk_forward(changed(real, folds.cut[7]), 16, DAYS, 30)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(getattr(folds, name)[:8], getattr(other, name)[:8])
        assert (getattr(folds, name)[8, 0] != getattr(other, name)[8, 0]).all()


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_no_baseline_knows_the_day_that_it_forecasts(name, real):
    folds = walk_forward(real, 3, DAYS, 30)
    said = baselines.forecasts(name, real, folds)
    day = int(folds.first[1]) + 5
    other_panel = changed(real, day)
    other = baselines.forecasts(name, other_panel, walk_forward(other_panel, 3, DAYS, 30))
    np.testing.assert_array_equal(said[: day + 1], other[: day + 1])
    if name != "persistence":
        assert not np.array_equal(said[day + 1 :], other[day + 1 :], equal_nan=True)


def test_baselines_are_what_they_say(real):
    folds = walk_forward(real, 2, DAYS, 30)
    day, own = int(folds.first[1]) + 9, real.values[:, 3]
    assert baselines.forecasts("persistence", real, folds)[day, 3] == 0
    assert baselines.forecasts("drift", real, folds)[day, 3] == own[: folds.cut[1]].mean()
    np.testing.assert_allclose(baselines.forecasts("moving average", real, folds)[day, 3], own[day - 20 : day].mean())
    rows = [[1.0, *own[t - 5 : t][::-1]] for t in range(5, folds.cut[1])]  # one by one
    weights = np.linalg.lstsq(np.array(rows), own[5 : folds.cut[1]], rcond=None)[0]
    expected = weights @ [1.0, *own[day - 5 : day][::-1]]
    np.testing.assert_allclose(baselines.forecasts("linear AR", real, folds)[day, 3], expected, rtol=1e-10)


@pytest.fixture
def single():
    """Experiments train in float32, and mix dtypes as NumPy does."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def settings_of(panel, folds, fold):
    names = ("mean", "std", "served", "cut", "first")
    return {name: jnp.asarray(getattr(folds, name)[fold]) for name in names}


def test_windows_end_before_the_cut_and_before_the_day(real, single):
    """Read off the series itself: each value is its own day and company."""
    days, companies = real.values.shape
    marked = jnp.asarray(np.arange(days)[:, None] + np.arange(companies) / 8, jnp.float32)
    folds = walk_forward(real, 2, DAYS, STEPS)
    setting = settings_of(real, folds, 1) | {"mean": jnp.zeros(companies), "std": jnp.ones(companies)}
    batch = training.training_windows(marked, real.starts, STEPS, 4000, jax.random.key(0), jnp.asarray(0), setting)
    seen = np.concatenate([np.asarray(batch.xs), np.asarray(batch.targets[-1:])])[:, :, 0]
    day, company = np.floor(seen).astype(int), np.round(8 * (seen % 1)).astype(int)
    assert (np.diff(day, axis=0) == 1).all() and (company == company[0]).all() and set(company[0]) == {0, 1, 2, 3, 4}
    assert (day[0] >= real.starts[company[0]]).all()
    for c, start in enumerate(real.starts):  # the first and the last possible window are drawn
        assert day[-1][company[0] == c].max() < folds.cut[1] and day[0][company[0] == c].min() < start + 60
    asked = training.windows_before(marked, setting, setting["first"], 7, STEPS)
    last = np.floor(np.asarray(asked.xs)[-1, :, 0]).astype(int)
    np.testing.assert_array_equal(last, np.repeat(folds.first[1] + np.arange(7) - 1, companies))
    np.testing.assert_array_equal(np.floor(np.asarray(asked.targets)[-1, :, 0]), last + 1)
    assert asked.weights.sum() == 7 * 5 and not asked.weights[:-1].any()


ASKED = {"input": "planted", "cell": "elman", "clipping": [True], "seeds": 1, "seed": 0, "folds": 2, "days": DAYS}
ASKED |= {"steps": STEPS, "hidden_size": 6, "updates": 80, "batch": 64, "rate": 0.02, "max_norm": 1.0}


def test_a_network_finds_what_is_planted_and_knows_nothing_of_the_future(quickly, single, monkeypatch):  # noqa: F811
    panel = series.load("planted", 0)
    folds = walk_forward(panel, 2, DAYS, STEPS)
    found = training.train(ASKED)
    named = table.all_forecasts(panel, folds, {"elman": found.arrays["forecast"][0]})
    lines = {line["model"]: line for line in table.lines_of(panel, folds, named)}
    assert lines["elman"]["verdict"] == lines["linear AR"]["verdict"] == "better"
    assert lines["elman"]["gain_over_persistence"] > 0.1
    assert found.arrays["loss"].shape == (20, 1, 1, 2) and found.params.w_out.shape == (1, 1, 2, 6, 1)

    day = int(folds.first[1]) + 5
    monkeypatch.setattr(training, "load", lambda *_: changed(panel, day))
    other = training.train(ASKED)
    np.testing.assert_array_equal(
        found.arrays["forecast"][..., : day + 1, :], other.arrays["forecast"][..., : day + 1, :]
    )
    assert (found.arrays["forecast"][0, 0, day + 1] != other.arrays["forecast"][0, 0, day + 1]).any()
    for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_linear_forecasts_find_the_planted_series_and_not_the_walk():
    for name, right in (("planted", {"better"}), ("walk", {"worse", "no difference shown"})):
        panel = series.load(name, 0)
        folds = walk_forward(panel, 4, DAYS, STEPS)
        lines = table.lines_of(panel, folds, table.all_forecasts(panel, folds, {}))
        assert {line["verdict"] for line in lines if line["model"] == "linear AR"} <= right


class TestSignificance:
    def test_the_statistic_by_hand(self):
        d = np.random.default_rng(0).standard_normal(300).cumsum() * 0.01 + 0.1
        n, lags = 300, int(4 * 3 ** (2 / 9))
        c = d - d.mean()
        sums = [sum(c[t] * c[t - k] for t in range(k, n)) / n for k in range(lags + 1)]
        variance = sums[0] + 2 * sum((1 - k / (lags + 1)) * sums[k] for k in range(1, lags + 1))
        np.testing.assert_allclose(significance.compare(d).statistic, d.mean() / np.sqrt(variance / n), rtol=1e-10)

    def test_equal_forecasts_are_seldom_told_apart(self):
        rng = np.random.default_rng(1)
        told = [significance.compare(rng.standard_normal(400)).verdict for _ in range(100)]
        assert 88 <= told.count("no difference shown") <= 100

    def test_what_is_better_is_told_and_what_is_the_same_is_zero(self):
        noise = np.random.default_rng(2).standard_normal(400)
        assert significance.compare(noise - 0.5).verdict == "better"
        assert significance.compare(noise + 0.5).verdict == "worse"
        assert significance.compare(np.zeros(9)) == (0, 0, 0, 0)


def test_losses_are_in_variances_of_the_past(real):
    folds = walk_forward(real, 2, DAYS, STEPS)
    found = table.losses(real, folds, np.zeros(real.values.shape))
    day = int(folds.first[1])
    np.testing.assert_allclose(found[day, 4], (real.values[day, 4] / folds.std[1, 4]) ** 2)
    assert np.isnan(found[: folds.first[0]]).all() and np.isnan(found[folds.first[0], 1])  # FB is not served yet
    np.testing.assert_allclose(table.by_fold(real, folds, np.zeros((1, *real.values.shape)))[:, 0], 1)


def test_folds_that_leave_no_past_are_refused(tmp_path, capsys):
    assert "give fewer folds or days" in refused(EXPERIMENT, tmp_path, capsys, "--folds", "26")
    Options(folds=25, control_folds=0).check()


@pytest.mark.skipif(not DOCS.exists(), reason="no recorded run")
def test_the_recorded_controls_say_that_the_method_works():
    lines = json.loads((DOCS / "summary.json").read_text())["lines"]
    verdicts = {name: {line["model"]: line["verdict"] for line in lines[name]} for name in lines}
    assert verdicts["planted"]["gru, clipped"] == "better"
    assert verdicts["walk"]["gru, clipped"] != "better"
