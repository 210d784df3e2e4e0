"""What `adding`, `copy_memory`, `digits` and `vowels` ask: parts that do not mix, baselines that are what they say."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments import adding, copy_memory, digits, harness, learning, vowels
from experiments.learning import grid
from rnnjax import tasks
from tests.experiments.quickly import quickly  # noqa: F401
from tests.experiments.toy import read

EXPERIMENTS = {each.__name__.split(".")[-1]: each for each in (adding, copy_memory, digits, vowels)}
SMALL: dict[str, dict[str, Any]] = {"adding": {"steps": 20}, "copy_memory": {"delay": 5}, "digits": {}, "vowels": {}}


@functools.cache
def problem_of(name: str) -> learning.Problem:
    module = EXPERIMENTS[name]
    return module.problem(module.Options(batch=8, **SMALL[name]))


@functools.cache
def last_part(name: str) -> tasks.Batch:
    return jax.tree.map(np.asarray, jax.jit(problem_of(name).test)())


def test_always_the_mean_gets_a_sixth():
    problem = problem_of("adding")
    batch = last_part("adding")
    error = jax.jit(problem.measures["mean_squared_error"])(np.ones_like(batch.targets), batch)
    spread = math.sqrt(7 / 180 / 2000)  # Var (s - 1)² = E (s - 1)⁴ - 1/36 = 1/15 - 1/36 for s the sum of two uniforms
    assert batch.targets.shape[1] == 2000 and abs(float(error) - problem.baseline) < 4 * spread


def test_silent_then_guessing_gets_ten_log_eight_over_all_steps():
    problem = problem_of("copy_memory")
    batch = last_part("copy_memory")
    assert batch.xs.shape[0] == 25 and problem.baseline == pytest.approx(10 * math.log(8) / 25)
    logits = np.full((*batch.targets.shape, 9), -1e9)
    logits[:-10, :, 8] = logits[-10:, :, :8] = 0
    loss, recalled = (jax.jit(problem.measures[name]) for name in ("cross_entropy_nats", "recalled_share"))
    assert float(loss(logits, batch)) == pytest.approx(problem.baseline, rel=1e-6)
    assert abs(float(recalled(logits, batch)) - 1 / 8) < 0.02
    right = np.eye(9)[batch.targets]
    silent = np.where(np.arange(25)[:, None, None] < 20, right, np.eye(9)[8])
    assert float(recalled(right, batch)) == 1 and float(recalled(silent, batch)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["digits", "vowels"])
def test_the_best_single_answer_gets_the_baseline(name: str):
    problem = problem_of(name)
    batch = last_part(name)
    always = np.eye(problem.outputs)[:, None, None] * np.ones((1, *batch.targets.shape, 1))
    shares = jax.jit(jax.vmap(problem.measures["accuracy"], (0, None)))(always, batch)
    assert max(shares) == pytest.approx(problem.baseline) and float(sum(shares)) == pytest.approx(1)
    assert float(jax.jit(problem.loss)(0 * always[0], batch)) == pytest.approx(math.log(problem.outputs), rel=1e-6)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_sequence_is_in_two_parts(name: str):
    problem = problem_of(name)
    key = jax.random.key(0)
    train = jax.jit(problem.train)
    parts = [train(key, jnp.int32(0)), jax.jit(problem.held_out)(jax.random.key(1), jnp.int32(0)), last_part(name)]
    rows = [{row.tobytes() for row in np.asarray(part.xs.swapaxes(0, 1))} for part in parts]
    assert len(set.union(*rows)) == sum(len(each) for each in rows)
    assert [part.xs.shape[-1] for part in parts] == [problem.inputs] * 3
    assert not np.array_equal(parts[0].xs, train(jax.random.key(2), jnp.int32(1)).xs)


def test_vowels_end_where_they_end_and_nothing_else_does():
    """Their lengths reach `unroll`: what lies beyond a row's end moves no loss and no measure; in the row it does."""
    assert [problem_of(name).ragged for name in EXPERIMENTS] == [False, False, False, True]
    problem = problem_of("vowels")
    batch = jax.tree.map(lambda leaf: leaf[..., :40] if leaf.ndim < 3 else leaf[:, :40], last_part("vowels"))
    model = rnnjax.Readout(rnnjax.GRU(4), problem.outputs)
    params = model.init(jax.random.key(0), problem.inputs, jnp.float32)
    assert len(set(batch.lengths.tolist())) > 5
    beyond = (np.arange(29)[:, None] >= batch.lengths)[..., None]

    @jax.jit
    def found(batch):
        return problem.loss(problem.outputs_of(model, params, batch), batch)

    value = found(batch)
    assert value == found(batch._replace(xs=jnp.where(beyond, jnp.nan, batch.xs)))
    moved = batch.xs.copy()
    moved[0] += 1
    assert value != found(batch._replace(xs=moved))


@pytest.mark.usefixtures("quickly")
def test_accuracies_are_shown_with_their_spread(tmp_path: Path, monkeypatch, capsys):
    """From rows to summary, with a network that is not trained."""

    def train(problem, asked, mesh=None):
        model = rnnjax.Readout(rnnjax.Elman(2), problem.outputs)
        arrays = {"updates": np.array([2, 4]), "held_out_accuracy": np.array([0.1, 0.2]), "gradient_norm": np.ones(2)}
        values = {"clipped_share": 0.0, "largest_gradient_norm": 1.0, "stopped_at_update": None}
        scores = {"test_cross_entropy_nats": 1.0, "held_out_accuracy": 0.5, "held_out_cross_entropy_nats": 1.0}
        params = model.init(jax.random.key(0), problem.inputs)
        return [
            grid.Trained(each, {"test_accuracy": 0.9 + 0.01 * each["index"], **values, **scores}, arrays, model, params)
            for each in asked
        ]

    monkeypatch.setattr(grid, "train", train)
    assert harness.launch(vowels.EXPERIMENT, ["--cells", "gru", "--seeds", "3", "--out", str(tmp_path)]) == 0
    summary = read(tmp_path)
    line = summary["lines"][1]
    assert (line["cell"], line["clipped_at_norm"], line["seeds"]) == ("gru", None, 3)
    assert [line[f"test_accuracy_{what}"] for what in ("lowest", "median", "highest")] == [0.9, 0.91, 0.92]
    assert line["test_accuracy_std"] == pytest.approx(0.01) and summary["baseline"] == 88 / 370
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("digits", ["--data", "cifar"], "--data"),
        ("copy_memory", ["--delay", "0"], "--delay is 0"),
        ("vowels", ["--batch", "-3"], "--batch is -3"),
    ],
)
def test_bad_options_are_refused(name, arguments, said, tmp_path: Path, capsys):
    try:
        status = harness.launch(EXPERIMENTS[name].EXPERIMENT, [*arguments, "--out", str(tmp_path / "new")])
    except SystemExit as stop:  # the parser's own word on a choice
        status = stop.code
    said_then = capsys.readouterr()
    assert status == 2 and said in said_then.err + said_then.out and not (tmp_path / "new").exists()
