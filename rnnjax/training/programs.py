"""By what a function is recognised as one whose program is there already.

JAX keeps programs by the functions that they were made of, and asks these for their hash. An object that holds arrays
has none; it is recognised by what it holds.
"""

import dataclasses
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np


class _This:
    """Equal to another of the same object, which it keeps alive so that no other gets its `id`."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self.one is other.one

    def __hash__(self) -> int:
        return id(self.one)


def recognised(value: Any) -> Hashable:
    """A key that two values share only if they are the same to a program.

    A value with a hash is its own key. One without is recognised by its type and what it holds at this moment: a JAX
    array by identity, as it cannot change, a NumPy array by its contents. What holds anything else that has no hash is
    never recognised: its program is compiled anew.

    Example:

      >>> import dataclasses, jax.numpy as jnp
      >>> @dataclasses.dataclass(frozen=True)
      ... class Windows:
      ...     series: jax.Array
      >>> series = jnp.arange(3.0)
      >>> key = recognised(Windows(series))
      >>> key == recognised(Windows(series)), key == recognised(Windows(-series))
      (True, False)
    """
    if isinstance(value, types.MethodType):  # has a hash even where its object has none
        return value.__func__, recognised(value.__self__)
    if isinstance(value, (tuple, list)):
        return type(value), *map(recognised, value)
    try:
        hash(value)
    except TypeError:
        pass
    else:
        return type(value), value  # 1, 1.0 and True are equal, but not to a program
    if isinstance(value, jax.Array):
        return _This(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    if isinstance(value, dict):
        return type(value), *((name, recognised(held)) for name, held in value.items())
    held = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        held |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return (type(value), recognised(held)) if held else _This(object())
