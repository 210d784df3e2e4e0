"""Cache keys for functions, so that an equal function reuses its compiled program.

JAX caches programs by the hash of their functions. Objects that hold arrays have no hash; here they are identified by
their contents.
"""

import dataclasses
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np


def recognised(value: Any) -> Hashable:
    """A cache key, which two values share only if they give the same program.

    A hashable value is its own key. Other values are identified by their type and current contents: JAX arrays by
    identity, since they are immutable, and NumPy arrays by value. A value that holds anything else without a hash gets
    a unique key, so its program is compiled again.
    """
    if isinstance(value, types.MethodType):  # hashable even if its object is not
        return value.__func__, recognised(value.__self__)
    if isinstance(value, (tuple, list)):
        return type(value), *map(recognised, value)
    try:
        hash(value)
        return type(value), value  # 1, 1.0 and True are equal, but give different programs
    except TypeError:
        pass
    if isinstance(value, jax.Array):
        return types.MethodType(id, value)  # compares the array by identity, and keeps it alive
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    if isinstance(value, dict):
        return type(value), *((name, recognised(held)) for name, held in value.items())
    held = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        held |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return (type(value), recognised(held)) if held else object()
