"""Values over time: every cell and engine against the NumPy oracle at 1e-12, for all masks, resets and directions."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rnnjax
from tests import oracles
from tests.registry import (
    ALL_COUNT,
    CELLS,
    COMBINED,
    LENGTHS_ONLY,
    B,
    T,
    Times,
    assert_close,
    assert_identical,
    both_directions,
    cotangents,
    every_cell,
    on_every_engine,
    pull,
    run,
    sample,
)


@on_every_engine()
def test_plain(name, engine):
    """Without lengths, mask and resets, forwards."""
    assert_close(run(name, engine, sample(name)), oracles.unroll(name, *sample(name)))


@on_every_engine()
@both_directions
def test_lengths_mask_and_resets_together(name, engine, reverse):
    """All rules for masks and resets in one example (`registry.COMBINED`)."""
    outputs, _ = pull(name, engine, sample(name), COMBINED, cotangents(name), reverse)
    assert_close(outputs, oracles.unroll(name, *sample(name), **COMBINED._asdict(), reverse=reverse))


TIMES = st.builds(
    Times,
    lengths=arrays.arrays(int, (B,), elements=st.integers(0, T)),
    mask=arrays.arrays(bool, (T, B)),
    resets=arrays.arrays(bool, (T, B)),
)


@on_every_engine(loop=False)
@both_directions
def test_any_lengths_mask_and_resets(name, engine, reverse):
    """The same for random values from hypothesis, without new compilation."""

    @given(times=TIMES)
    def agrees_with_the_oracle(times):
        outputs, _ = pull(name, engine, sample(name), times, cotangents(name), reverse)
        assert_close(outputs, oracles.unroll(name, *sample(name), **times._asdict(), reverse=reverse))

    agrees_with_the_oracle()


@pytest.mark.parametrize("name", ["lstm", "stack_of_bidirectional"])
@both_directions
def test_any_lengths_mask_and_resets_in_the_loop(name, reverse):
    """The loop engine, which is slow, for one cell and the largest composite."""

    @settings(max_examples=8)
    @given(times=TIMES)
    def agrees_with_the_oracle(times):
        got = run(name, "loop", sample(name), times, reverse)
        assert_close(got, oracles.unroll(name, *sample(name), **times._asdict(), reverse=reverse))

    agrees_with_the_oracle()


@pytest.mark.parametrize("name", ["lstm", "stack_of_bidirectional"])
@pytest.mark.parametrize("batch_shape", [(), (2, 1)], ids=str)
@both_directions
def test_any_shape(name, batch_shape, reverse):
    """Without and with two batch axes, also with T = 1, and lengths of every integer dtype."""

    @settings(max_examples=6)
    @given(data=st.data(), steps=st.sampled_from([1, 2]), dtype=st.sampled_from(["int8", "uint32", "int64"]))
    def agrees_with_the_oracle(data, steps, dtype):
        drawn = sample(name, steps=steps, batch_shape=batch_shape)
        times = {
            "lengths": data.draw(arrays.arrays(dtype, batch_shape, elements=st.integers(0, steps))),
            "mask": data.draw(arrays.arrays(bool, (steps, *batch_shape))),
            "resets": data.draw(arrays.arrays(bool, (steps, *batch_shape))),
        }
        got = rnnjax.unroll(CELLS[name], **drawn._asdict(), **times, reverse=reverse, engine="loop")
        assert_close(got, oracles.unroll(name, *drawn, **times, reverse=reverse))

    agrees_with_the_oracle()


@pytest.mark.parametrize("name", ["gru", "stack_of_bidirectional"])
@pytest.mark.parametrize("given_arguments", range(8), ids="{:03b}".format)
@both_directions
def test_each_argument_alone_and_in_pairs(name, given_arguments, reverse):
    """`None` for `lengths`, `mask` or `resets` equals a trivial array."""
    chosen = {key: value for k, (key, value) in enumerate(COMBINED._asdict().items()) if given_arguments >> k & 1}
    got = rnnjax.unroll(CELLS[name], **sample(name)._asdict(), **chosen, reverse=reverse, engine="loop")
    assert_close(got, oracles.unroll(name, *sample(name), **chosen, reverse=reverse))
    everything = rnnjax.unroll(
        CELLS[name], **sample(name)._asdict(), **ALL_COUNT._replace(**chosen)._asdict(), reverse=reverse, engine="loop"
    )
    assert_identical(got, everything)


@every_cell
def test_no_carry_is_the_initial_carry(name):
    params, _, xs = sample(name)
    initial = CELLS[name].initial_carry(params, (B,))
    got = rnnjax.unroll(CELLS[name], params, xs, **LENGTHS_ONLY._asdict(), engine="loop")
    assert_identical(
        got, rnnjax.unroll(CELLS[name], params, xs, carry=initial, **LENGTHS_ONLY._asdict(), engine="loop")
    )
    assert_close(got, oracles.unroll(name, params, initial, xs, LENGTHS_ONLY.lengths))


@every_cell
def test_lists_and_numpy_arrays_are_welcome(name):
    """`xs`, `lengths`, `mask` and `resets` may be anything array-like."""
    params, carry, xs = sample(name)
    as_lists = {key: value.tolist() for key, value in COMBINED._asdict().items()}
    got = rnnjax.unroll(CELLS[name], params, np.asarray(xs), carry=carry, **as_lists, engine="loop")
    assert_identical(got, run(name, "loop", sample(name), COMBINED))


@pytest.mark.parametrize("engine", ["loop", "scan"])
def test_a_carry_may_hold_an_integer(engine):
    """A leaf that is not a float (a step counter) is masked and reset like others, on the engines for any cell."""

    def step(params, carry, x):
        h, count = carry
        return (h * params + x, count + 1), x

    def initial_carry(params, batch_shape):
        return jax.numpy.zeros((*batch_shape, 2)), jax.numpy.zeros(batch_shape, "int32")

    counter = rnnjax.StepCell(step, initial_carry)
    xs = sample("gru").xs
    (_, count), _ = rnnjax.unroll(counter, jax.numpy.array(0.5), xs, **COMBINED._asdict(), engine=engine)
    np.testing.assert_array_equal(count, [3, 1, 0])
    assert count.dtype == "int32"
