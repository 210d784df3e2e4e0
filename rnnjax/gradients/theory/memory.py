"""The curse of memory: a recurrence with a long memory is hard to learn even if its gradient does not explode.

Reference: Zucchet and Orvieto, Recurrent neural networks: vanishing and exploding gradients are not the end of the
story, NeurIPS 2024.
"""

from typing import NamedTuple

from numpy.typing import ArrayLike

from rnnjax.gradients.theory.numbers import Numbers, checked, numbers


class MemoryCurse(NamedTuple):
    """Stationary moments of h_t = λ h_{t-1} + x_t.

    Attributes:
      variance: E[h²].
      sensitivity: E[(∂h/∂λ)²].
    """

    variance: Numbers
    sensitivity: Numbers


def curse_of_memory(lam: ArrayLike) -> MemoryCurse:
    """The variance of a linear unit's state and of its parameter gradient, which grows much faster as λ goes to 1.

        h_t = λ h_{t-1} + x_t,  x_t ~ N(0, 1):    E[h²] = 1/(1 - λ²),    E[(∂h/∂λ)²] = (1 + λ²)/(1 - λ²)³

    Args:
      lam: λ, -1 < λ < 1, numbers or an array.

    Example:

      >>> round(curse_of_memory(0.9).sensitivity, 1)
      263.9
    """
    lam = checked("lam", lam, above=-1, below=1)
    left = (1 - lam) * (1 + lam)
    return MemoryCurse(numbers(1 / left), numbers((1 + lam**2) / left**3))
