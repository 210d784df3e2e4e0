"""Spectra of linear networks, with a new Gaussian matrix at each step or one reused matrix.

They differ: a recurrent network uses the same W_h at every step, so the exponents of a linear one are the logs of the
absolute eigenvalues of W_h. Products of independent matrices have Newman's exponents.
"""

import numpy as np
from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import checked

_EULER = 0.57721566490153286


def ginibre_exponents(hidden_size: int, gain: float = 1.0) -> np.ndarray:
    """All exponents of a product of independent matrices W_t ~ N(0, g²/H), exact for every H.

        λ_i = ½ [log 2 + ψ((H - i + 1)/2)] + log(g/√H),   i = 1 .. H

    Args:
      hidden_size: H.
      gain: g.
    Returns:
      `[H]` nats per step, largest first.

    Example:

      >>> ginibre_exponents(64)[[0, -1]].round(5)
      array([-0.00785, -2.71462])

    Reference: Newman, The distribution of Lyapunov exponents: exact results for random matrices, Commun. Math. Phys.
    103 (1986), 121.
    """
    size = _checked_size(hidden_size)
    gain = float(checked("gain", gain, above=0))
    return (np.log(2) + _digamma_of_halves(size)[::-1]) / 2 + np.log(gain) - np.log(size) / 2


def circular_law_exponents(hidden_size: int, gain: float = 1.0) -> np.ndarray:
    """log|eigenvalue| of one large matrix W_h ~ N(0, g²/H), by the circular law: |eigenvalue|² is uniform on [0, g²].

        λ_i = log g + ½ log((H - i + ½)/H),   i = 1 .. H

    Args:
      hidden_size: H.
      gain: g.
    Returns:
      `[H]` nats per step, largest first; the quantiles, not exact at finite H. Their mean goes to log g - ½.

    Example:

      >>> round(float(circular_law_exponents(4096, 2.0).mean() - np.log(2)), 3)
      -0.5

    Reference: Ginibre, Statistical ensembles of complex, quaternion, and real matrices, J. Math. Phys. 6 (1965), 440.
    """
    size = _checked_size(hidden_size)
    gain = float(checked("gain", gain, above=0))
    return np.log(gain) + np.log((size - np.arange(size) - 0.5) / size) / 2


def frozen_exponents(w_h: ArrayLike) -> np.ndarray:
    """All exponents of a linear network with one reused matrix: log|eigenvalues of W_h|.

    Args:
      w_h: `[..., H, H]`.
    Returns:
      `[..., H]` nats per step, largest first; -inf for a zero eigenvalue.

    Example: s times an orthogonal matrix, here a rotation, has all exponents equal to log s.

      >>> frozen_exponents([[0.0, -2.0], [2.0, 0.0]]) / np.log(2)
      array([1., 1.])
    """
    with np.errstate(divide="ignore"):
        return -np.sort(-np.log(np.abs(np.linalg.eigvals(np.asarray(w_h, np.float64)))), axis=-1)


def _digamma_of_halves(count: int) -> np.ndarray:
    """ψ(i/2), i = 1 .. count, from ψ(½) = -γ - 2 log 2, ψ(1) = -γ and ψ(x + 1) = ψ(x) + 1/x."""
    values = np.empty(count)
    for first, start in ((0, -_EULER - 2 * np.log(2)), (1, -_EULER)):
        ladder = start + np.cumsum(np.concatenate([[0.0], 2 / np.arange(first + 1, count + 1, 2)]))
        values[first::2] = ladder[: len(values[first::2])]
    return values


def _checked_size(size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"hidden_size is {size!r}; it must be a positive integer.")
    return int(size)
