"""The Reber grammar, embedded and continual: predict which symbols may come next."""

# pyright: reportUnknownMemberType=false

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from rnnjax.cell import check_size, float_dtype
from rnnjax.tasks.batch import Baseline, Batch

SYMBOLS = "BTPSXVE"
"""The order of the features."""

_GRAMMAR = ("B1", "T2 P3", "S2 X4", "T3 V5", "X3 S6", "P4 V6", "E0")
"""The edges from each node: a symbol, and the node that it leads to. E ends a string."""


class _Automaton(NamedTuple):
    edges: np.ndarray  # [nodes, 2, 2], (symbol, next node); a single edge twice
    possible: np.ndarray  # [nodes, 7], whether a symbol may come next
    outer: np.ndarray  # [nodes], whether the second outer T or P comes next


def reber(
    key: Array,
    steps: int,
    batch_shape: tuple[int, ...] = (),
    *,
    embedded: bool = True,
    continual: bool = True,
    outer_only: bool = False,
    dtype: DTypeLike | None = None,
) -> Batch:
    """Strings of a finite grammar; the target at every step is the set of symbols that may come next.

        inner      B (T S* X | P T* V) ... E, a path through Reber's graph; of two edges each has probability 1/2
        embedded   B T inner T E,  or  B P inner P E
        x_t = one-hot s_t            target_t[k] = 1 if symbol k may follow s_1 ... s_t, else 0

    The second outer symbol repeats the first, so a network has to remember it throughout the inner string, and in a
    continual stream to forget it at the end.

    Args:
      key: PRNG key.
      steps: T.
      batch_shape: `*batch`.
      embedded: whether strings are those of the embedded grammar.
      continual: whether a row is one string after the other. Otherwise it is one string, scored before its E: its
        length is that without E, or T if it is longer.
      outer_only: score only the steps at which the second outer T or P comes next. (A row of fewer than 8 steps may
        have none.)
      dtype: of `xs`, `targets` and `weights`; JAX's default float if None.
    Returns:
      A `Batch` with `xs` and `targets` `[T, *batch, 7]`, in the order B, T, P, S, X, V, E.
    Raises:
      ValueError: `steps` is not positive, or `outer_only` without `embedded`.

    Example: train outputs in (0, 1) with `squared_error`; `set_accuracy` counts the steps whose set is exactly right.

      >>> batch = reber(jax.random.key(0), 50)
      >>> [symbol for symbol, possible in zip(SYMBOLS, batch.targets[0]) if possible]      # after B
      ['T', 'P']
      >>> bool(((batch.targets[:-1] * batch.xs[1:]).sum(-1) == 1).all())
      True

    References: Gers, Schmidhuber and Cummins, Learning to forget, Neural Computation 12 (2000), 2451-2471, section 3
    (continual); Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997), experiment 1
    (embedded); Reber, Implicit learning of artificial grammars, J. Verbal Learning and Verbal Behavior 6 (1967).
    """
    check_size("steps", steps)
    _check_outer(embedded, outer_only)
    dtype = float_dtype(dtype)
    edges, possible, outer = (jnp.asarray(table) for table in _automaton(embedded))

    def move(node: Array, turn: Array) -> tuple[Array, tuple[Array, Array]]:
        symbol, node = jnp.moveaxis(edges[node, turn], -1, 0)
        return node, (symbol, node)

    turns = jax.random.randint(key, (steps, *batch_shape), 0, 2, jnp.int32)
    _, (symbols, nodes) = jax.lax.scan(move, jnp.zeros(batch_shape, jnp.int32), turns)
    before_end = jnp.cumsum((nodes == 0).astype(jnp.int32), axis=0, dtype=jnp.int32) == 0
    scored = (outer[nodes] if outer_only else jnp.ones(nodes.shape, bool)) & (before_end | continual)
    whole = jnp.full(batch_shape, steps, jnp.int32)
    lengths = whole if continual else before_end.sum(axis=0, dtype=jnp.int32)
    xs = jax.nn.one_hot(symbols, len(SYMBOLS), dtype=dtype)
    return Batch(xs, possible[nodes].astype(dtype), scored.astype(dtype), lengths)


def reber_baseline(steps: int, *, embedded: bool = True, continual: bool = True, outer_only: bool = False) -> Baseline:
    """Always predicting how often each symbol is possible: the squared error is the mean of p_k (1 - p_k) over k.

    Args: as for `reber`.

    Example: the outer symbols are T and P, each with probability 1/2: (1/4 + 1/4) / 7.

      >>> round(reber_baseline(100, outer_only=True).loss * 14, 6), round(reber_baseline(1000).loss, 2)
      (1.0, 0.17)
    """
    check_size("steps", steps)
    _check_outer(embedded, outer_only)
    edges, possible, outer = _automaton(embedded)
    moves = np.zeros((len(edges), len(edges)))
    for node, pair in enumerate(edges):
        for _, after in pair:
            moves[node, after] += 0.5
    now, total = np.eye(len(edges))[0], np.zeros(len(edges))
    for _ in range(steps):
        now = now @ moves
        if not continual:
            now[0] = 0
        total += now
    weights = total * outer if outer_only else total
    frequent: np.ndarray = weights @ possible / max(weights.sum(), 1e-300)
    return Baseline(float((frequent * (1 - frequent)).mean()))


@functools.cache
def _automaton(embedded: bool) -> _Automaton:
    inner = [[(edge[0], int(edge[1:])) for edge in edges.split()] for edges in _GRAMMAR]
    nodes: list[list[tuple[str, int]]] = inner
    outer: list[int] = []
    if embedded:
        after_inner, copy = len(inner), len(inner) + 1  # a copy of the inner nodes for T and for P, each with its end
        last = 2 + 2 * copy
        nodes = [[("B", 1)], [("T", 2), ("P", 2 + copy)]]
        for symbol, first in nodes[1]:
            outer.append(first + after_inner)
            nodes = [*nodes, *[[(s, first + (to or after_inner)) for s, to in edges] for edges in inner]]
            nodes = [*nodes, [(symbol, last)]]
        nodes = [*nodes, [("E", 0)]]
    pairs = [[(SYMBOLS.index(symbol), to) for symbol, to in (edges * 2)[:2]] for edges in nodes]
    possible = [[symbol in [edge[0] for edge in edges] for symbol in SYMBOLS] for edges in nodes]
    return _Automaton(np.array(pairs, np.int32), np.array(possible), np.isin(np.arange(len(nodes)), outer))


def _check_outer(embedded: bool, outer_only: bool) -> None:
    if outer_only and not embedded:
        raise ValueError("outer_only is True, but only the embedded grammar has outer symbols; pass embedded=True.")
