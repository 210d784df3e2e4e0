"""The language model: n-grams by definition, chunks of the stream, bits per character, sampling, and resumption."""

import functools
import itertools
import json
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments.data import shakespeare
from experiments.data.shakespeare import Alphabet
from experiments.lab import UsageError
from experiments.text import __main__ as main
from experiments.text import model, ngram, paired, sample
from rnnjax.sharding import AXIS
from rnnjax.training import Window, load_model

V = 3
MODEL = rnnjax.Readout(rnnjax.GRU(4), V)
PARAMS = MODEL.init(jax.random.key(0), V)
TOKENS = np.random.default_rng(0).integers(0, V, 300).astype(np.int32)


@pytest.fixture(autouse=True)
def compiled_quickly() -> Iterator[None]:
    """These programs take far longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def by_hand(tokens: Any, history: tuple[int, ...], token: int, highest: int) -> float:
    """p(token | history) by the definition: a recursion over dictionaries of counts."""
    order = len(history) + 1
    grams = [tuple(tokens[i : i + highest].tolist()) for i in range(len(tokens) - highest + 1)]
    counts = Counter(grams)
    if order < highest:  # how many different tokens came before each gram
        counts = Counter(gram[-order:] for gram in {gram[-order - 1 :] for gram in set(grams)})
    shorter = by_hand(tokens, history[1:], token, highest) if history else 1 / V
    n = {j: sum(count == j for count in counts.values()) for j in range(1, 5)}
    y = n[1] / (n[1] + 2 * n[2]) if n[1] + n[2] else 0
    discount = {
        j: min(max(j - (j + 1) * y * n[j + 1] / n[j] if n[j] and n[j + 1] and y else j / 2, 0), j) for j in (1, 2, 3)
    }
    following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
    if not following:
        return shorter
    total, kept = sum(following.values()), following.get(token, 0)
    kept -= discount[min(kept, 3)] if kept else 0
    return kept / total + sum(discount[min(count, 3)] for count in following.values()) / total * shorter


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngrams_equal_their_definition_and_sum_to_one(order: int) -> None:
    """After histories seen and never seen; for the second sum, also those that reach back before the text."""
    rng = np.random.default_rng(order)
    tokens = rng.choice(V, 60, p=[0.6, 0.3, 0.1])
    found, histories = ngram.fit(tokens, order, V), rng.integers(0, V, (20, order - 1))
    odds = np.stack([found.probabilities(histories, np.full(20, token)) for token in range(V)])
    expected = [[by_hand(tokens, tuple(h.tolist()), token, order) for h in histories] for token in range(V)]
    np.testing.assert_allclose(odds, expected, rtol=1e-12)
    np.testing.assert_allclose(odds.sum(axis=0), 1, rtol=1e-12)
    text = np.array([2, 0, 1, 1, 0])
    before = [[V] * (order - 1) + text[:t].tolist() for t in range(1, 5)]
    chosen = [found.probabilities(np.array([b[len(b) - order + 1 :]], int), text[[t]]) for t, b in enumerate(before, 1)]
    np.testing.assert_allclose(found.score(text), -np.log2(np.concatenate(chosen)), rtol=1e-12)


def test_the_stream_is_the_text_in_rows() -> None:
    """Consecutive chunks of a pass go on where the last ended; the next pass starts afresh, at another offset."""
    data, period = model.stream(np.arange(100, dtype=np.int32), 100, 4, 3)
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
    now_and_then, _ = model.stream(np.arange(9000, dtype=np.int32), 2, 4, 30, 0.25)
    resets = jax.vmap(lambda step: now_and_then(key, step).resets)(jnp.arange(1, 41, dtype=jnp.int32))
    assert not resets[:, 1:].any() and float(resets[:, 0].mean()) == pytest.approx(0.25, abs=0.05)  # four deviations
    starts = {int(data(jax.random.key(seed), jnp.int32(0)).targets[0, 0]) for seed in range(40)}
    assert starts == {1, 2, 3, 4}
    with pytest.raises(UsageError, match="too short for chunks of 4"):
        model.stream(np.arange(20), 100, 4, 3)


def test_bits_carry_through_the_whole_text() -> None:
    """Longer than a piece, against the softmax of one unrolled run; rows are texts of their own."""
    found = model.bits_compiled(MODEL, PARAMS, jnp.asarray(TOKENS))
    _, logits = rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(TOKENS[:-1], V))
    odds = np.exp(np.asarray(logits))
    chosen = (odds / odds.sum(-1, keepdims=True))[np.arange(299), TOKENS[1:]]
    np.testing.assert_allclose(found, -np.log2(chosen), rtol=1e-10)
    by_row = model.bits_compiled(MODEL, PARAMS, jnp.asarray(TOKENS.reshape(2, 150).T))
    np.testing.assert_allclose(by_row[:, 0], found[:149], rtol=1e-10)
    assert by_row.shape == (149, 2) and np.abs(by_row[:, 1] - found[150:]).max() > 1e-6


def test_a_character_adds_half_a_unit_of_spread() -> None:
    drawn = np.asarray(model.language_model("lstm", 64, 65).init(jax.random.key(0), 65).rnn.w_x)
    assert drawn.std() == pytest.approx(0.5, rel=0.05)


def drawn(key: int, count: int, params: Any = PARAMS, prompt: str = "ab", **options: Any) -> str:
    letters = sample.characters(MODEL, params, Alphabet("abc"), jax.random.key(key), prompt=prompt, **options)
    return "".join(itertools.islice(letters, count))


def test_a_sample_follows_the_distribution_its_key_and_the_whole_prompt() -> None:
    """Logits that are constant draw characters independently. Cold, the first one is the likeliest after the prompt."""
    odds = jax.tree.map(jnp.zeros_like, PARAMS)._replace(b_out=jnp.log(jnp.array([0.6, 0.3, 0.1])))
    for heat, expected in ((1.0, [0.6, 0.3, 0.1]), (0.5, np.array([0.36, 0.09, 0.01]) / 0.46)):
        text = drawn(3, 2000, odds, temperature=heat)
        shares = np.array([text.count(letter) for letter in "abc"]) / 2000
        np.testing.assert_allclose(shares, expected, atol=0.045)  # four standard deviations
    assert drawn(0, 60) == drawn(0, 60) != drawn(1, 60)
    for prompt in ("abc", "cbabbc", "a"):
        _, logits = rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(Alphabet("abc").encode(prompt), V))
        assert drawn(0, 1, prompt=prompt, temperature=1e-6) == "abc"[int(logits[-1].argmax())]


def test_two_models_are_compared_on_the_same_stretches() -> None:
    """What both find hard cancels; well under takes a share and a certainty, and either alone is not enough."""
    rng = np.random.default_rng(1)
    hard, own = rng.normal(4, 1, 100_000), rng.normal(0, 0.1, 100_000)

    def below(other: np.ndarray) -> dict[str, Any]:
        return paired.compared(paired.by_stretch(hard), paired.by_stretch(other))

    found = below(hard + own + 0.3)
    assert found["bits_fewer"] == pytest.approx(0.3, abs=0.002)
    assert found["standard_error"] == pytest.approx(0.1 / np.sqrt(100_000), rel=0.3)
    assert found["share_fewer"] == pytest.approx(0.3 / 4.3, rel=0.01) and found["well_under"]
    assert not below(hard + own + 0.15)["well_under"], "certain, but 3.6% fewer"
    assert not below(hard + 300 * own + 0.3)["well_under"], "7% fewer, but uncertain"
    blocks = paired.standard_error(paired.by_stretch(np.repeat(hard[:1000], 100)))
    assert blocks == pytest.approx(1 / np.sqrt(1000), rel=0.25), "neighbours that are alike count once"


def test_weights_are_absent_at_the_rate_and_right_on_average() -> None:
    """Each is zero or scaled up, another choice for each key; only W2 and the readout change."""
    keys = jax.random.split(jax.random.key(0), 2000)
    found = jax.vmap(lambda key: model.dropped(PARAMS, key, 0.3))(keys)
    for weights, plain in ((found.rnn.w_h, PARAMS.rnn.w_h), (found.w_out, PARAMS.w_out)):
        absent = np.asarray(weights) == 0
        np.testing.assert_allclose(absent.mean(axis=0), 0.3, atol=0.05)
        np.testing.assert_allclose(np.where(absent, 0, weights), np.where(absent, 0, plain / 0.7), rtol=1e-12)
    np.testing.assert_array_equal(found.rnn.w_x[5], PARAMS.rnn.w_x)
    assert np.corrcoef(found.rnn.w_h[:, 0, 0] == 0, found.w_out[:, 0, 0] == 0)[0, 1] < 0.1


def test_rows_on_two_devices_are_the_whole_batch() -> None:
    """Two devices, as a mapped axis: value, gradient and carry are those of one device with all rows."""
    data, _ = model.stream(TOKENS, V, 5, 4)
    chunk, key = data(jax.random.key(0), jnp.int32(1)), jax.random.key(2)
    plain, initial = model.truncated_loss(MODEL, 5)

    def loss(params: Any, batch: Any, carry: Any, key: Any) -> Any:
        return plain(model.dropped(params, key, 0.3), batch, carry)

    window = initial(jax.random.normal(jax.random.key(1), (4, 4)), chunk)
    (value, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS, chunk, window, key)

    def cut(axis: int) -> Any:
        return lambda leaf: jnp.stack(jnp.split(leaf, 2, axis))

    cut_window = Window(cut(0)(window.carry), *map(cut(1), window[1:]))
    both = jax.jit(jax.vmap(functools.partial(model.own_rows, loss), (None, 0, 0, None), axis_name=AXIS))
    (values, windows), gradients = both(PARAMS, jax.tree.map(cut(1), chunk), cut_window, key)
    for device in range(2):
        np.testing.assert_allclose(values[device], value, rtol=1e-12)
        np.testing.assert_allclose(windows.carry[device], after.carry, rtol=1e-12)
        jax.tree.map(lambda a, b, i=device: np.testing.assert_allclose(a[i], b, rtol=1e-10), gradients, gradient)
    with pytest.raises(UsageError, match="3 rows over 2 devices"):
        model.sharded(loss, types.SimpleNamespace(size=2), 3)  # pyright: ignore[reportArgumentType]


SMALL = (
    "--cells elman --seeds 1 --clipping True --hidden-size 4 --updates 6 --look-every 3 --steps 4 --batch 2 "
    "--sample 12 --large-hidden-size 4 --large-updates 6 --large-batch 2 --train-characters 3000 "
    "--test-characters 300 --out"
)


def test_a_run_resumes_from_a_checkpoint_and_its_model_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, fit, steps = [*SMALL.split(), str(tmp_path)], model.fit, []
    bad = {"--prompt né": "'é' not among the 78 characters", "--train-characters 10": "--train-characters is 10"}
    for given, said in bad.items():
        assert main.experiment.launch([*given.split(), "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err

    def interrupted(*given: Any, **named: Any) -> Any:
        """The first time Ctrl-C, with a checkpoint of step 3 behind it, as `fit` leaves one."""
        if not steps:
            steps.append(0)
            with named["checkpoints"].opened() as store:
                store.save(given[1]._replace(step=jnp.int32(3)))
            raise KeyboardInterrupt
        named["report"] = lambda line, tell=named["report"]: (steps.append(line["step"]), tell(line))
        return fit(*given, **named)

    monkeypatch.setattr(model, "fit", interrupted)
    monkeypatch.setattr(model, "LOOKS", 2)
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        assert main.experiment.launch(words) == 130
        assert main.experiment.launch(words) == 0
    assert steps == [0, 6], "the second run goes on from the checkpoint of the first"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows_reused_count"], summary["rows_computed_count"]) == (9, 2)
    bits = {line["model"]: line["bits_per_character"] for line in summary["compared"]}
    assert bits["uniform"] == pytest.approx(np.log2(78)) and bits["5-gram"] < bits["1-gram"] < bits["uniform"]
    assert {"elman, clipped", "lstm, H = 4"} < set(bits)
    assert len(summary["sample"]) == 13 and summary["sample"].strip() in capsys.readouterr().out
    saved = load_model(tmp_path / "model")
    tokens = jnp.asarray(Alphabet(saved.info["alphabet"]).encode(shakespeare.load().test[:300]))
    with jax.enable_x64(False):  # as in the run, whose program it is
        again = float(model.bits_compiled(saved.model, saved.params, tokens).mean())
    assert again == pytest.approx(summary["large"]["test_bits_per_character"], rel=1e-5)
    folder = ["--folder", str(tmp_path)]
    assert sample.main([*folder, "--length", "12", "--prompt", "\n", "--temperature", "0.8"]) == 0
    assert summary["sample"].strip("\n") in capsys.readouterr().out
    assert sample.main([*folder, "--prompt", "né"]) == 2 and "'é' not among" in capsys.readouterr().err
    assert sample.main([*folder, "--length", "0"]) == 2 and "--length is 0" in capsys.readouterr().err
    assert sample.main(["--folder", str(tmp_path / "new")]) == 2 and "no saved model" in capsys.readouterr().err
