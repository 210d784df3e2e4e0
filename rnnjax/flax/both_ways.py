"""Runs two RNNs over the same inputs, one in each direction; shared by the `Bidirectional` of linen and nnx."""

import warnings
from typing import Any

from jax.typing import ArrayLike

from rnnjax.cell import PyTree
from rnnjax.flax.conventions import Call

RunsOverTime = Any
"""Flax's RNN or ours: a module that is called with inputs and options."""


def run_both_ways(
    halves: tuple[RunsOverTime, RunsOverTime],
    inputs: ArrayLike,
    *,
    ours: type,
    initial_carry: tuple[PyTree, PyTree] | None,
    randomness: tuple[dict[str, Any], dict[str, Any]],
    seq_lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
    time_major: bool,
    reverse: bool | None,
) -> tuple[tuple[PyTree, PyTree], tuple[Any, Any]]:
    """`((carry_forward, carry_backward), (outputs_forward, outputs_backward))`, outputs in input order.

    Args:
      ours: our RNN class, which supports `mask` and `resets`.
      randomness: for each direction, the source of randomness for its carry.
      reverse: the caller's argument.
    Raises:
      ValueError: `reverse` is true, or `initial_carry` is not a pair.
      TypeError: `mask` or `resets` is given, but one of the RNNs is not ours.
    """
    if reverse:
        raise ValueError(
            "reverse is True, but a Bidirectional already runs in both directions (Flax's ignores the argument); omit "
            "it, or swap `forward_rnn` and `backward_rnn`."
        )
    forward, backward = halves
    if forward is backward:
        warnings.warn("`forward_rnn` and `backward_rnn` are one object: both directions share parameters", stacklevel=4)
    if initial_carry is None:
        initial_carry = (None, None)
    elif not isinstance(initial_carry, tuple | list) or len(initial_carry) != 2:
        raise ValueError(f"`initial_carry` is a {type(initial_carry).__name__}; expected a pair, (forward, backward).")

    onwards: dict[str, Any] = {}
    back: dict[str, Any] = {}
    if mask is not None or resets is not None:
        for name, half in (("forward_rnn", forward), ("backward_rnn", backward)):
            if not isinstance(half, ours):
                raise TypeError(
                    f"`{name}` is a {type(half).__module__}.{type(half).__name__}, which takes neither `mask` nor "
                    f"`resets`; make it a {ours.__module__}.RNN."
                )
        call = Call.checked(halves[0].cell, inputs, seq_lengths, mask, resets, time_major)
        onwards = {"mask": mask, "resets": resets}
        back = {"mask": mask, "resets": call.opposite_resets()}

    shared = {"seq_lengths": seq_lengths, "return_carry": True, "time_major": time_major}
    carry_forward, ys_forward = forward(
        inputs, initial_carry=initial_carry[0], reverse=False, **randomness[0], **shared, **onwards
    )
    carry_backward, ys_backward = backward(
        inputs, initial_carry=initial_carry[1], reverse=True, keep_order=True, **randomness[1], **shared, **back
    )
    return (carry_forward, carry_backward), (ys_forward, ys_backward)
