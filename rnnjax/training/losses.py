"""Calls a user's loss with the arguments in its signature.

    loss(params, batch)          and, if the signature has them: key, carry, setting

The loss returns the scalar alone, or together with a carry or metrics.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from rnnjax.cell import PyTree

Metrics = dict[str, Array]


def asks_for(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` has an unbound argument of this name (`**kwargs` does not count)."""
    try:
        return name in inspect.signature(function).parameters and name not in _given(function)
    except (TypeError, ValueError):  # a builtin, or a compiled function that hides its signature
        return False


def _given(function: Callable[..., Any]) -> Mapping[str, Any]:
    return function.keywords if isinstance(function, functools.partial) else {}


def with_extras(function: Callable[..., Any], extras: Mapping[str, Any]) -> Callable[..., Any]:
    """Binds those `extras` that are arguments of `function`."""
    wanted = {name: value for name, value in extras.items() if asks_for(function, name)}
    return lambda *args: function(*args, **wanted)


def unpack(result: Any, has_carry: bool) -> tuple[Array, PyTree, Metrics]:
    """`(value, carry, metrics)` from the result of a loss.

    Raises:
      TypeError: the result has none of the forms that `fit` documents.
      ValueError: the value is not a scalar.
    """
    parts = result if isinstance(result, tuple) else (result,)
    value, rest = jnp.asarray(parts[0]), list(parts[1:])
    if has_carry and not rest:
        raise TypeError("this loss has an argument `carry`, so it must return (loss, carry) or (loss, carry, metrics).")
    carry = rest.pop(0) if has_carry else None
    metrics = rest.pop(0) if rest else {}
    if rest or not isinstance(metrics, Mapping):
        form = "(loss, carry) or (loss, carry, metrics)" if has_carry else "loss or (loss, metrics)"
        raise TypeError(f"a loss returns {form}, with metrics a dict of scalars; got {type(result).__name__}.")
    if value.shape != ():
        raise ValueError(f"the loss is {list(value.shape)}; it must be one number: take its mean.")
    for name, metric in metrics.items():
        if jnp.shape(metric) != ():
            raise ValueError(f"metric {name!r} is {list(jnp.shape(metric))}; it must be one number.")
    return value, carry, {name: jnp.asarray(metric) for name, metric in metrics.items()}
