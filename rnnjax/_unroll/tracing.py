"""Reading a cell's functions as equations: what the `hoisted` engine knows about a cell, it knows from here.

JAX can write any traced function down as a list of primitive equations, a jaxpr. `flat_jaxpr` does so with the calls
inside it (`jax.nn.sigmoid` is one) written out in place, and `evaluate` runs such a list, if need be with some values
replaced on the way. Of JAX it uses `jax.make_jaxpr`, `jax.core.eval_jaxpr` and the types of `jax.extend.core`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, JaxprEqn, Literal, Var

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat2": "jaxpr"}

_ALONE = DebugInfo("one equation", "rnnjax._unroll.tracing", None, None)


def aval(var: Any) -> Any:
    """The shape and dtype of a variable."""
    return var.aval


def flat_jaxpr(function: Callable[..., Any], *args: Any) -> ClosedJaxpr:
    """The equations of `function` at arguments of these shapes (arrays or `ShapeDtypeStruct`s), calls inlined."""
    nested = jax.make_jaxpr(function)(*args)
    leaves = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in nested.jaxpr.invars]
    return jax.make_jaxpr(lambda *values: evaluate(nested, values))(*leaves)


def evaluate(
    closed: ClosedJaxpr,
    args: Sequence[Any],
    known: Mapping[Var, Any] | None = None,
    rules: Mapping[str, Callable[[JaxprEqn, list[Any]], Any]] | None = None,
) -> list[Any]:
    """Runs the equations on `args`.

    Args:
      known: values to be used *downstream* in place of what the equations compute for these variables; what is returned
        for such a variable is still what its own equation computes. This cuts a computation into independent parts.
      rules: by primitive name, what to compute instead of the primitive, from the equation and its input values.
    Returns:
      One value for each output.
    """
    known, rules = known or {}, rules or {}
    computed = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    computed.update(zip(closed.jaxpr.invars, args, strict=True))
    for eqn in closed.jaxpr.eqns:
        values = [v.val if isinstance(v, Literal) else known.get(v, computed[v]) for v in eqn.invars]
        computed.update(zip(eqn.outvars, _evaluate_one(eqn, values, rules), strict=True))
    return [v.val if isinstance(v, Literal) else computed[v] for v in closed.jaxpr.outvars]


def _evaluate_one(eqn: JaxprEqn, values: list[Any], rules: Mapping[str, Callable[[JaxprEqn, list[Any]], Any]]):
    name = eqn.primitive.name
    if name in rules:
        result = rules[name](eqn, values)
        return result if eqn.primitive.multiple_results else [result]
    if name in _CALLS:
        inner = eqn.params[_CALLS[name]]
        return evaluate(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), values, None, rules)
    by_var = {v: value for v, value in zip(eqn.invars, values, strict=True) if not isinstance(v, Literal)}
    alone = Jaxpr((), list(by_var), eqn.outvars, [eqn], debug_info=_ALONE)
    return jax.core.eval_jaxpr(alone, (), *by_var.values())


def reached(closed: ClosedJaxpr, sources: Sequence[int]) -> set[Var]:
    """The variables that depend on the inputs with these indices, those inputs included."""
    tainted = {closed.jaxpr.invars[i] for i in sources}
    for eqn in closed.jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in tainted for v in eqn.invars):
            tainted.update(eqn.outvars)
    return tainted
