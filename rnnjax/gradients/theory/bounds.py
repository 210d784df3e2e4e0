"""Bounds on the gradient from the weight matrix alone.

Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, section 2.1.
"""

import numpy as np
from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import Numbers, checked, numbers

STEEPEST = {"tanh": 1.0, "relu": 1.0, "linear": 1.0, "sigmoid": 0.25}
"""γ, the largest derivative of an activation."""


def pascanu_bound(w_h: ArrayLike, activation: str = "tanh") -> Numbers:
    """log(γ λ_max), the largest possible growth of a gradient per step; λ_max is the largest singular value of W_h.

    Below 0 the gradient must vanish; above 0 it may explode. All exponents and growth rates are below this bound.

    Args:
      w_h: `[..., H, H]`.
      activation: "tanh", "relu" and "linear" have γ = 1, "sigmoid" has ¼.
    Returns:
      `[...]` nats per step.

    Example: with sigmoids, the gradient of a matrix of norm 2 must vanish.

      >>> float(np.exp(pascanu_bound([[2.0]], "sigmoid")))
      0.5
    """
    if activation not in STEEPEST:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(STEEPEST)}.")
    w_h = checked("w_h", w_h)
    with np.errstate(divide="ignore"):
        return numbers(np.log(STEEPEST[activation] * np.linalg.norm(w_h, 2, axis=(-2, -1))))
