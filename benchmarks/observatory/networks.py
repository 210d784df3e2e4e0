"""The networks of the observatory: all combinations of gains and seeds, drawn once in NumPy."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np


class Drawn(NamedTuple):
    """What everybody is given, in float64; nobody's time counts the drawing."""

    w_h: np.ndarray  # [seeds, H, H], gain 1
    xs: np.ndarray  # [seeds, steps, H]
    gains: np.ndarray  # [gains]
    first: np.ndarray  # [k, H], orthonormal rows: the first perturbations


@dataclasses.dataclass(frozen=True)
class Networks:
    """All combinations of gains and seeds.

    Attributes:
      hidden: H.
      exponents: k, how many exponents.
      gains: what a Gaussian W of variance 1/H is multiplied by.
      seeds: each draws a matrix and an input of its own.
      steps: T.
      interval: steps from one orthonormalisation to the next, where it is not 1.
      few: how many networks the slow contestants are run on.
    """

    hidden: int
    exponents: int
    gains: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    interval: int
    few: int

    def __len__(self) -> int:
        return len(self.gains) * len(self.seeds)

    def chosen(self) -> list[int]:
        """Which networks the slow contestants are run on, the seed running fastest: spread evenly over all."""
        return sorted({round(i) for i in np.linspace(0, len(self) - 1, min(self.few, len(self)))})

    @functools.cached_property
    def drawn(self) -> Drawn:
        size, rngs = self.hidden, [np.random.default_rng(seed) for seed in self.seeds]
        columns = np.random.default_rng(0).normal(size=(size, self.exponents))  # as `lyapunov_spectrum` has them
        return Drawn(
            np.stack([rng.normal(size=(size, size)) / np.sqrt(size) for rng in rngs]),
            np.stack([rng.normal(size=(self.steps, size)) for rng in rngs]),
            np.asarray(self.gains),
            np.linalg.qr(columns)[0].T,
        )

    def network(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """`(w_h, xs)` of one, its gain multiplied in."""
        gain, seed = divmod(index, len(self.seeds))
        return self.gains[gain] * self.drawn.w_h[seed], self.drawn.xs[seed]
