"""The language model: n-grams by definition, chunks of the stream, bits per character, sampling, and resumption."""

import functools
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from experiments.data.shakespeare import Alphabet
from experiments.lab import UsageError
from experiments.text import __main__ as main
from experiments.text import model, ngram, paired, sample
from rnnjax.sharding import AXIS
from tests.experiments.test_all_experiments import SMALL

V = 3
MODEL = rnnjax.Readout(rnnjax.GRU(4), V)
PARAMS = MODEL.init(jax.random.key(0), V)
TOKENS = np.random.default_rng(0).integers(0, V, 300).astype(np.int32)


def by_hand(tokens: Any, history: tuple[int, ...], token: int, highest: int) -> float:
    """p(token | history) by the definition: a recursion over dictionaries of counts."""
    order = len(history) + 1
    grams = [tuple(tokens[i : i + highest].tolist()) for i in range(len(tokens) - highest + 1)]
    longer = grams if order == highest else {gram[-order - 1 :] for gram in grams}
    counts = Counter(gram[-order:] for gram in longer)  # below the highest: how many different tokens came before
    shorter = by_hand(tokens, history[1:], token, highest) if history else 1 / V
    n = {j: sum(count == j for count in counts.values()) for j in range(1, 5)}
    y = n[1] / (n[1] + 2 * n[2]) if n[1] + n[2] else 0
    raw = {j: j - (j + 1) * y * n[j + 1] / n[j] if n[j] and n[j + 1] and y else j / 2 for j in (1, 2, 3)}
    discount = {j: min(max(d, 0), j) for j, d in raw.items()}
    following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
    if not following:
        return shorter
    total, kept = sum(following.values()), following.get(token, 0)
    kept -= discount[min(kept, 3)] if kept else 0
    return kept / total + sum(discount[min(count, 3)] for count in following.values()) / total * shorter


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngrams_equal_their_definition_and_sum_to_one(order: int) -> None:
    """After histories seen and never seen, and those that reach back before the text."""
    rng = np.random.default_rng(order)
    tokens = rng.choice(V, 60, p=[0.6, 0.3, 0.1])
    found, histories = ngram.fit(tokens, order, V), rng.integers(0, V, (20, order - 1))
    odds = np.stack([found.probabilities(histories, np.full(20, token)) for token in range(V)])
    expected = [[by_hand(tokens, tuple(h.tolist()), token, order) for h in histories] for token in range(V)]
    np.testing.assert_allclose(odds, expected, rtol=1e-12)
    np.testing.assert_allclose(odds.sum(axis=0), 1, rtol=1e-12)
    text = [2, 0, 1, 1, 0]
    before = [([V] * order + text[:t])[t + 1 :] for t in range(1, 5)]
    chosen = [by_hand(tokens, tuple(history), token, order) for history, token in zip(before, text[1:], strict=True)]
    np.testing.assert_allclose(found.score(np.array(text)), -np.log2(chosen), rtol=1e-12)


def test_the_stream_is_the_text_in_rows() -> None:
    """Consecutive chunks of a pass go on where the last ended; the next pass starts afresh, at another offset."""
    data, period = model.stream(np.arange(100, dtype=np.int32), 100, 4, 3)
    assert period == 7  # rows of 33, the last 4 kept for the offset
    key = jax.random.key(1)
    pieces = [data(key, jnp.int32(step)) for step in range(2 * period)]
    read_by_row = np.concatenate([piece.targets for piece in pieces[:period]])
    np.testing.assert_array_equal(read_by_row, read_by_row[0, 0] + 33 * np.arange(3) + np.arange(28)[:, None])
    np.testing.assert_array_equal(np.concatenate([p.xs.argmax(-1) for p in pieces[:period]]) + 1, read_by_row)
    assert [bool(piece.resets.any()) for piece in pieces] == [step % period == 0 for step in range(2 * period)]
    assert pieces[0].resets[0].all() and not pieces[0].resets[1:].any()
    now_and_then, _ = model.stream(np.arange(9000, dtype=np.int32), 2, 4, 30, 0.25)
    resets = jax.vmap(lambda step: now_and_then(key, step).resets)(jnp.arange(1, 41, dtype=jnp.int32))
    assert not resets[:, 1:].any() and float(resets[:, 0].mean()) == pytest.approx(0.25, abs=0.05)  # four deviations
    assert {int(data(jax.random.key(seed), jnp.int32(0)).targets[0, 0]) for seed in range(40)} == {1, 2, 3, 4}


def test_bits_carry_through_the_whole_text() -> None:
    """Longer than a piece, against the softmax of one unrolled run; rows are texts of their own."""
    found = model.bits_compiled(MODEL, PARAMS, jnp.asarray(TOKENS))
    odds = np.exp(np.asarray(rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(TOKENS[:-1], V))[1]))
    chosen = (odds / odds.sum(-1, keepdims=True))[np.arange(299), TOKENS[1:]]
    np.testing.assert_allclose(found, -np.log2(chosen), rtol=1e-10)
    by_row = model.bits_compiled(MODEL, PARAMS, jnp.asarray(TOKENS.reshape(2, 150).T))
    np.testing.assert_allclose(by_row[:, 0], found[:149], rtol=1e-10)
    assert by_row.shape == (149, 2) and np.abs(by_row[:, 1] - found[150:]).max() > 1e-6


def test_a_sample_follows_the_distribution_its_key_and_the_whole_prompt() -> None:
    """Logits that are constant draw characters independently. Cold, the first one is the likeliest after the prompt."""

    def drawn(key: int, count: int, params: Any = PARAMS, prompt: str = "ab", **options: Any) -> str:
        letters = sample.characters(MODEL, params, Alphabet("abc"), jax.random.key(key), prompt=prompt, **options)
        return "".join(itertools.islice(letters, count))

    odds = jax.tree.map(jnp.zeros_like, PARAMS)._replace(b_out=jnp.log(jnp.array([0.6, 0.3, 0.1])))
    for heat, expected in ((1.0, [0.6, 0.3, 0.1]), (0.5, np.array([0.36, 0.09, 0.01]) / 0.46)):
        text = drawn(3, 2000, odds, temperature=heat)
        shares = np.array([text.count(letter) for letter in "abc"]) / 2000
        np.testing.assert_allclose(shares, expected, atol=0.045)  # four standard deviations
    assert drawn(0, 60) == drawn(0, 60) != drawn(1, 60)
    for prompt in ("abc", "cbabbc", "a"):
        _, logits = rnnjax.unroll(MODEL, PARAMS, jax.nn.one_hot(Alphabet("abc").encode(prompt), V))
        assert drawn(0, 1, prompt=prompt, temperature=1e-6) == "abc"[int(logits[-1].argmax())]


@pytest.mark.parametrize(("gain", "noise", "under"), [(0.3, 0.1, True), (0.15, 0.1, False), (0.3, 1.0, False)])
def test_two_models_are_compared_on_the_same_stretches(gain: float, noise: float, under: bool) -> None:
    """What both find hard cancels; well under takes a share and a certainty, and either alone is not enough."""
    hard = np.repeat((-1.0) ** np.arange(50), 40)
    stretches = (paired.by_stretch(bits) for bits in (4 + 3 * hard, 4 + gain + (3 + noise) * hard))
    expected = {"bits_fewer": gain, "share_fewer": gain / (4 + gain), "standard_error": noise / 7, "well_under": under}
    assert paired.compared(*stretches) == pytest.approx(expected)


def test_weights_are_absent_at_the_rate_and_right_on_average() -> None:
    """Each is zero or scaled up, another choice for each key; only W2 and the readout change."""
    found = jax.vmap(lambda key: model.dropped(PARAMS, key, 0.3))(jax.random.split(jax.random.key(0), 2000))
    for weights, plain in ((found.rnn.w_h, PARAMS.rnn.w_h), (found.w_out, PARAMS.w_out)):
        absent = np.asarray(weights) == 0
        np.testing.assert_allclose(absent.mean(axis=0), 0.3, atol=0.05)
        np.testing.assert_allclose(weights, np.where(absent, 0, plain / 0.7), rtol=1e-12)
    np.testing.assert_array_equal(found.rnn.w_x[5], PARAMS.rnn.w_x)
    assert np.corrcoef(found.rnn.w_h[:, 0, 0] == 0, found.w_out[:, 0, 0] == 0)[0, 1] < 0.1


def test_rows_on_two_devices_are_the_whole_batch() -> None:
    """Two devices, as a mapped axis: value, gradient and carry are those of one device with all rows."""
    data, _ = model.stream(TOKENS, V, 5, 4)
    chunk, key = data(jax.random.key(0), jnp.int32(1)), jax.random.key(2)
    plain, carry = model.truncated_loss(MODEL, 5), jax.random.normal(jax.random.key(1), (4, 4))

    def loss(params: Any, batch: Any, carry: Any, key: Any) -> Any:
        return plain(model.dropped(params, key, 0.3), batch, carry)

    def cut(axis: int) -> Any:
        return lambda leaf: jnp.stack(jnp.split(leaf, 2, axis))

    (value, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS, chunk, carry, key)
    both = jax.jit(jax.vmap(functools.partial(model.own_rows, loss), (None, 0, 0, None), axis_name=AXIS))
    (values, carries), gradients = both(PARAMS, jax.tree.map(cut(1), chunk), cut(0)(carry), key)
    found, expected = (values, carries, gradients), (value, after, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, jnp.stack([b, b]), rtol=1e-10), found, expected)


def test_the_larger_network_resumes_from_a_checkpoint_and_its_model_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SMALL["text"] | {"large_updates": 6, "sample": 12, "out": tmp_path}
    for wrong, said in (({"prompt": "né"}, "'é' not among"), ({"train_characters": 10}, "--train-characters is 10")):
        with pytest.raises(UsageError, match=said):
            main.experiment(**{**small, **wrong})
    updates, summaries = [], []
    fit = functools.partial(model.fit, report=lambda line: updates.append(line["step"]))
    monkeypatch.setattr(model, "fit", lambda *given, report, **named: fit(*given, **named))
    monkeypatch.setattr(model, "LOOKS", 2)
    for _ in range(2):
        with jax.numpy_dtype_promotion("standard"):  # as users have it
            main.experiment(**small)
        summaries.append(json.loads((tmp_path / "summary.json").read_text()))
        lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "rows.jsonl").write_text("".join(line for line in lines if "train_large" not in line))
        shutil.rmtree(next(tmp_path.glob("rows/*-steps/step_000000006")))
    assert updates == [3, 6, 6], "the second run goes on from the checkpoint of the first"
    summary = summaries[1]
    assert [summary[name] for name in ("sample", "compared")] == [summaries[0][name] for name in ("sample", "compared")]
    bits = {line["model"]: line["bits_per_character"] for line in summary["compared"]}
    assert bits["uniform"] == pytest.approx(np.log2(78)) and bits["5-gram"] < bits["1-gram"] < bits["uniform"]
    assert {"elman, clipped", "lstm, H = 8"} < set(bits)
    assert sample.main(["--folder", str(tmp_path), "--length", "12"]) == 0
    assert summary["sample"].strip("\n") in capsys.readouterr().out
    for given, said in (("--prompt né", "'é' not among"), ("--folder new", "no saved model")):
        assert sample.main(["--folder", str(tmp_path), *given.split()]) == 2 and said in capsys.readouterr().err
