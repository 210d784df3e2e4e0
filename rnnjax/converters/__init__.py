"""Converts parameters to and from the layouts of other libraries, as NumPy arrays, without importing the libraries.

For Flax see `rnnjax.flax` (`from_linen`, `to_linen`, `from_nnx`, `to_nnx`).
"""

from rnnjax.converters.pytorch import from_torch, to_torch
from rnnjax.converters.torchrecurrent import from_torchrecurrent, to_torchrecurrent

__all__ = ["from_torch", "from_torchrecurrent", "to_torch", "to_torchrecurrent"]
