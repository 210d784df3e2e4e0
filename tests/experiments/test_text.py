"""The language model: chunks of the stream, bits per character, sampling, and a whole run made small."""

import functools
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments import harness
from experiments.data import shakespeare
from experiments.data.shakespeare import Alphabet
from experiments.harness import UsageError
from experiments.text import __main__ as main
from experiments.text import dropping, large, paired, parallel, sample, sampling, score, stream
from rnnjax.sharding import AXIS
from rnnjax.training import Window, load_model
from tests.experiments.quickly import quickly  # noqa: F401 (a fixture)
from tests.experiments.toy import read

V = 3


@pytest.fixture(autouse=True)
def compiled_quickly() -> Iterator[None]:
    """These programs take far longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


MODEL = score.language_model(rnnjax.GRU(4), V)
PARAMS = MODEL.init(jax.random.key(0), V)
TOKENS = np.random.default_rng(0).integers(0, V, 300).astype(np.int32)


def test_the_stream_is_the_text_in_rows() -> None:
    """Consecutive chunks of a pass go on where the last ended; the next pass starts afresh, at another offset."""
    data, period = stream.stream(np.arange(100, dtype=np.int32), 100, 4, 3)
    assert period == 7  # rows of 33, the last 4 kept for the offset
    key = jax.random.key(1)
    pieces = [data(key, jnp.int32(step)) for step in range(2 * period)]
    read_by_row = np.concatenate([piece.targets for piece in pieces[:period]])
    first = [int(row[0]) for row in read_by_row.T]
    assert first[1] - first[0] == first[2] - first[1] == 33 and 1 <= first[0] <= 4
    np.testing.assert_array_equal(read_by_row, np.array(first) + np.arange(28)[:, None])
    inputs = np.concatenate([piece.xs.argmax(-1) for piece in pieces[:period]])
    np.testing.assert_array_equal(inputs + 1, read_by_row)
    assert [bool(piece.resets.any()) for piece in pieces] == [step % period == 0 for step in range(2 * period)]
    assert pieces[0].resets[0].all() and not pieces[0].resets[1:].any()
    now_and_then, _ = stream.stream(np.arange(9000, dtype=np.int32), 2, 4, 30, 0.25)
    resets = jax.vmap(lambda step: now_and_then(key, step).resets)(jnp.arange(1, 41, dtype=jnp.int32))
    assert not resets[:, 1:].any() and float(resets[:, 0].mean()) == pytest.approx(0.25, abs=0.05)  # four deviations
    assert len({tuple(row.tolist()) for row in np.asarray(resets[:, 0])}) == 40
    starts = {int(data(jax.random.key(seed), jnp.int32(0)).targets[0, 0]) for seed in range(40)}
    assert starts == {1, 2, 3, 4}
    with pytest.raises(UsageError, match="too short for chunks of 4"):
        stream.stream(np.arange(20), 100, 4, 3)


def test_bits_carry_through_the_whole_text() -> None:
    """Longer than a piece, against the softmax of one unrolled run; rows are texts of their own."""
    found = score.bits_compiled(MODEL, PARAMS, jnp.asarray(TOKENS))
    _, logits = rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(TOKENS[:-1], V))
    odds = np.exp(np.asarray(logits))
    chosen = (odds / odds.sum(-1, keepdims=True))[np.arange(299), TOKENS[1:]]
    np.testing.assert_allclose(found, -np.log2(chosen), rtol=1e-10)
    rows = jnp.asarray(TOKENS.reshape(2, 150).T)
    by_row = score.bits_compiled(MODEL, PARAMS, rows)
    np.testing.assert_allclose(by_row[:, 0], found[:149], rtol=1e-10)
    assert by_row.shape == (149, 2) and np.abs(by_row[:, 1] - found[150:]).max() > 1e-6
    with pytest.raises(ValueError, match="two characters or more"):
        score.bits(MODEL, PARAMS, jnp.asarray(TOKENS[:1]))


@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
def test_a_character_adds_half_a_unit_of_spread(name: str) -> None:
    cell = score.cell_named(name, 64, 65)
    drawn = np.asarray(score.language_model(cell, 65).init(jax.random.key(0), 65).rnn.w_x)
    assert drawn.std() == pytest.approx(0.5, rel=0.05) and type(cell).__name__.lower() == name


def test_a_model_that_knows_nothing_costs_the_logarithm() -> None:
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    np.testing.assert_allclose(score.bits_compiled(MODEL, zero, jnp.asarray(TOKENS)), np.log2(V), rtol=1e-12)


def drawn(key: int, count: int, params: Any = PARAMS, **options: Any) -> str:
    letters = sampling.characters(MODEL, params, Alphabet("abc"), jax.random.key(key), prompt="ab", **options)
    return "".join(itertools.islice(letters, count))


def test_a_sample_is_its_key() -> None:
    assert drawn(0, 60) == drawn(0, 60)
    assert drawn(0, 60) != drawn(1, 60)


def test_a_sample_follows_the_distribution() -> None:
    """A model whose logits are constant draws its characters independently; heat flattens, cold sharpens."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    odds = zero._replace(b_out=jnp.log(jnp.array([0.6, 0.3, 0.1])))
    for heat, expected in ((1.0, [0.6, 0.3, 0.1]), (0.5, np.array([0.36, 0.09, 0.01]) / 0.46)):
        text = drawn(3, 2000, odds, temperature=heat)
        shares = np.array([text.count(letter) for letter in "abc"]) / 2000
        np.testing.assert_allclose(shares, expected, atol=0.045)  # four standard deviations


def test_a_sample_depends_on_the_whole_prompt() -> None:
    """The first character is drawn with the carry of all that was read: cold, it is the likeliest one."""
    for prompt in ("abc", "cbabbc", "a"):
        _, logits = rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(Alphabet("abc").encode(prompt), V))
        letters = sampling.characters(
            MODEL, PARAMS, Alphabet("abc"), jax.random.key(0), prompt=prompt, temperature=1e-6
        )
        assert next(letters) == "abc"[int(logits[-1].argmax())]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "ax"}, "'x' not among the 3 characters"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"alphabet": Alphabet("ab")}, "2 characters, but the model 3"),
    ],
)
def test_a_sample_that_cannot_be_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    asked = {"alphabet": Alphabet("abc"), "prompt": "a", **options}
    with pytest.raises(UsageError, match=says):
        sampling.characters(MODEL, PARAMS, asked.pop("alphabet"), jax.random.key(0), **asked)


def test_the_standard_error_is_that_of_stretches() -> None:
    noise = np.random.default_rng(0).normal(size=100_000)

    def error(bits: np.ndarray) -> float | None:
        return paired.standard_error(paired.by_stretch(bits))

    assert error(noise) == pytest.approx(1 / np.sqrt(100_000), rel=0.25)
    assert error(np.repeat(noise[:1000], 100)) == pytest.approx(1 / np.sqrt(1000), rel=0.25)
    assert error(noise[:20]) is None


def test_two_models_are_compared_on_the_same_stretches() -> None:
    """What both find hard cancels; well under takes a share and a certainty, and either alone is not enough."""
    rng = np.random.default_rng(1)
    hard, own = rng.normal(4, 1, 100_000), rng.normal(0, 0.1, 100_000)

    def below(other: np.ndarray) -> dict[str, Any]:
        return dict(paired.compared(paired.by_stretch(hard), paired.by_stretch(other)))

    found = below(hard + own + 0.3)
    assert found["bits_fewer"] == pytest.approx(0.3, abs=0.002)
    assert found["standard_error"] == pytest.approx(0.1 / np.sqrt(100_000), rel=0.3)
    assert found["share_fewer"] == pytest.approx(0.3 / 4.3, rel=0.01) and found["well_under"]
    assert not below(hard + own + 0.15)["well_under"], "sure, but 3.6% fewer"
    assert not below(hard + 300 * own + 0.3)["well_under"], "7% fewer, but unsure"
    assert not below(hard - 0.3)["well_under"]


def test_weights_are_absent_at_the_rate_and_right_on_average() -> None:
    """Each is zero or scaled up, another choice for each key; what is not a matrix of W2 or the readout stays."""
    keys = jax.random.split(jax.random.key(0), 2000)
    found = jax.vmap(lambda key: dropping.dropped(PARAMS, key, 0.3))(keys)
    for weights, plain in ((found.rnn.w_h, PARAMS.rnn.w_h), (found.w_out, PARAMS.w_out)):
        absent = np.asarray(weights) == 0
        np.testing.assert_allclose(absent.mean(axis=0), 0.3, atol=0.05)
        np.testing.assert_allclose(np.where(absent, 0, weights), np.where(absent, 0, plain / 0.7), rtol=1e-12)
    np.testing.assert_array_equal(found.rnn.w_x[5], PARAMS.rnn.w_x)
    assert np.corrcoef(found.rnn.w_h[:, 0, 0] == 0, found.w_out[:, 0, 0] == 0)[0, 1] < 0.1


def test_rows_cut_over_devices_are_the_whole_batch() -> None:
    """Two devices, as a mapped axis: value, gradient and carry are those of one device with all rows."""
    data, _ = stream.stream(TOKENS, V, 5, 4)
    chunk = data(jax.random.key(0), jnp.int32(1))
    loss, initial = score.truncated_loss(MODEL, 5)
    loss = dropping.with_dropped(loss, 0.3)
    key = jax.random.key(2)
    window = initial(jax.random.normal(jax.random.key(1), (4, 4)), chunk)
    (value, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS, chunk, window, key)

    def cut(axis: int) -> Any:
        return lambda leaf: jnp.stack(jnp.split(leaf, 2, axis))

    cut_window = Window(cut(0)(window.carry), *map(cut(1), window[1:]))
    both = jax.jit(jax.vmap(functools.partial(parallel.own_rows, loss), (None, 0, 0, None), axis_name=AXIS))
    (values, windows), gradients = both(PARAMS, jax.tree.map(cut(1), chunk), cut_window, key)
    for device in range(2):
        np.testing.assert_allclose(values[device], value, rtol=1e-12)
        np.testing.assert_allclose(windows.carry[device], after.carry, rtol=1e-12)
        jax.tree.map(lambda a, b, i=device: np.testing.assert_allclose(a[i], b, rtol=1e-10), gradients, gradient)
    with pytest.raises(UsageError, match="3 rows over 2 devices"):
        parallel.cut_over(loss, types.SimpleNamespace(size=2), 3)  # pyright: ignore[reportArgumentType]


SMALL = {
    "cells": ("elman",),
    "seeds": 1,
    "hidden-size": 4,
    "updates": 6,
    "look-every": 3,
    "steps": 4,
    "batch": 2,
    "large-hidden-size": 4,
    "large-updates": 6,
    "large-batch": 2,
    "train-characters": 3000,
    "test-characters": 300,
    "sample": 12,
}


def arguments(folder: Path, **changes: Any) -> list[str]:
    given = [*({**SMALL, **changes}).items(), ("out", folder)]
    return [word for name, value in given for word in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))]


@pytest.mark.usefixtures("quickly")
def test_a_run_is_whole_resumes_and_its_model_is_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = list(map(str, arguments(tmp_path)))
    train, steps_of_each_call = large.fit, []

    def interrupted(*given: Any, **named: Any) -> Any:
        """The first time Ctrl-C, with a checkpoint behind it as `fit` leaves one, of step 3."""
        if not steps_of_each_call:
            steps_of_each_call.append([])
            with named["checkpoints"].opened() as store:
                store.save(given[1]._replace(step=jnp.int32(3)))
            raise KeyboardInterrupt
        steps: list[int] = []
        steps_of_each_call.append(steps)
        named["report"] = lambda line, tell=named["report"]: (steps.append(line["step"]), tell(line))
        return train(*given, **named)

    monkeypatch.setattr(large, "fit", interrupted)
    monkeypatch.setattr(large, "LOOKS", 2)
    assert harness.launch(main.EXPERIMENT, words) == 130
    assert harness.launch(main.EXPERIMENT, words) == 0
    assert steps_of_each_call == [[], [6]], "the second goes on from the checkpoint of the first"
    summary = read(tmp_path)
    assert summary["rows_reused_count"] == 9 and summary["rows_computed_count"] == 1 + 2
    bits = {line["model"]: line["bits_per_character"] for line in summary["compared"]}
    assert bits["uniform"] == pytest.approx(np.log2(78)) and bits["5-gram"] < bits["1-gram"] < bits["uniform"]
    assert {"elman", "elman, clipped", "lstm, H = 4"} < set(bits)
    assert len(summary["sample"]) == 13 and summary["sample"].strip() in capsys.readouterr().out
    saved = load_model(tmp_path / "model")
    tokens = jnp.asarray(Alphabet(saved.info["alphabet"]).encode(shakespeare.load().test[:300]))
    with jax.enable_x64(False):  # as in the run, whose program it is
        again = float(score.bits_compiled(saved.model, saved.params, tokens).mean())
    assert again == pytest.approx(summary["large"]["test_bits_per_character"], rel=1e-5)
    assert sample.main(["--folder", str(tmp_path), "--length", "12", "--prompt", "\n", "--temperature", "0.8"]) == 0
    assert summary["sample"].strip("\n") in capsys.readouterr().out
    assert harness.launch(main.EXPERIMENT, words) == 0 and read(tmp_path)["rows_computed_count"] == 0
    assert sample.main(["--folder", str(tmp_path), "--prompt", "né"]) == 2
    assert "'é' not among" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": "né"}, "'é' not among the 78 characters"),
        ({"train-characters": 10}, "--train-characters is 10"),
        ({"test-characters": 10}, "--test-characters is 10"),
        ({"temperature": 0}, "--temperature is 0"),
        ({"order": 12}, "--order is 12"),
        ({"large-dropped": 1.0}, "--large-dropped is 1.0"),
        ({"large-restarted": -0.1}, "--large-restarted is -0.1"),
        ({"sample": -1}, "--sample is -1"),
        ({"prompt": ""}, "--prompt is empty"),
    ],
)
def test_bad_options_are_refused(
    changes: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness.launch(main.EXPERIMENT, list(map(str, arguments(tmp_path, **changes)))) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1


def test_no_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.main(["--folder", str(tmp_path)]) == 2
    assert "no saved model" in capsys.readouterr().err
