"""`Masks`: unmasked steps, and episodes in the opposite direction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax._unroll.arguments import Masks, make_masks


def flags(*rows: str) -> np.ndarray:
    """One string per row and one digit per step, as `[T, B]`."""
    return np.array([[digit == "1" for digit in row] for row in rows]).T


def test_nothing_said_is_nothing_stored():
    masks = make_masks(jnp.zeros((4, 2, 3)))
    assert (masks.inside, masks.counts, masks.resets, masks.reverse) == (None, None, None, False)


def test_lengths_mask_and_resets_are_combined():
    """A step counts if it is within its row and not masked; resets after a row's end are dropped."""
    masks = make_masks(jnp.zeros((4, 2, 3)), np.array([4, 2]), flags("1011", "0111"), flags("0010", "1010"))
    np.testing.assert_array_equal(masks.inside, flags("1111", "1100"))
    np.testing.assert_array_equal(masks.counts, flags("1011", "0100"))
    np.testing.assert_array_equal(masks.resets, flags("0010", "1000"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64"])
def test_lengths_of_any_integer_dtype(dtype):
    """Also if T exceeds the dtype: 200 steps do not fit into int8."""
    masks = make_masks(jnp.zeros((200, 3, 1)), np.array([0, 100, 127], dtype))
    np.testing.assert_array_equal(np.asarray(masks.inside).sum(0), [0, 100, 127])


def test_unbatched_lengths_are_a_scalar():
    np.testing.assert_array_equal(make_masks(jnp.zeros((4, 1)), 3).counts, [True, True, True, False])


def test_opposite_moves_each_flag_across_its_boundary():
    """Forwards, flag 2 is the boundary between steps 1 and 2; backwards, step 1 comes first behind it."""
    masks = make_masks(jnp.zeros((4, 2, 3)), resets=flags("0010", "1001"))
    other_way = masks.opposite()
    assert other_way.reverse
    np.testing.assert_array_equal(other_way.resets, flags("0100", "0010"))


def test_opposite_of_reverse():
    """Backwards, flag 1 is the boundary between steps 2 and 1; forwards, step 2 comes first behind it."""
    masks = make_masks(jnp.zeros((4, 2, 3)), resets=flags("0100", "1001"), reverse=True)
    other_way = masks.opposite()
    assert not other_way.reverse
    np.testing.assert_array_equal(other_way.resets, flags("0010", "0100"))


def test_opposite_stays_inside_the_row():
    """A reset that would move beyond a row's end has no effect."""
    masks = make_masks(jnp.zeros((4, 1, 3)), np.array([2]), resets=flags("0100"), reverse=True)
    np.testing.assert_array_equal(masks.opposite().resets, flags("0000"))


@pytest.mark.parametrize("reverse", [False, True])
def test_opposite_twice_is_the_same_episodes(reverse):
    """Applying it twice restores the resets, except for one at the edge, which has no effect."""
    resets = flags("0110", "0100") & ~flags("1000", "1000") & ~flags("0001", "0001")
    masks = make_masks(jnp.zeros((4, 2, 3)), resets=resets, reverse=reverse)
    np.testing.assert_array_equal(masks.opposite().opposite().resets, resets)
    assert masks.opposite().opposite().reverse == reverse


def test_timing_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Masks().reverse = True  # pyright: ignore[reportAttributeAccessIssue]


def test_values_are_checked_only_where_known():
    """Under `jit`, traced lengths are not checked, but a NumPy constant is."""
    xs = jnp.zeros((4, 2, 3))
    jax.eval_shape(lambda lengths: make_masks(xs, lengths).inside, np.array([9, 9]))
    with pytest.raises(ValueError, match=r"every length must be in 0\.\.4"):
        make_masks(xs, np.array([9, 9]))
