"""What training experiments share: the grid's rows, their table, and what a run may be asked."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments import adding, harness, learning
from experiments.data.labelled import padded
from experiments.learning import grid, sequences, table
from rnnjax import tasks, training
from tests.experiments.quickly import quickly  # noqa: F401
from tests.experiments.toy import read

TINY = ["--steps", "4", "--hidden-size", "4", "--batch", "8", "--updates", "4", "--look-every", "2"]
TINY_OPTIONS = adding.Options(steps=4, hidden_size=4, batch=8, updates=4, look_every=2)


MODEL = rnnjax.Readout(rnnjax.Elman(4), 1)


def asked(**changed: Any) -> dict[str, Any]:
    return {"cell": "elman", "clipped": True, "index": 0, **TINY_OPTIONS.of_a_row, **changed}


@pytest.fixture
def run_of(tmp_path: Path, capsys):
    """Runs `adding` in a folder; its summary."""

    def launched(*arguments: str, status: int = 0) -> dict[str, Any]:
        assert harness.launch(adding.EXPERIMENT, [*TINY, *arguments, "--out", str(tmp_path)]) == status
        capsys.readouterr()
        return read(tmp_path) if status == 0 else {}

    return launched


@pytest.mark.usefixtures("quickly")
def test_from_command_line_to_summary_and_never_twice(run_of, tmp_path: Path, monkeypatch):
    """Compiled once for all: four rows of the command line, and with them three that only this test asks for."""
    train, beside = grid.train, []

    def train_more(problem, asked, mesh=None):
        more = [{"max_norm": 1e6}, {"max_norm": 1e-3}, {"max_norm": np.nan}]
        done = train(problem, [*asked, *({**asked[0], **each} for each in more)], mesh)
        beside.extend(done)
        return done[: len(asked)]

    monkeypatch.setattr(grid, "train", train_more)
    summary = run_of("--cells", "elman", "--seeds", "2")
    assert (summary["rows_computed_count"], summary["baseline"]) == (4, pytest.approx(1 / 6))
    assert {path.name for path in tmp_path.iterdir()} >= {"curves.png", "curves.svg", "report.html", "config.json"}
    for line, clipped in zip(summary["lines"], (True, False), strict=True):
        mine = [row["test_mean_squared_error"] for row in summary["rows"] if row["clipped"] == clipped]
        assert line["test_mean_squared_error_median"] == np.median(mine) and line["seeds"] == len(set(mine)) == 2
    clips_and_seeds([(each.values, each.arrays) for each in beside])

    row = summary["rows"][1]
    saved = training.load_model(tmp_path / "models" / "elman-clipped-1")
    with jax.enable_x64(False):  # as the experiment runs
        batch = adding.problem(TINY_OPTIONS).test()
        error = tasks.squared_error(saved(batch.xs)[1], batch)
    np.testing.assert_allclose(error, row["test_mean_squared_error"], rtol=1e-5)
    assert saved.info["index"] == 1 and saved.model == MODEL

    again = run_of("--cells", "elman", "--seeds", "2")
    assert (again["rows_computed_count"], again["lines"]) == (0, summary["lines"])


def clips_and_seeds(done: list[tuple[dict[str, Any], dict[str, np.ndarray]]]) -> None:
    """A clip far above every norm changes nothing, a low one does; seeds differ; one that is not finite stops alone."""
    _, _, plain, other, loose, tight, broken = done
    for (values, arrays), share in ((plain, 0), (loose, 0), (tight, 1), (other, 0)):
        assert values["clipped_share"] == share and values["updates_done"] == 4
        assert arrays["updates"].tolist() == [2, 4] and values["stopped_at_update"] is None
        assert values["held_out_mean_squared_error"] == arrays["held_out_mean_squared_error"][-1]
        assert values["largest_gradient_norm"] == arrays["gradient_norm_max"].max() > 1e-3
    assert plain[0] == loose[0]
    assert tight[1]["loss"][1] != plain[1]["loss"][1] and other[1]["loss"][0] != plain[1]["loss"][0]
    values, arrays = broken
    assert (values["stopped_at_update"], values["updates_done"]) == (0, 0)
    assert "w_out after the update" in values["not_finite"] and np.isfinite(values["test_mean_squared_error"])
    assert np.isnan(arrays["loss"]).all() and values["clipped_share"] is None


@pytest.mark.usefixtures("quickly")
def test_a_run_that_stops_goes_on_with_the_next_cell(run_of, monkeypatch):
    trained: list[str] = []

    def train(problem, asked, mesh=None):
        trained.append(asked[0]["cell"])
        if trained == ["elman", "gru"]:
            raise KeyboardInterrupt
        line = np.array([0.5, 0.1])
        arrays = {"updates": np.array([2, 4]), "held_out_mean_squared_error": line, "gradient_norm": line}
        return [
            grid.Trained(each, values_of(0.1, each["index"]), arrays, MODEL, MODEL.init(jax.random.key(0), 2))
            for each in asked
        ]

    monkeypatch.setattr(grid, "train", train)
    arguments = ["--cells", "elman", "gru", "--seeds", "3"]
    run_of(*arguments, status=130)
    summary = run_of(*arguments)
    assert trained == ["elman", "gru", "gru"]
    assert (summary["rows_computed_count"], summary["rows_reused_count"]) == (6, 6)
    names = [(row["cell"], row["clipped"], row["index"]) for row in summary["rows"]]
    assert names == [(cell, clipped, i) for cell in ("elman", "gru") for clipped in (True, False) for i in range(3)]


def test_lines_take_their_numbers_from_rows():
    problem = adding.problem(TINY_OPTIONS)
    found = [
        harness.Row("k", asked(index=i, clipped=clipped), values_of(error, i))
        for clipped in (True, False)
        for i, error in enumerate([0.5, 0.1, 0.3] if clipped else [0.2, None, 0.4])
    ]
    first, second = table.lines_of(found, problem)
    assert first["clipped_at_norm"] == 1.0 and second["clipped_at_norm"] is None
    assert [first[f"test_mean_squared_error_{what}"] for what in ("median", "lowest", "highest")] == [0.3, 0.1, 0.5]
    assert first["test_mean_squared_error_std"] == pytest.approx(0.2) and first["stopped_not_finite"] == 1
    assert np.isnan(second["test_mean_squared_error_median"])  # never a median of those that are left, in silence
    assert first["largest_gradient_norm"] == 2.0 and first["updates_clipped_share"] == 0.5
    said = table.reading([first, second], problem)
    assert "clipped at norm 1 0.3 (seeds from 0.1 to 0.5)" in said[0] and "0.1667" in said[-1]


def values_of(error: float | None, index: int) -> dict[str, Any]:
    return {
        "test_mean_squared_error": error,
        "held_out_mean_squared_error": error,
        "clipped_share": 0.5,
        "largest_gradient_norm": float(index),
        "stopped_at_update": 3 if index == 1 else None,
    }


def test_what_a_row_depends_on():
    """Every option that changes a run is in its key, an experiment's own too; those of the grid are not."""
    assert set(TINY_OPTIONS.of_a_row) == {
        *("seed", "hidden_size", "updates", "batch", "rate", "max_norm", "look_every", "steps")
    }


def test_padding_changes_no_output_and_no_gradient():
    """Rows of 3 and 5 steps, alone, and padded to 9 with anything, even NaN: the same loss and gradient."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(length, 2)) for length in (3, 5)]
    model = rnnjax.Readout(rnnjax.LSTM(4), 3)
    params = model.init(jax.random.key(1), 2, jnp.float64)
    problems = {ragged: dataclasses.replace(adding.problem(TINY_OPTIONS), ragged=ragged) for ragged in (True, False)}

    def loss(params, batch, ragged):
        return tasks.cross_entropy(problems[ragged].outputs_of(model, params, batch), batch)

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=2)
    both = learning.batch_of(padded(rows, [2, 0], 9))
    wide = both._replace(xs=both.xs.astype(jnp.float64), weights=both.weights.astype(jnp.float64))
    beyond = (np.arange(9)[:, None] >= np.asarray(wide.lengths))[..., None]
    value, gradient = grad(params, wide._replace(xs=jnp.where(beyond, jnp.nan, wide.xs)), True)
    alone = []
    for n, row in enumerate(rows):
        single = jax.tree.map(lambda leaf, n=n: leaf[..., n : n + 1], wide._replace(xs=wide.xs[..., 0]))
        short = single._replace(xs=wide.xs[: len(row), n : n + 1])
        short = short._replace(targets=single.targets[: len(row)], weights=single.weights[: len(row)])
        assert float(short.weights.sum()) == 1
        alone.append(grad(params, short, False))
    np.testing.assert_allclose(value, np.mean([each[0] for each in alone]), rtol=1e-12)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, alone[0][1], alone[1][1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected)


def test_rows_are_asked_at_their_own_last_step_and_drawn_evenly():
    rows = padded([np.full((length, 1), float(length)) for length in (2, 4, 3)], [5, 6, 7], 4)
    batch = learning.batch_of(rows)
    assert batch.weights.T.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert batch.targets.tolist() == [[5, 6, 7]] * 4 and batch.lengths.tolist() == [2, 4, 3]
    draw = jax.jit(lambda key: sequences.draw_rows(rows, key, 3000))
    drawn = jax.tree.map(np.asarray, draw(jax.random.key(0)))
    assert set(drawn.lengths) == {2, 3, 4}
    for label, length in ((5, 2), (6, 4), (7, 3)):
        mine = drawn.targets[0] == label
        assert 900 < mine.sum() < 1100 and (drawn.lengths[mine] == length).all()
        assert (drawn.xs[:2, mine] == length).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cells", "elman", "rnn"], "--cells is elman, rnn; give one or more of elman, lstm, gru"),
        (["--cells", "gru", "gru"], "each once"),
        (["--clipping", "True", "True"], "--clipping takes True, False, or both"),
        (["--rate", "0"], "--rate is 0"),
        (["--max-norm", "nan"], "--max-norm is nan"),
        (["--steps", "1"], "--steps is 1"),
        (["--seeds", "-1"], "--seeds is -1"),
        (["--devices", "0"], "--devices is 0"),
    ],
)
def test_bad_options_are_refused_before_any_work(arguments, said, tmp_path: Path, capsys):
    assert harness.launch(adding.EXPERIMENT, [*arguments, "--out", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()
