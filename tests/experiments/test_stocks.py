"""Stocks: nothing of the future is known, what can be predicted is found, and what cannot is not."""

import jax
import numpy as np
import pytest

from experiments import lab, stocks

DAYS, REAL = 126, stocks.load("stocks")


def changed(panel, day):
    """The same past, another future."""
    future = np.arange(len(panel.values))[:, None] >= day
    return panel._replace(values=np.where(future, 3 * panel.values + 0.05, panel.values))


def test_folds_follow_each_other_and_know_only_the_past():
    folds = stocks.walk_forward(REAL, 16, DAYS, 30)
    np.testing.assert_array_equal(folds.truth[:, :, 0].ravel(), REAL.values[-16 * DAYS :, 0])
    assert folds.served[:, 0].all() and folds.served[:, 1].tolist() == [False] * 15 + [True]  # FB came in 2012
    past = REAL.values[: folds.cut[3], 0]
    np.testing.assert_allclose([folds.mean[3, 0], folds.std[3, 0]], [past.mean(), past.std()], rtol=1e-14)
    other = stocks.walk_forward(changed(REAL, folds.cut[7]), 16, DAYS, 30)
    for ours, theirs in ((folds.mean, other.mean), (folds.std, other.std)):
        np.testing.assert_array_equal(ours[:8], theirs[:8])
        assert (ours[8, 0] != theirs[8, 0]).all()
    with pytest.raises(lab.UsageError, match="give fewer folds or days"):
        stocks.Options(folds=26)
    stocks.Options(folds=25, control_folds=0)


def test_baselines_are_what_they_say_and_do_not_know_the_day_they_forecast():
    folds = stocks.walk_forward(REAL, 2, DAYS, 30)
    day, own = int(folds.first[1]) + 9, REAL.values[:, 3]
    forecasts = stocks.baselines(REAL, folds)
    rows = [[1.0, *own[t - 5 : t][::-1]] for t in range(5, folds.cut[1])]  # one by one
    weights = np.linalg.lstsq(np.array(rows), own[5 : folds.cut[1]], rcond=None)[0]
    expected = {"persistence": 0, "drift": own[: folds.cut[1]].mean(), "moving average": own[day - 20 : day].mean()}
    expected["linear AR"] = weights @ [1.0, *own[day - 5 : day][::-1]]
    assert {name: said[1, 9, 3] for name, said in forecasts.items()} == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(stocks.losses(folds, 0.0)[1, 9, 3], (own[day] / folds.std[1, 3]) ** 2)
    panel = changed(REAL, day)
    for name, other in stocks.baselines(panel, stocks.walk_forward(panel, 2, DAYS, 30)).items():
        np.testing.assert_array_equal(forecasts[name].reshape(-1, 5)[: DAYS + 10], other.reshape(-1, 5)[: DAYS + 10])
        assert name in ("persistence", "drift") or forecasts[name][1, 10, 0] != other[1, 10, 0]


def test_a_network_finds_what_is_planted_and_knows_nothing_of_the_future(monkeypatch):
    asked = {"input": "planted", "cell": "elman", "network": 0, "max_norm": 1.0, "seed": 0, "folds": 2, "days": DAYS}
    asked |= {"steps": 10, "hidden_size": 6, "updates": 80, "batch": 64, "rate": 0.02}
    panel = stocks.load("planted")
    folds = stocks.walk_forward(panel, 2, DAYS, 10)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        (ours,) = stocks.train([asked])
        monkeypatch.setattr(stocks, "load", lambda *_: changed(panel, folds.cut[1]))
        (theirs,) = stocks.train([asked])
    said = stocks.baselines(panel, folds) | {"elman": np.asarray(ours["forecast"])}
    *_, linear, elman = stocks.lines_of(folds, {name: own[None] for name, own in said.items()})
    assert elman["verdict"] == linear["verdict"] == "better" and elman["gain_over_persistence"] > 0.1
    np.testing.assert_array_equal(ours["loss"], theirs["loss"])  # both folds train on days before the second's cut
    known = DAYS - stocks.CURVE_DAYS + 1  # of the first fold, forecast from these days
    np.testing.assert_array_equal(ours["forecast"][0, :known], theirs["forecast"][0, :known])
    assert (ours["forecast"][0, known, [0, 2, 3, 4]] != theirs["forecast"][0, known, [0, 2, 3, 4]]).all()


def test_the_statistic_by_hand_and_its_verdicts():
    d = np.random.default_rng(0).standard_normal(300).cumsum() * 0.01 + 0.1
    n, lags = 300, int(4 * 3 ** (2 / 9))
    c = d - d.mean()
    sums = [sum(c[t] * c[t - k] for t in range(k, n)) / n for k in range(lags + 1)]
    variance = sums[0] + 2 * sum((1 - k / (lags + 1)) * sums[k] for k in range(1, lags + 1))
    np.testing.assert_allclose(stocks.compare(d)["diebold_mariano"], d.mean() / np.sqrt(variance / n), rtol=1e-10)
    noise = np.random.default_rng(2).standard_normal((50, 400))
    assert [stocks.compare(noise[0] + shift)["verdict"] for shift in (-0.5, 0.5)] == ["better", "worse"]
    assert 44 <= [stocks.compare(each)["verdict"] for each in noise].count("no difference shown") <= 50
