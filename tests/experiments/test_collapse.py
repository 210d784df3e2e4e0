"""Collapse: settings that are what they say, rates that are known, a fit that finds its curve, and a small run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments import harness
from experiments.collapse import __main__ as main
from experiments.collapse import networks, rates
from experiments.collapse.fit import fit, logistic
from experiments.collapse.networks import CELLS, SETTINGS, TASKS, Setting
from tests.experiments.quickly import quickly  # noqa: F401 (a fixture)
from tests.experiments.toy import read

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.mark.parametrize("name", ["linear", "gru"])
def test_the_solvable_cases_are_solved(name):
    """Adjoint, exponent and closed form, for a scaled rotation and for a gate with W2 = 0 (`exact_cases` has more)."""
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    with jax.enable_x64(True):
        cell, closed = rnnjax.Elman(2, "linear"), np.log(0.8)
        params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.asarray(0.8 * rotation), jnp.zeros(2))
        if name == "gru":
            cell, closed = rnnjax.GRU(2), -np.log1p(np.exp(-1.0))
            b = jnp.array([0.0, 0, 1, 1, 0, 0])
            params = rnnjax.GRUParams(jnp.zeros((1, 6)), jnp.zeros((2, 6)), b, jnp.zeros(2))
        found = rates._exact(name, cell, params, closed)
    np.testing.assert_allclose([found["adjoint_rate"], found["exponent"]], closed, rtol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_a_setting_is_what_it_says(name):
    """W2 has the gain, the gate that holds has the bias, and nothing else depends on either."""
    cell, task = CELLS[name](64), TASKS["latch"]
    drawn = [networks.draw(cell, task, jax.random.key(0), gain, bias) for gain, bias in ((1.0, 0.0), (0.5, 3.0))]
    np.testing.assert_allclose(drawn[1].rnn.w_h, drawn[0].rnn.w_h / 2)
    np.testing.assert_allclose(np.std(drawn[0].rnn.w_h) * 8, 1, rtol=0.05)
    for one, other in zip(drawn[0].rnn, drawn[1].rnn, strict=True):
        if one.ndim == 2 and one.shape[0] == 1:
            np.testing.assert_array_equal(one, other)
    if name != "elman":
        assert np.flatnonzero(drawn[1].rnn.b).tolist() == list(range(64, 128)) and (drawn[1].rnn.b[64:128] == 3).all()
    assert drawn[0].w_out.dtype == np.float32 and not drawn[0].b_out.any()


def test_closed_forms_hold_where_they_are_said_to():
    held = networks.closed_form("lstm", TASKS["latch"], Setting(0.5, 1.0))
    assert held is not None
    np.testing.assert_allclose(held, np.log(0.7310585786))
    assert networks.closed_form("gru", TASKS["latch"], Setting(1.5, 0.0)) is None
    slow, fast = (networks.closed_form("elman", TASKS["temporal order"], Setting(gain)) for gain in (0.7, 1.5))
    assert slow is not None and fast is not None and slow < fast < np.log(1.5)
    assert all(len(SETTINGS[name]) == len(set(SETTINGS[name])) for name in CELLS)


def test_the_lags_are_those_of_the_tasks():
    """From the last step to the first informative one, on average over many sequences."""
    batch = TASKS["temporal order"].draw(jax.random.key(0), 100, (2000,))
    first = np.asarray(batch.xs[..., :2].sum(-1)).argmax(axis=0)
    assert abs((99 - first).mean() - TASKS["temporal order"].lag(100)) < 1
    np.testing.assert_allclose(TASKS["temporal order"].input_variance, (np.asarray(batch.xs) ** 2).mean())
    latch = TASKS["latch"].draw(jax.random.key(0), 50, (2000,))
    np.testing.assert_allclose((np.asarray(latch.xs[1:]) ** 2).mean(), TASKS["latch"].input_variance, rtol=0.02)


def test_the_fit_finds_its_curve():
    x = np.linspace(-40, 5, 200)
    found = fit(x, logistic(x, -12.0, 3.0))
    np.testing.assert_allclose([found["centre"], found["width"]], [-12, 3], rtol=0.01)
    assert found["r_squared"] > 0.9999 and found["rms_residual"] < 0.005
    noise = np.random.default_rng(0).normal(size=200)
    assert fit(noise, np.resize([0.0, 1.0], 200))["r_squared"] < 0.1


def test_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """From rows to points and fits: a success that is a curve of rate × lag is found to be one, at its centre."""

    def rates_made_up(cell, task, hidden_size, seeds, seed):
        settings = SETTINGS[cell]
        found = [[-0.1 * (i + 1)] * seeds for i in range(len(settings))]
        plain = {"adjoint_rates": found, "exponents": found, "closed_forms": [-0.1] * len(settings)}
        return plain | {"settings": [{"gain": s.gain, "bias": s.bias} for s in settings]}

    def trained_made_up(asked, mesh=None):
        task = TASKS[asked["task"]]
        x = [-0.1 * (i + 1) * task.lag(asked["steps"]) for i in range(len(SETTINGS[asked["cell"]]))]
        success = logistic(np.array(x), -3.0, 0.5)
        return {"accuracy": [[task.chance + s * (1 - task.chance)] * asked["seeds"] for s in success], "failed": 0}

    exact = [{"adjoint_rate": -1.0, "exponent": -1.0, "closed_form": -1.0}]
    monkeypatch.setattr(main, "measure_rates", rates_made_up)
    monkeypatch.setattr(main, "train", trained_made_up)
    monkeypatch.setattr(main, "exact_cases", lambda size: exact)
    arguments = ["--lengths", "10", "20", "--seeds", "2", "--out", str(tmp_path)]
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    summary = read(tmp_path)
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    assert read(tmp_path)["rows_computed_count"] == 0
    assert len(summary["points"]) == 2 * 2 * 21 and len(summary["rates"]) == 42
    assert summary["fits"]["rate times lag"]["r_squared"] > 0.999
    np.testing.assert_allclose(summary["fits"]["rate times lag"]["centre"], -3, atol=0.1)
    assert summary["fits"]["lag alone"]["r_squared"] < 0.5
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--lengths", "5"], "--lengths is"), (["--seeds", "0"], "--seeds is 0")]
)
def test_bad_options_are_refused(arguments, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.launch(main.EXPERIMENT, [*arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
