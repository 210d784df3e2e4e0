"""The training experiments: rows of the grid, their table, and problems whose baselines are what they say."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments import adding, copy_memory, digits, lab, learning, vowels
from experiments.data.labelled import padded
from rnnjax import tasks, training

TINY = {"steps": 4, "hidden_size": 4, "batch": 8, "updates": 4, "look_every": 2, "cells": ("elman",)}
ASKED = learning.grid_of(adding.Options(**TINY))[0]
EXPERIMENTS: dict[str, Any] = {"adding": adding, "copy_memory": copy_memory, "digits": digits, "vowels": vowels}


@functools.cache
def problem_of(name: str) -> learning.Problem:
    module = EXPERIMENTS[name]
    short = {"adding": {"steps": 20}, "copy_memory": {"delay": 5}}.get(name, {})
    return module.problem(learning.grid_of(module.Options(batch=8, **short))[0])


@functools.cache
def last_part(name: str) -> tasks.Batch:
    return jax.tree.map(np.asarray, jax.jit(problem_of(name).test)())


@pytest.fixture
def as_users_have_it() -> Iterator[None]:
    """Float32 and NumPy's promotion; little optimization, as these programs run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def together() -> list[dict[str, Any]]:
    """Five runs in one program."""
    changes = [{"clipped": False}, {"index": 1}, {"max_norm": 1e6}, {"max_norm": 1e-3}, {"max_norm": np.nan}]
    return adding.trained([{**ASKED, **each} for each in changes])


@pytest.mark.usefixtures("as_users_have_it")
def test_clipping_seeds_and_faults_of_runs_that_share_a_program() -> None:
    """A clip far above every norm changes nothing, a low one does; seeds differ; one that is not finite stops alone."""
    plain, other, loose, tight, broken = together()
    for row, share in ((plain, 0), (loose, 0), (tight, 1)):
        assert row["clipped_share"] == share and row["updates_done"] == 4 and row["stopped_at_update"] is None
        assert row["updates_curve"].tolist() == [2, 4] and (row["clipped_curve"] == share).all()
        assert row["held_out_mean_squared_error"] == row["held_out_mean_squared_error_curve"][-1]
        assert row["largest_gradient_norm"] == row["gradient_norm_max_curve"].max() > 1e-3
    np.testing.assert_array_equal(plain["loss_curve"], loose["loss_curve"])
    assert tight["loss_curve"][1] != plain["loss_curve"][1] and other["loss_curve"][0] != plain["loss_curve"][0]
    assert broken["stopped_at_update"] == broken["updates_done"] == 0 and broken["clipped_share"] is None
    assert "w_out after the update" in broken["not_finite"] and np.isfinite(broken["test_mean_squared_error"])


@pytest.mark.usefixtures("as_users_have_it")
def test_a_new_seed_trains_alone_and_models_are_those_of_the_rows(tmp_path: Path) -> None:
    one = adding.experiment(out=tmp_path, seeds=1, **TINY)
    both = adding.experiment(out=tmp_path, seeds=2, **TINY)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows_computed_count"], summary["rows_reused_count"]) == (2, 2)
    assert [(row["clipped"], row["index"]) for row in both] == [(True, 0), (True, 1), (False, 0), (False, 1)]
    assert both[0].plain == one[0].plain and both[2].plain == one[1].plain
    for row, again in zip((both[2], both[1]), together(), strict=False):
        np.testing.assert_allclose(row["loss_curve"], again["loss_curve"], rtol=1e-5)
    for row in both:
        name = f"elman-{'clipped' if row['clipped'] else 'unclipped'}-{row['index']}"
        saved = training.load_model(tmp_path / "models" / name)
        batch = adding.problem(row.asked).test()
        error = tasks.squared_error(saved(batch.xs)[1], batch)
        np.testing.assert_allclose(error, row["test_mean_squared_error"], rtol=1e-5)
        assert saved.info["index"] == row["index"] and saved.model == rnnjax.Readout(rnnjax.Elman(4), 1)
    for line, clipped in zip(summary["lines"], (True, False), strict=True):
        mine = [row["test_mean_squared_error"] for row in both if row["clipped"] == clipped]
        assert line["test_mean_squared_error_median"] == np.median(mine) and line["seeds"] == len(set(mine)) == 2


def test_what_a_row_depends_on() -> None:
    """Every option that changes a run, an experiment's own too; none that only says which runs there are."""
    grid = {"cell", "clipped", "index", "seed", "hidden_size", "updates", "batch", "rate", "max_norm", "look_every"}
    assert set(ASKED) == {*grid, "steps"}


def test_lines_take_their_numbers_from_rows() -> None:
    """Never a median of the runs that are left."""
    errors = {True: [0.5, 0.1, 0.3], False: [0.2, None, 0.4]}
    rows = []
    for clipped, i in ((clipped, i) for clipped in (True, False) for i in range(3)):
        values = {"test_e": errors[clipped][i], "held_out_e": 1.0, "clipped_share": 0.5, "largest_gradient_norm": i}
        values["stopped_at_update"] = 3 if i == 1 else None
        rows.append(lab.Row({**ASKED, "index": i, "clipped": clipped}, values, {}))
    first, second = learning.lines_of(rows, ["e"])
    assert first["clipped_at_norm"] == 1.0 and second["clipped_at_norm"] is None
    assert [first[f"test_e_{what}"] for what in ("median", "lowest", "highest")] == [0.3, 0.1, 0.5]
    assert first["test_e_std"] == pytest.approx(0.2) and first["stopped_not_finite"] == 1
    assert np.isnan(second["test_e_median"]) and first["largest_gradient_norm"] == 2.0


def test_padding_changes_no_loss_and_no_gradient_and_the_last_step_is_scored() -> None:
    """Sequences of 3 and 5 steps, alone, and padded to 9 with NaN: the same loss and gradient."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(length, 2)) for length in (3, 5)]
    model = rnnjax.Readout(rnnjax.LSTM(4), 3)
    params = model.init(jax.random.key(1), 2, jnp.float64)

    def loss(params: Any, batch: tasks.Batch) -> Any:  # the vowels are ragged
        return tasks.cross_entropy(problem_of("vowels").outputs_of(model, params, batch), batch)

    both = learning.batch_of(padded(rows, [2, 0], 9))
    assert both.weights.argmax(0).tolist() == [2, 4] and (both.weights.sum(0) == 1).all()
    wide = both._replace(xs=both.xs.astype(jnp.float64), weights=both.weights.astype(jnp.float64))
    beyond = (np.arange(9)[:, None] >= np.asarray(wide.lengths))[..., None]
    value, gradient = jax.value_and_grad(loss)(params, wide._replace(xs=jnp.where(beyond, jnp.nan, wide.xs)))

    def alone(params: Any) -> Any:
        ends = [rnnjax.unroll(model, params, wide.xs[: len(row), n])[1][-1] for n, row in enumerate(rows)]
        return -(jax.nn.log_softmax(ends[0])[2] + jax.nn.log_softmax(ends[1])[0]) / 2

    expected = jax.value_and_grad(alone)(params)
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected[1])


def test_always_the_mean_gets_a_sixth() -> None:
    problem, batch = problem_of("adding"), last_part("adding")
    error = problem.measures["mean_squared_error"](jnp.ones_like(batch.targets), batch)
    spread = math.sqrt(7 / 180 / 2000)  # Var (s - 1)² = E (s - 1)⁴ - 1/36 = 1/15 - 1/36 for s the sum of two uniforms
    assert batch.targets.shape[1] == 2000 and abs(float(error) - problem.baseline) < 4 * spread


def test_silent_then_guessing_gets_ten_log_eight_over_all_steps() -> None:
    problem, batch = problem_of("copy_memory"), last_part("copy_memory")
    assert batch.xs.shape[0] == 25 and problem.baseline == pytest.approx(10 * math.log(8) / 25)
    logits = np.full((*batch.targets.shape, 9), -1e9)
    logits[:-10, :, 8] = logits[-10:, :, :8] = 0
    loss, recalled = (problem.measures[name] for name in ("cross_entropy_nats", "recalled_share"))
    assert float(loss(jnp.asarray(logits), batch)) == pytest.approx(problem.baseline, rel=1e-6)
    right = np.eye(9)[batch.targets]
    silent = np.where(np.arange(25)[:, None, None] < 20, right, np.eye(9)[8])
    batch = jax.tree.map(jnp.asarray, batch)
    assert float(recalled(right, batch)) == 1 and float(recalled(silent, batch)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["digits", "vowels"])
def test_the_best_single_answer_gets_the_baseline(name: str) -> None:
    problem, batch = problem_of(name), last_part(name)
    always = np.eye(problem.outputs)[:, None, None] * np.ones((1, *batch.targets.shape, 1))
    shares = jax.jit(jax.vmap(problem.measures["accuracy"], (0, None)))(always, batch)
    assert max(shares) == pytest.approx(problem.baseline) and float(sum(shares)) == pytest.approx(1)
    assert problem.ragged == (name == "vowels")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_sequence_is_in_two_parts(name: str) -> None:
    problem, key = problem_of(name), jax.random.key(0)
    train = jax.jit(problem.train)
    parts = [train(key, jnp.int32(0)), jax.jit(problem.held_out)(jax.random.key(1), jnp.int32(0)), last_part(name)]
    rows = [{row.tobytes() for row in np.asarray(part.xs.swapaxes(0, 1))} for part in parts]
    assert len(set.union(*rows)) == sum(len(each) for each in rows)
    assert [part.xs.shape[-1] for part in parts] == [problem.inputs] * 3
    assert not np.array_equal(parts[0].xs, train(jax.random.key(2), jnp.int32(1)).xs)
