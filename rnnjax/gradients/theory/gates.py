"""The decay of an LSTM's cell state if its gates do not depend on the state.

c_t = σ(b_f) c_{t-1} + ...        dc_T/dc_t = σ(b_f)^k,   k = T - t
"""

import numpy as np
from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import Numbers, checked, numbers


def forget_gate_exponent(forget_bias: ArrayLike) -> Numbers:
    """log σ(b_f): the exponent of the cell state of an LSTM without recurrent weights and input.

    Args:
      forget_bias: b_f, numbers or an array.
    Returns:
      Nats per step, without cancellation for large b_f.

    Example: a bias of zero is the vanishing gradient of 0.5^k.

      >>> float(np.exp(forget_gate_exponent(0.0))), round(float(np.exp(forget_gate_exponent(1.0))), 3)
      (0.5, 0.731)
    """
    return numbers(-np.logaddexp(0, -checked("forget_bias", forget_bias)))


def forget_gate_time(forget_bias: ArrayLike) -> Numbers:
    """τ = -1/log σ(b_f), the number of steps in which a gradient decays by a factor e.

    Example:

      >>> round(forget_gate_time(5.0))
      149
    """
    return numbers(-1 / np.asarray(forget_gate_exponent(forget_bias)))


def chrono_decay(lag: ArrayLike, t_max: float) -> Numbers:
    """The gradient of the cell state after k steps under chrono initialisation, averaged over units.

        b_f = log u, u ~ U(1, T_max - 1):        E[(u/(1 + u))^k],   which is not exponential in k

    Args:
      lag: k >= 0, numbers or an array.
      t_max: T_max > 2, the longest expected dependency [steps].
    Returns:
      Numbers in (0, 1].

    Example:

      >>> chrono_decay([0, 50, 500], 500).round(3)
      array([1.   , 0.725, 0.149])

    Reference: Tallec and Ollivier, Can recurrent neural networks warp time?, ICLR 2018.
    """
    lag = checked("lag", lag, above=0, closed=True)
    t_max = float(checked("t_max", t_max, above=2))
    # Gauss-Legendre in log(u), on panels narrow enough for a smooth integrand at any lag.
    edges = np.linspace(0, np.log(t_max - 1), 33)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    log_u = (edges[:-1, None] + edges[1:, None]) / 2 + np.diff(edges)[:, None] / 2 * nodes
    weights = (np.diff(edges)[:, None] / 2 * weights * np.exp(log_u) / (t_max - 2)).ravel()
    log_gate = -np.log1p(np.exp(-log_u)).ravel()
    return numbers((weights * np.exp(lag[..., None] * log_gate)).sum(-1))
