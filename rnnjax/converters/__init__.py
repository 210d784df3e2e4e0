"""Parameters from and to other libraries' layouts, as NumPy arrays: none of those libraries is imported.

For Flax see `rnnjax.flax` (`from_linen`, `to_linen`, `from_nnx`, `to_nnx`).
"""

from rnnjax.converters.pytorch import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
