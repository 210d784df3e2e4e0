"""A replacement of Haiku's `hk.dynamic_unroll` that runs its recurrent cores on the engines of rnnjax.

    outputs, state = hk.dynamic_unroll(core, xs, state)               before
    outputs, state = rnnjax.haiku.dynamic_unroll(core, xs, state)     after

Parameters, states and the order of results stay Haiku's. New are `lengths`, `mask`, `resets`, and the engines. Cores
are `hk.LSTM`, `hk.GRU`, `hk.VanillaRNN` and `hk.DeepRNN` of them; Haiku is needed: pip install dm-haiku.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rnnjax._unroll import Checkpoint, Engine
from rnnjax._unroll import unroll as unroll_over_time
from rnnjax.cell import PyTree
from rnnjax.cells import LSTMCarry
from rnnjax.compose import Stack
from rnnjax.converters.layouts import HAIKU, from_layout

try:
    import haiku as hk
except ImportError as error:
    raise ImportError("rnnjax.haiku needs Haiku: pip install dm-haiku") from error

__all__ = ["dynamic_unroll"]


def dynamic_unroll(
    core: Any,
    input_sequence: ArrayLike,
    initial_state: PyTree,
    time_major: bool = True,
    reverse: bool = False,
    return_all_states: bool = False,
    unroll: int = 1,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    engine: Engine = "auto",
    checkpoint: Checkpoint = None,
    chunk: int | None = None,
) -> tuple[Array, PyTree]:
    """Runs a core over time, inside of `hk.transform`, like `hk.dynamic_unroll`.

    Args:
      core: an `hk.LSTM`, `hk.GRU`, `hk.VanillaRNN`, or an `hk.DeepRNN` of them.
      input_sequence: `[T, *batch, D]`, or `[B, T, D]` without `time_major`.
      initial_state: the core's.
      time_major, reverse, return_all_states, unroll: as in Haiku. With `lengths`, `reverse` runs each row from its own
        end.
      lengths: `[*batch]` integers; at steps t >= lengths[b] the state does not change, and the output is zero.
      mask: booleans in the layout of `input_sequence` without D; False masks a step in the same way.
      resets: booleans in the same layout; the state is zero before that step.
      engine, checkpoint, chunk: as in `rnnjax.unroll`.
    Returns:
      The outputs, in the layout of `input_sequence`; and the last state, or all with `return_all_states`.
    Raises:
      TypeError: the core is another; `hk.dynamic_unroll` runs it.
      ValueError: a shape does not fit.

    Example:

      >>> import jax
      >>> def forward(xs, lengths):
      ...     core = hk.LSTM(4)
      ...     return dynamic_unroll(core, xs, core.initial_state(xs.shape[1]), lengths=lengths)
      >>> net, xs = hk.without_apply_rng(hk.transform(forward)), jnp.ones((5, 2, 3), "float32")
      >>> params = net.init(jax.random.key(0), xs, None)
      >>> ys, state = net.apply(params, xs, jnp.array([5, 3]))
      >>> ys.shape, state.hidden.shape, float(abs(ys[3:, 1]).max())
      ((5, 2, 4), (2, 4), 0.0)
    """
    deep = type(core) is hk.DeepRNN
    cores = list(core.layers) if deep else [core]
    for each in cores:
        if type(each) not in (hk.LSTM, hk.GRU, hk.VanillaRNN):
            held = f" with a {type(each).__name__}" if deep else ""
            raise TypeError(
                f"`core` is a {type(core).__name__}{held}; rnnjax runs hk.LSTM, hk.GRU, hk.VanillaRNN and hk.DeepRNN "
                "of them, without skip connections. Use `hk.dynamic_unroll`, or `resets=` in place of hk.ResetCore."
            )
    xs = jnp.asarray(input_sequence)
    flags = [None if each is None else jnp.asarray(each) for each in (mask, resets)]
    if not time_major:
        xs = xs.swapaxes(0, 1)
        flags = [None if each is None else each.swapaxes(0, 1) for each in flags]
    if hk.running_init():
        core(xs[0], initial_state)  # draws the parameters
    cells, params = zip(*map(_converted, cores), strict=True)
    states = initial_state if deep else (initial_state,)
    carry = tuple([LSTMCarry(c=s.cell, h=s.hidden) if hasattr(s, "cell") else s for s in states])
    last, ys, *every = unroll_over_time(
        Stack(cells),
        params,
        xs,
        carry=carry,
        lengths=lengths,
        mask=flags[0],
        resets=flags[1],
        reverse=reverse,
        engine=engine,
        unroll=unroll,
        checkpoint=checkpoint,
        chunk=chunk,
        carries=return_all_states,
    )
    ours: Any = every[0] if return_all_states else last
    found = [hk.LSTMState(hidden=each.h, cell=each.c) if isinstance(each, LSTMCarry) else each for each in ours]
    state: Any = tuple(found) if deep else found[0]
    if time_major:
        return ys, state
    if return_all_states:
        state = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), state)
    return ys.swapaxes(0, 1), state


def _converted(core: Any) -> tuple[Any, PyTree]:
    """The same cell here, and its parameters."""
    inside = {
        f"{module}/{name}".removeprefix(f"{core.module_name}/"): leaf
        for module, leaves in hk.get_params().items()
        if module == core.module_name or module.startswith(f"{core.module_name}/")
        for name, leaf in leaves.items()
    }
    layout = next(each for each in HAIKU.values() if each.name == type(core).__name__ and each.fits(set(inside)))
    return from_layout(layout, inside)
