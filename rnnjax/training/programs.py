"""Cache keys for functions, so that an equal function reuses its compiled program, even if it holds arrays."""

import dataclasses
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np


def recognised(value: Any) -> Hashable:
    """A cache key, which two values share only if they give the same program.

    A hashable value is its own key. Others are identified by type and current contents: JAX arrays, which are
    immutable, by identity, and NumPy arrays by value. If anything else in them has no hash, the key is unique.
    """
    if isinstance(value, types.MethodType):  # hashable even if its object is not
        return value.__func__, recognised(value.__self__)
    if isinstance(value, (tuple, list, dict)):
        return type(value), *map(recognised, value.items() if isinstance(value, dict) else value)
    if isinstance(value, jax.Array):
        return types.MethodType(id, value)  # compares the array by identity, and keeps it alive
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    try:
        return hash(value), type(value), value  # 1, 1.0 and True are equal, but give different programs
    except TypeError:
        held = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        held |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return (type(value), recognised(held)) if held else object()
