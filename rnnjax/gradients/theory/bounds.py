"""What a weight matrix alone allows a gradient to do.

Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, section 2.1.
"""

import numpy as np
from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import Numbers, checked, numbers

STEEPEST = {"tanh": 1.0, "relu": 1.0, "linear": 1.0, "sigmoid": 0.25}
"""γ, the largest slope of an activation."""


def pascanu_bound(w_h: ArrayLike, activation: str = "tanh") -> Numbers:
    """log(γ λ_max), the most that a gradient can grow in a step; λ_max is the largest singular value of W_h.

    Below 0 the gradient must vanish; it can explode only above 0, and need not. Exponents and growth over any lag
    lie below it.

    Args:
      w_h: `[..., H, H]`.
      activation: "tanh", "relu" and "linear" have γ = 1, "sigmoid" has ¼.
    Returns:
      `[...]` nats per step.

    Example: with sigmoids a matrix of norm 2 can only vanish.

      >>> float(np.exp(pascanu_bound([[2.0]], "sigmoid")))
      0.5
    """
    if activation not in STEEPEST:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(STEEPEST)}.")
    w_h = checked("w_h", w_h)
    with np.errstate(divide="ignore"):
        return numbers(np.log(STEEPEST[activation] * np.linalg.norm(w_h, 2, axis=(-2, -1))))
