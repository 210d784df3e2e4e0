"""The papers' equations as a library: `tests.paper_steps` and `tests.oracles`, differentiated by JAX.

Their NumPy is replaced by `jax.numpy` while they run.
"""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import ours
from benchmarks.libraries import Programs
from benchmarks.problems import Problem, params_of, programs
from tests import oracles, paper_steps

FIRST: dict[str, Callable] = {
    "elman": oracles.elman(lambda z: jnp.tanh(z)),
    "irnn": oracles.elman(lambda z: jnp.maximum(z, 0)),
    "lstm": oracles.lstm,
    "lstm_projected": oracles.projected,
    "gru": oracles.gru,
}
"""The steps that `tests.paper_steps` does not have."""


def convolved(x: Any, kernel: Any) -> Any:
    """x * kernel over the space, with zeros around it, in one product for each place of the kernel; odd kernels."""
    sizes, space = kernel.shape[:-2], x.shape[:-1]
    padded = jnp.pad(x, [*((n // 2, n // 2) for n in sizes), (0, 0)])
    total = jnp.zeros((*space, kernel.shape[-1]), x.dtype)
    for place in np.ndindex(sizes):
        shifted = padded[tuple(slice(k, k + n) for k, n in zip(place, space, strict=True))]
        total = total + shifted @ kernel[place]
    return total


def conv_lstm(p: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    s = paper_steps.s
    i, f, g, o = jnp.split(convolved(x, p.w_x) + convolved(carry.h, p.w_h) + p.b, 4, -1)
    c = s(f) * carry.c + s(i) * jnp.tanh(g)
    h = s(o) * jnp.tanh(c)
    return carry._replace(h=h, c=c), h


def conv_gru(p: Any, h: Any, x: Any) -> tuple[Any, Any]:
    part, s = paper_steps.part, paper_steps.s

    def pre(k: int, h: Any) -> Any:
        return convolved(x, part(p.w_x, k, 3)) + part(p.b, k, 3) + convolved(h, part(p.w_h, k, 3))

    r, z = s(pre(0, h)), s(pre(1, h))
    h = z * h + (1 - z) * jnp.tanh(pre(2, r * h))
    return h, h


STEPS = {**FIRST, **paper_steps.STEPS}


EAGER = ("lstm_mass_conserving", "mlstm", "orthogonal", "orthogonal_cayley", "unitary")
"""Steps with conditions, or with eigenvalues and inverses, which may not be in a jitted time loop."""


def paper(problem: Problem) -> Programs:
    """The paper's equations of a cell of the catalogue."""
    params_type = type(params_of(problem.cell, problem.point.D, problem.point.H))
    return unrolled(problem, STEPS[problem.cell], ours.cell_of(problem), lambda weights: params_type(**weights))


def unrolled(problem: Problem, step: Callable, cell: Any, layout: Callable) -> Programs:
    """The step of one row, over rows and time; `ys` is `[T, B, -1]`."""

    def scanned(params: Any, xs: Any, lengths: Any) -> Any:
        over_rows = jax.vmap(functools.partial(step, params))
        ys = lax.scan(over_rows, cell.initial_carry(params, (xs.shape[1],)), xs)[1]
        return ys.reshape(*ys.shape[:2], -1)

    def looped(params: Any, xs: Any, lengths: Any) -> Any:
        rows = []
        for b in range(xs.shape[1]):
            carry, ys = jax.tree.map(lambda leaf: leaf[0], cell.initial_carry(params, (1,))), []
            for x in xs[:, b]:
                carry, y = step(params, carry, x)
                ys.append(y)
            rows.append(jnp.stack(ys))
        return jnp.stack(rows, axis=1)

    def run(*arguments: Any) -> Any:
        with mock.patch.object(oracles, "np", jnp), mock.patch.object(paper_steps, "np", jnp):
            return (looped if problem.cell in EAGER else scanned)(*arguments)

    return programs(problem, run, layout, jit=problem.cell not in EAGER)
