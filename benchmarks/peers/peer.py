"""What the peers share: being absent, weights in another order of gates, forward and training of a JAX peer."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import harness
from benchmarks.problems import GATES, Problem

Weights = Mapping[str, np.ndarray]


def require(package: str) -> None:
    """Raises `LeftOut` where a peer's package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise harness.LeftOut("not installed; pip install 'rnnjax[peers]'")


def cut(problem: Problem, name: str) -> list[np.ndarray]:
    """A weight as its gates, each `[..., H]`: of an LSTM i, f, g, o; of a GRU r, z, n."""
    return np.split(problem.weights[name], GATES[problem.cell], axis=-1)


def reordered(problem: Problem, name: str, order: Sequence[int]) -> np.ndarray:
    """A weight with its gates in another order."""
    gates = cut(problem, name)
    return np.concatenate([gates[k] for k in order], axis=-1)


def back(stacked: Any, order: Sequence[int]) -> np.ndarray:
    """The inverse of `reordered`."""
    gates = np.split(np.asarray(stacked), len(order), axis=-1)
    return np.concatenate([gates[order.index(k)] for k in range(len(order))], axis=-1)


def jax_programs(
    problem: Problem,
    forward: Callable[[Any, Array, Array | None], Array],
    params: Any,
    read: Callable[[Any], Mapping[str, Any]],
    *,
    batch_major: bool = False,
) -> dict[str, harness.Program]:
    """Forward and training step of a JAX peer.

    Args:
      forward: `(params, xs, lengths) -> ys`; `xs` and `ys` are `[T, B, ...]`, or `[B, T, ...]` with `batch_major`.
      params: the problem's weights, in the peer's layout.
      read: gradients in the peer's layout to those of `problem.weights`, by name.
    """

    def natural(array: Any) -> Any:
        return array.swapaxes(0, 1) if batch_major else array

    xs = jnp.asarray(natural(problem.xs))
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    counts = natural(problem.counts)[..., None]
    weigh = None if lengths is None else jnp.asarray(counts, jnp.float32)

    def loss(params: Any, xs: Array, lengths: Array | None, weigh: Array | None) -> Array:
        ys = forward(params, xs, lengths)
        return (ys**2).sum() if weigh is None else (ys**2 * weigh).sum()

    def gradients(result: Any) -> dict[str, Any]:
        value, (dparams, dxs) = result
        return {**read(dparams), "xs": natural(np.asarray(dxs)), "loss": value}

    train = jax.value_and_grad(loss, argnums=(0, 1))
    return {
        "forward": harness.compiled(
            forward,
            params,
            xs,
            lengths,
            shared=lambda ys: {"ys": natural(np.asarray(ys) * counts)},
            compiles=1,
        ),
        "train": harness.compiled(train, params, xs, lengths, weigh, shared=gradients, compiles=1),
    }
