"""The opponent: an n-gram model of characters by interpolated Kneser-Ney smoothing, in NumPy.

    p_n(c | h) = max(N(hc) - D(N(hc)), 0) / N(h·) + γ(h) p_{n-1}(c | h')       h' is h without its oldest character
    γ(h)       = Σ_j D_j N_j(h·) / N(h·)                                       N_j(h·): how many c have N(hc) = j

N counts in the text at the highest order; below it N(hc) is the number of *different* characters seen before hc, as
those orders are used only where the longer history was no help. Each order has three discounts: D_1, D_2 for counts
one and two, D_3 for all above. Below order one is the uniform distribution, so every character has a probability.
After a history that was never seen, the shorter one decides.

Reference: Kneser and Ney, Improved backing-off for m-gram language modeling, ICASSP 1995; three discounts, and their
formula: Chen and Goodman, An empirical study of smoothing techniques for language modeling, Computer Speech & Language
13 (1999), 359-394, section 3.
"""

from typing import NamedTuple

import numpy as np

MAX_ORDER = 9  # the code of a history and its character fits 64 bits, for up to 128 characters


class Counts(NamedTuple):
    """What was seen at one order; codes are numbers in base V + 1, oldest character first."""

    grams: np.ndarray  # [G] int64, codes of the different grams hc, rising
    counts: np.ndarray  # [G], N(hc)
    histories: np.ndarray  # [M] int64, codes of the different h, rising
    totals: np.ndarray  # [M], N(h·)
    kinds: np.ndarray  # [M, 3], how many c follow h once, twice, more often
    discounts: np.ndarray  # [3], D_1, D_2, D_3


class NGram(NamedTuple):
    """A model of order n; made by `fit`."""

    alphabet_size: int  # V
    orders: tuple[Counts, ...]  # of order 1 to n

    def probabilities(self, histories: np.ndarray, following: np.ndarray) -> np.ndarray:
        """p(c | h) `[P]` of tokens c `[P]` after histories `[P, n - 1]`; V stands for "before the text began"."""
        base = self.alphabet_size + 1
        found = np.full(len(following), 1 / self.alphabet_size)
        history, place = np.zeros(len(following), np.int64), np.int64(1)
        for order, seen in enumerate(self.orders, start=1):
            if order > 1:
                history = history + histories[:, -(order - 1)] * place
                place = place * base
            at, known = _find(seen.histories, history)
            place_of_gram, there = _find(seen.grams, history * base + following)
            count = np.where(there, seen.counts[place_of_gram], 0)
            discount = np.where(there, seen.discounts[np.minimum(count, 3) - 1], 0)
            left = seen.kinds[at] @ seen.discounts
            found = np.where(known, (count - discount + left * found) / seen.totals[at], found)
        return found

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """-log2 p of every token but the first, given those before it in `tokens`: `[N]` to `[N - 1]`, in bits."""
        padded = np.concatenate([np.full(len(self.orders) - 1, self.alphabet_size), tokens])
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(self.orders))[1:]
        return -np.log2(self.probabilities(windows[:, :-1], windows[:, -1]))


def fit(tokens: np.ndarray, order: int, alphabet_size: int) -> NGram:
    """Counts the grams of n = `order` tokens and fewer in a text `[N]` of integers in 0..V-1."""
    tokens = np.asarray(tokens, np.int64)
    if not 1 <= order <= MAX_ORDER or alphabet_size > 128:
        raise ValueError(f"order {order} of {alphabet_size} characters; 64 bits hold orders 1 to {MAX_ORDER} of 128.")
    base = alphabet_size + 1
    windows = np.lib.stride_tricks.sliding_window_view(tokens, order)
    grams, counts = np.unique(windows @ base ** np.arange(order - 1, -1, -1, dtype=np.int64), return_counts=True)
    found = [_count(grams, counts, base)]
    for length in range(order - 1, 0, -1):
        # a gram is counted once for each different character that came before it
        grams, counts = np.unique(grams % base**length, return_counts=True)
        found.append(_count(grams, counts, base))
    return NGram(alphabet_size, tuple(reversed(found)))


def _count(grams: np.ndarray, counts: np.ndarray, base: int) -> Counts:
    """The counts of one order, and its discounts, n_j the number of grams with count j:

        D_j = j - (j + 1) Y n_{j+1} / n_j        Y = n_1 / (n_1 + 2 n_2)        within 0..j

    Where an n_j is zero, as in the small orders of a long text, the formula is undefined, and D_j is j/2.
    """
    histories, which = np.unique(grams // base, return_inverse=True)
    kinds = np.stack([np.bincount(which, np.minimum(counts, 3) == kind, len(histories)) for kind in (1, 2, 3)], axis=1)
    n = [np.sum(counts == j) for j in range(1, 5)]
    y = n[0] / max(n[0] + 2 * n[1], 1)
    discounts = [j - (j + 1) * y * n[j] / n[j - 1] if n[j - 1] and n[j] and y else j / 2 for j in (1, 2, 3)]
    return Counts(grams, counts, histories, np.bincount(which, counts), kinds, np.clip(discounts, 0, (1, 2, 3)))


def _find(codes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` is in the rising `codes`, and whether it is there at all."""
    place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return place, codes[place] == wanted
