"""Temporal order: networks drawn as the authors drew them, Ω as their code has it, and a small run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import harness
from experiments.temporal_order import __main__ as main
from experiments.temporal_order import network, training
from rnnjax import tasks
from tests.experiments.quickly import quickly  # noqa: F401
from tests.experiments.toy import read

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.mark.parametrize("name", network.INITIALISATIONS)
def test_networks_are_drawn_as_in_the_paper(name):
    found = network.draw(name, 50, jax.random.key(3))
    w_h = np.asarray(found.rnn.w_h)
    scale = 0.1 if name == "basic tanh" else 0.01
    assert 0.9 * scale < np.std(found.rnn.w_x) < 1.1 * scale and 0.8 * scale < np.std(found.w_out) < 1.2 * scale
    assert not np.any(found.rnn.b) and not np.any(found.b_out)
    if name == "smart tanh":
        assert (np.count_nonzero(w_h, axis=1) == 15).all()
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(w_h)).max(), 0.95, rtol=1e-9)
    else:
        assert 0.9 * scale < w_h.std() < 1.1 * scale


@pytest.mark.parametrize("name", ["sigmoid"])
def test_omega_is_that_of_the_authors_code(name):
    """In NumPy: squared norms of a_t φ'(z_t) W^T over those of a_t, and the gradient for W with all else held."""
    cell = network.cell_of(name, 4)
    drawn = network.draw(name, 4, jax.random.key(0))
    drawn = jax.tree.map(lambda leaf: 8 * leaf, drawn)
    batch = tasks.temporal_order(jax.random.key(1), 10, (3,))
    value, found = jax.jit(jax.value_and_grad(lambda n: network.omega(cell, n, batch)))(drawn)

    rnn, w = drawn.rnn, np.asarray(drawn.rnn.w_h)
    h, hs = np.zeros((3, 4)), []
    for x in np.asarray(batch.xs):
        z = x @ rnn.w_x + h @ w + rnn.b
        h = np.tanh(z) if name != "sigmoid" else 1 / (1 + np.exp(-z))
        hs.append(h)
    hs = np.stack(hs)
    slopes = 1 - hs**2 if name != "sigmoid" else hs * (1 - hs)
    scores = hs[-1] @ drawn.w_out + drawn.b_out
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    a = (p - np.eye(4)[np.asarray(batch.targets[-1])]) @ np.asarray(drawn.w_out).T / 3
    total, gradient, count = 0.0, np.zeros((4, 4)), 0
    for t in reversed(range(10)):
        back = a * slopes[t]
        after = back @ w.T
        long, before = (after**2).sum(-1), (a**2).sum(-1)
        counts = before >= network.FLOOR**2
        total += ((long / before - 1) ** 2)[counts].sum()
        weight = np.where(counts, 4 * (long / before - 1) / before, 0)
        gradient += np.einsum("b,bi,bj->ij", weight, after, back)
        count += counts.sum()
        a = after
    np.testing.assert_allclose(value, total / count, rtol=1e-10)
    np.testing.assert_allclose(found.rnn.w_h, gradient / count, rtol=1e-8)
    assert not np.any(found.w_out) and not np.any(found.rnn.w_x)


def test_the_loss_and_its_parts():
    cell, drawn = network.cell_of("basic tanh", 4), network.draw("basic tanh", 4, jax.random.key(0))
    batch = tasks.temporal_order(jax.random.key(1), 10, (5,))
    plain, nothing = network.total_loss(cell, 0.0, drawn, batch)
    assert nothing == {}
    scores = network.logits(cell, drawn, batch)
    whole = jnp.zeros((10, 5, 4)).at[-1].set(scores)
    np.testing.assert_allclose(plain, tasks.cross_entropy(whole, batch), rtol=1e-12)
    np.testing.assert_allclose(network.accuracy(cell, drawn, batch), tasks.accuracy(whole, batch))


def made_up(asked, mesh=None):
    """What `train` gives, in shape; a real one takes a quarter of a minute to compile (`--quick` runs it)."""
    methods, seeds = training.methods_of(asked), asked["seeds"]
    share = 0.995 if asked["omega"] else 0.4
    values = {
        method: {"solved": [asked["omega"]] * seeds, "test_accuracy": [share] * seeds}
        | {"updates": [500 * (1 + i) for i in range(seeds)], "diverged": [False] * seeds}
        for method in methods
    }
    return values, {"updates": np.array([500, 1000]), "accuracy": np.full((2, len(methods), seeds), share)}


def test_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """From rows to lines; every row once, and none computed again."""
    monkeypatch.setattr(main, "train", made_up)
    arguments = ["--lengths", "10", "20", "--seeds", "2", "--initialisations", "basic tanh", "--out", str(tmp_path)]
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    summary = read(tmp_path)
    assert [(row["steps"], row["method"]) for row in summary["rows"]] == [
        (steps, method) for steps in (10, 20) for method in training.METHODS
    ]
    for row in summary["rows"]:
        solved = "Ω" in row["method"]
        assert row["solved_share"] == solved and row["mean_test_accuracy"] == (0.995 if solved else 0.4)
        assert row["median_updates"] == (750 if solved else None)
    assert summary["rows_computed_count"] == 4
    assert harness.launch(main.EXPERIMENT, arguments) == 0
    assert read(tmp_path)["rows_computed_count"] == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lengths", "9"], "--lengths is"),
        (["--initialisations", "orthogonal"], "choose from sigmoid"),
        (["--rate", "-1"], "--rate is -1"),
    ],
)
def test_bad_options_are_refused(arguments, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.launch(main.EXPERIMENT, [*arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
