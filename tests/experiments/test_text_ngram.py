"""The n-gram model: against a dictionary of counts and a recursion, and as a distribution."""

from collections import Counter

import numpy as np
import pytest

from experiments.text import ngram

V = 5
TOKENS = np.random.default_rng(0).choice(V, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05])


def counts_of(order: int, highest: int) -> Counter[tuple[int, ...]]:
    """Of the text at the highest order; below it, how many different tokens came before each gram."""
    grams = [tuple(TOKENS[i : i + highest].tolist()) for i in range(len(TOKENS) - highest + 1)]
    if order == highest:
        return Counter(grams)
    return Counter(gram[-order:] for gram in {gram[-order - 1 :] for gram in set(grams)})


def by_hand(history: tuple[int, ...], token: int, highest: int) -> float:
    """p(token | history) from the definition."""
    order = len(history) + 1
    counts = counts_of(order, highest)
    shorter = by_hand(history[1:], token, highest) if history else 1 / V
    n = {j: sum(count == j for count in counts.values()) for j in range(1, 5)}
    y = n[1] / (n[1] + 2 * n[2]) if n[1] + n[2] else 0
    discount = {
        j: min(max(j - (j + 1) * y * n[j + 1] / n[j] if n[j] and n[j + 1] and y else j / 2, 0), j) for j in (1, 2, 3)
    }
    following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
    if not following:
        return shorter
    total = sum(following.values())
    kept = following.get(token, 0)
    kept -= discount[min(kept, 3)] if kept else 0
    return kept / total + sum(discount[min(count, 3)] for count in following.values()) / total * shorter


@pytest.mark.parametrize("order", [1, 2, 4])
def test_equals_the_definition(order: int) -> None:
    rng = np.random.default_rng(order)
    histories, following = rng.integers(0, V, (40, order - 1)), rng.integers(0, V, 40)
    found = ngram.fit(TOKENS, order, V).probabilities(histories, following)
    expected = [by_hand(tuple(h.tolist()), int(c), order) for h, c in zip(histories, following, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_sums_to_one_after_any_history(order: int) -> None:
    """Seen, never seen, and one that reaches back before the text."""
    model = ngram.fit(TOKENS, order, V)
    histories = np.random.default_rng(1).integers(0, V + 1, (50, order - 1))
    total = sum(model.probabilities(histories, np.full(50, token)) for token in range(V))
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_a_text_is_scored_from_its_second_token() -> None:
    """The first history is short: there the model is the one of lower order."""
    model, text = ngram.fit(TOKENS, 3, V), np.array([2, 0, 4, 1])
    bits = model.score(text)
    expected = [
        model.probabilities(np.array([[V, 2]]), np.array([0])),
        model.probabilities(np.array([[2, 0]]), np.array([4])),
        model.probabilities(np.array([[0, 4]]), np.array([1])),
    ]
    np.testing.assert_allclose(bits, -np.log2(np.concatenate(expected)), rtol=1e-12)
    assert ngram.fit(TOKENS, 1, V).score(text).shape == (3,)


def test_a_regular_text_costs_nothing() -> None:
    """And no more than the uniform distribution where there is nothing to learn."""
    regular = np.tile([0, 1, 2], 400)
    assert ngram.fit(regular, 3, 3).score(regular).mean() < 0.02
    uniform = np.random.default_rng(2).integers(0, V, 40_000)
    assert ngram.fit(uniform[:20_000], 2, V).score(uniform[20_000:]).mean() == pytest.approx(np.log2(V), abs=0.01)


@pytest.mark.parametrize(
    ("tokens", "order", "size", "says"),
    [
        (TOKENS, 0, V, "order is 0"),
        (TOKENS, 10, V, "order is 10"),
        (TOKENS[:2], 3, V, "2 characters, fewer than the order 3"),
        (TOKENS, 2, V - 1, r"outside the alphabet 0..3"),
        (TOKENS, 2, 200, "at most 128"),
    ],
)
def test_what_does_not_fit_is_refused(tokens: np.ndarray, order: int, size: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ngram.fit(tokens, order, size)
