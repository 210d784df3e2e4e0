"""Converts parameters to and from the layouts of other libraries, as NumPy arrays, without importing the libraries.

`from_any` recognises whose weights a module, a tree of arrays or a file holds. `rnnjax.flax` has the converters of
single cells of Flax (`from_linen`, `to_linen`, `from_nnx`, `to_nnx`).
"""

from rnnjax.converters.equinox import from_equinox, to_equinox
from rnnjax.converters.haiku import from_haiku, to_haiku
from rnnjax.converters.keras import from_keras, to_keras
from rnnjax.converters.pytorch import from_torch, to_torch
from rnnjax.converters.recognise import from_any
from rnnjax.converters.torchrecurrent import from_torchrecurrent, to_torchrecurrent

__all__ = [
    "from_any",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_torch",
    "from_torchrecurrent",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_torch",
    "to_torchrecurrent",
]
