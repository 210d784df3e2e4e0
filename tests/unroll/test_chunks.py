"""T steps equal a steps and then T - a steps from the carry of the first part."""

import numpy as np

from tests.registry import (
    CAUSAL,
    COMBINED,
    Times,
    assert_close,
    both_directions,
    cotangents,
    on_every_engine,
    pull,
    run,
    sample,
)

SPLIT = 2


def chunk(times: Times, steps: slice) -> Times:
    length = steps.stop - steps.start
    lengths = np.clip(times.lengths - steps.start, 0, length)
    return Times(lengths, times.mask[steps], times.resets[steps])


@on_every_engine(CAUSAL)
@both_directions
def test_two_chunks_are_the_whole(name, engine, reverse):
    """With lengths, gaps and resets split too. (Bidirectional cells do not have this property.)"""
    drawn = sample(name)
    (whole_carry, whole), _ = pull(name, engine, drawn, COMBINED, cotangents(name), reverse)
    early, late = slice(0, SPLIT), slice(SPLIT, drawn.xs.shape[0])
    carry, outputs = drawn.carry, {}
    for steps in (late, early) if reverse else (early, late):
        part = drawn._replace(carry=carry, xs=drawn.xs[steps])
        carry, outputs[steps.start] = run(name, "loop", part, chunk(COMBINED, steps), reverse)
    assert_close((carry, np.concatenate([outputs[early.start], outputs[late.start]])), (whole_carry, np.asarray(whole)))


@on_every_engine(["elman_tanh", "stack"], loop=False)
def test_two_chunks_of_one_engine(name, engine):
    """The same with both parts on the engine itself, as in truncated backpropagation through time."""
    drawn = sample(name)
    whole_carry, whole = run(name, engine, drawn)
    carry, first = run(name, engine, drawn._replace(xs=drawn.xs[:SPLIT]))
    carry, second = run(name, engine, drawn._replace(carry=carry, xs=drawn.xs[SPLIT:]))
    assert_close((carry, np.concatenate([first, second])), (whole_carry, np.asarray(whole)))
