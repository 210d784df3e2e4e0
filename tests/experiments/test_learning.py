"""The training experiments: rows of the grid, their table, and problems whose baselines are what they say."""

import functools
import itertools
import math
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
def problem_of(name: str) -> tuple[learning.Problem, tasks.Batch]:
    """The problem, with short sequences, and its test part."""
    short = {"adding": {"steps": 20}, "copy_memory": {"delay": 5}}.get(name, {})
    problem = EXPERIMENTS[name].problem(learning.grid_of(EXPERIMENTS[name].Options(batch=8, **short))[0])
    return problem, jax.tree.map(np.asarray, jax.jit(problem.test)())


def test_clipping_seeds_faults_and_models_of_runs_that_share_a_program(tmp_path: Path) -> None:
    """A clip far above every norm changes nothing, a low one does; seeds differ; one that is not finite stops alone."""
    changes = [{}, {"index": 1}, {"max_norm": 1e6}, {"max_norm": 1e-3}, {"max_norm": np.nan}]
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as users have it
        rows = adding.trained([{**ASKED, "clipped": "max_norm" in each, **each} for each in changes], folder=tmp_path)
        saved, batch = training.load_model(tmp_path / "models" / "elman-unclipped-0"), adding.problem(ASKED).test()
        error = tasks.squared_error(saved(batch.xs)[1], batch)
    plain, other, loose, tight, broken = rows
    for row, share in ((plain, 0), (loose, 0), (tight, 1)):
        assert row["clipped_share"] == share and row["updates_done"] == 4 and row["stopped_at_update"] is None
        assert row["updates_curve"].tolist() == [2, 4] and (row["clipped_curve"] == share).all()
        assert row["held_out_mean_squared_error"] == row["held_out_mean_squared_error_curve"][-1]
        assert row["largest_gradient_norm"] == row["gradient_norm_max_curve"].max() > 1e-3
    np.testing.assert_array_equal(plain["loss_curve"], loose["loss_curve"])
    assert tight["loss_curve"][1] != plain["loss_curve"][1] and other["loss_curve"][0] != plain["loss_curve"][0]
    assert broken["stopped_at_update"] == broken["updates_done"] == 0 and broken["clipped_share"] is None
    assert "w_out after the update" in broken["not_finite"] and np.isfinite(broken["test_mean_squared_error"])
    np.testing.assert_allclose(error, plain["test_mean_squared_error"], rtol=1e-5)
    assert saved.info["index"] == 0 and saved.model == rnnjax.Readout(rnnjax.Elman(4), 1)


def test_lines_take_their_numbers_from_rows() -> None:
    """Never a median of the runs that are left."""
    errors, rows = {True: [0.5, 0.1, 0.3], False: [0.2, None, 0.4]}, []
    for clipped, i in itertools.product(errors, range(3)):
        values = {"test_e": errors[clipped][i], "held_out_e": 1.0, "clipped_share": 0.5, "largest_gradient_norm": i}
        values["stopped_at_update"] = 3 if i == 1 else None
        rows.append(lab.Row({**ASKED, "index": i, "clipped": clipped}, values, {}))
    first, second = learning.lines_of(rows, ["e"])
    assert first["clipped_at_norm"] == 1.0 and second["clipped_at_norm"] is None
    assert [first[f"test_e_{what}"] for what in ("median", "lowest", "highest")] == [0.3, 0.1, 0.5]
    assert first["test_e_std"] == pytest.approx(0.2) and first["stopped_not_finite"] == 1
    assert np.isnan(second["test_e_median"]) and first["largest_gradient_norm"] == 2.0


def test_padding_changes_no_loss_and_no_gradient_and_the_last_step_is_scored() -> None:
    """Sequences of 3 and 5 steps, padded to 9 with NaN, against each alone."""
    rows = [np.random.default_rng(0).normal(size=(length, 2)).astype(np.float32) for length in (3, 5)]
    model = rnnjax.Readout(rnnjax.LSTM(4), 3)
    params = model.init(jax.random.key(1), 2, jnp.float32)
    batch = learning.batch_of(padded(rows, [2, 0], 9))
    beyond = (np.arange(9)[:, None] >= np.asarray(batch.lengths))[..., None]
    torn = batch._replace(xs=jnp.where(beyond, jnp.float32(np.nan), batch.xs))

    def together(params: Any) -> Any:  # the vowels are ragged
        return tasks.cross_entropy(problem_of("vowels")[0].outputs_of(model, params, torn), batch)

    def alone(params: Any) -> Any:
        ends = [jax.nn.log_softmax(rnnjax.unroll(model, params, row)[1][-1]) for row in rows]
        return -(ends[0][2] + ends[1][0]) / 2

    found, expected = (jax.value_and_grad(loss)(params) for loss in (together, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_baselines_of_the_generated_tasks_and_the_share_recalled() -> None:
    """The library's tests score a predictor without memory; here the settings must be those of the sequences."""
    problem, batch = problem_of("copy_memory")
    assert batch.xs.shape[0] == 25 and problem.baseline == pytest.approx(10 * math.log(8) / 25)
    assert problem_of("adding")[0].baseline == pytest.approx(1 / 6)
    right = np.eye(9)[batch.targets]
    half = np.where(np.arange(25)[:, None, None] < 20, right, np.eye(9)[8])
    shares = [
        problem.measures["recalled_share"](outputs, jax.tree.map(jnp.asarray, batch)) for outputs in (right, half)
    ]
    assert shares == pytest.approx([1, 0.5])


@pytest.mark.parametrize("name", ["digits", "vowels"])
def test_the_best_single_answer_gets_the_baseline(name: str) -> None:
    problem, batch = problem_of(name)
    always = np.eye(problem.outputs)[:, None, None] * np.ones((1, *batch.targets.shape, 1))
    shares = jax.jit(jax.vmap(problem.measures["accuracy"], (0, None)))(always, batch)
    assert max(shares) == pytest.approx(problem.baseline) and float(sum(shares)) == pytest.approx(1)
    assert problem.ragged == (name == "vowels")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_sequence_is_in_two_parts(name: str) -> None:
    problem, test = problem_of(name)
    train, held_out = jax.jit(problem.train), jax.jit(problem.held_out)
    parts = [train(jax.random.key(0), jnp.int32(0)), held_out(jax.random.key(1), jnp.int32(0)), test]
    rows = [{row.tobytes() for row in np.asarray(part.xs.swapaxes(0, 1))} for part in parts]
    assert len(set.union(*rows)) == sum(map(len, rows)) and parts[0].xs.shape[-1] == problem.inputs
    assert not np.array_equal(parts[0].xs, train(jax.random.key(2), jnp.int32(1)).xs)
