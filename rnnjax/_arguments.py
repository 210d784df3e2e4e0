"""The order of arguments of a function over time: `f(cell, params, xs, ..., *, carry=None)`.

One step takes `(cell, params, carry, x)`, as `jax.lax.scan` has it. Over time the carry is a keyword with a default, as
most calls start from the cell's initial carry.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def over_time(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a call in the former order, `f(cell, params, carry, xs, ...)`, raise a TypeError that names the new one.

    Args:
      function: takes `cell`, `params` and `xs` first, and `carry` as a keyword.
    Returns:
      The same function, with its signature and docstring.
    Raises:
      TypeError: at a call: more positional arguments than the function has, or what is not `xs` in its place.

    Example:

      >>> @over_time
      ... def steps(cell, params, xs, *, carry=None):
      ...     return len(xs)
      >>> steps("cell", "params", [1.0, 2.0])
      2
      >>> steps("cell", "params", None, [1.0, 2.0])
      Traceback (most recent call last):
      TypeError: steps takes (cell, params, xs, *, carry=None, ...); the carry is a keyword now: \
steps(cell, params, xs, carry=carry)
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    order, name = ", ".join(positional), getattr(function, "__name__", "this")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > 2 and _in_former_order(args, kwargs, positional):
            raise TypeError(
                f"{name} takes ({order}, *, carry=None, ...); the carry is a keyword now: {name}({order}, carry=carry)"
            )
        return function(*args, **kwargs)

    return checked


def _in_former_order(args: tuple[Any, ...], kwargs: dict[str, Any], positional: list[str]) -> bool:
    if len(args) > len(positional) or any(name in kwargs for name in positional[: len(args)]):
        return True
    # a carry is None or a tree; where it is one array, `xs` stands in the place of a function such as `loss`
    return args[2] is None or isinstance(args[2], tuple | dict) or not all(callable(arg) for arg in args[3:])
