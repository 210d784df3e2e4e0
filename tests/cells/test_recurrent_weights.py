"""What multiplies the carry, read from the equations of every cell of the catalogue, and its scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.wrappers import ScaledParams, ScaledRecurrence, recurrent_weights
from tests.registry import assert_close, normal

D, H, B = 3, 4, 2
ALL = rnnjax.cells.catalogue()
KNOBS = {"t_rnn", "t_gru", "t_lstm", "min_gru", "min_lstm", "rg_lru", "mlstm"}
KNOBS |= {"orthogonal", "orthogonal_cayley", "unitary"}
COMPUTED = {"lru", "ssm_zoh", "ssm_bilinear"}
"""Cells whose factors are computed from several parameters."""

SEVERAL = {
    "lstm_projected": [".w_h", ".w_p"],
    "lstm_peephole": [".w_h", ".w_c"],
    "lstm_layer_norm": [".w_h", ".gain_h", ".gain_c"],
    "lstm_working_memory": [".w_h", ".w_c"],
    "lstm_residual": [".w_h", ".w_c", ".w_p"],
    "dsgu": [".w_h", ".w_o"],
    "lem": [".w_h", ".w_z"],
    "low_rank": [".w_m"],
    "ltc": [".w_h", ".a"],
    "cfc": [".w_h", ".w_o"],
}
"""The paths of cells whose only recurrent weight is not `w_h`."""


def given(name):
    cell = ALL[name](H)
    params = cell.init(jax.random.key(0), D)
    params = jax.tree.map(lambda leaf, extra: leaf + extra, params, normal(params, name, scale=0.2))
    carry = normal(cell.initial_carry(params, (B,)), "carry")
    return cell, params, carry, normal(jnp.zeros((B, D)), "x")


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", sorted(set(ALL) - KNOBS - COMPUTED))
def test_the_scale_multiplies_these_parameters(name):
    """It is the step with these parameters multiplied; with scale 1 it is the cell."""
    cell, params, carry, x = given(name)
    paths = [weight.path for weight in recurrent_weights(cell, params, D)]
    assert paths == SEVERAL.get(name, [".w_h"])
    scaled = jax.tree.map_with_path(lambda at, a: 1.7 * a if jax.tree_util.keystr(at) in paths else a, params)
    step = ScaledRecurrence(cell).step
    assert_close(step(ScaledParams(params, jnp.array(1.7)), carry, x), cell.step(scaled, carry, x))
    assert_close(step(ScaledParams(params, jnp.array(1.0)), carry, x), cell.step(params, carry, x))


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_eigenvalues_are_multiplied_where_parameters_only_determine_them(name):
    cell, params, carry, x = given(name)
    step = ScaledRecurrence(cell).step

    def jacobian(scale):
        return jax.jacobian(lambda carry: step(ScaledParams(params, jnp.array(scale)), carry, x)[0])(carry)

    assert_close(jacobian(1.7), jax.tree.map(lambda a: 1.7 * a, jacobian(1.0)))
    assert_close(jacobian(1.0), jax.jacobian(lambda carry: cell.step(params, carry, x)[0])(carry))


@pytest.mark.parametrize("name", sorted(KNOBS))
def test_a_knob_takes_its_place(name):
    """1 changes nothing; of a gate, the odds are multiplied: ρ / (1 - ρ) of the Jacobian's diagonal."""
    cell, params, carry, x = given(name)
    step, inner = ScaledRecurrence(cell).step, ScaledRecurrence(cell).cell.step
    assert cell.knob
    assert_close(step(ScaledParams(params, jnp.array(1.0)), carry, x), inner(params, carry, x))
    if name not in ("t_rnn", "min_gru"):
        return

    def odds(scale):
        slope = jax.jvp(
            lambda h: step(ScaledParams(params, jnp.array(scale)), h, x)[0], (carry,), (jnp.ones_like(carry),)
        )[1]
        return slope / (1 - slope)

    assert_close(odds(3.0), 3 * odds(1.0))


def test_an_orthogonal_matrix_stays_one_whatever_its_knob():
    cell, params, _, _ = given("orthogonal")
    for scale in (0.3, 5.0):
        q = cell.matrix(cell.with_knob(params, jnp.array(scale)))
        np.testing.assert_allclose(q @ q.T, np.eye(H), atol=1e-12)


def test_what_is_recurrent_is_read_and_not_named():
    """Not the previous input of a carry, not a readout; in a stack each layer; in a chain the first product only."""
    assert not recurrent_weights(*given("t_gru")[:2], D)
    stack = rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(H), rnnjax.Elman(H))), 2)
    found = recurrent_weights(stack, stack.init(jax.random.key(0), D), D)
    assert [weight.path for weight in found] == [".rnn[0].w_h", ".rnn[1].w_h"]


def test_every_layer_is_scaled_whether_by_its_parameters_or_its_eigenvalues():
    """A parameter in one layer does not hide the eigenvalues of another."""
    cell = rnnjax.Stack((rnnjax.cells.LRU(H), rnnjax.Elman(H, "linear")))
    params = cell.init(jax.random.key(0), D)
    carry = normal(cell.initial_carry(params, ()), "carry")
    step = ScaledRecurrence(cell).step

    def own(scale):  # how each layer's state depends on itself
        new = jax.jacobian(lambda c: step(ScaledParams(params, jnp.array(scale)), c, jnp.ones(D))[0])(carry)
        return new[0].re[0].re, new[1][1]

    assert_close(own(1.7), jax.tree.map(lambda a: 1.7 * a, own(1.0)))


def test_a_knob_inside_of_another_cell_is_refused():
    for cell in (
        rnnjax.Stack((rnnjax.GRU(H), rnnjax.cells.MinGRU(H))),
        rnnjax.wrappers.Dropout(rnnjax.cells.MinGRU(H), 0.1),
    ):
        params = cell.init(jax.random.key(0), D)
        with pytest.raises(ValueError, match=r"holds MinGRU.*ScaledRecurrence\(MinGRU"):
            rnnjax.unroll(ScaledRecurrence(cell), ScaledParams(params, jnp.array(1.0)), jnp.ones((5, D)))


def test_products_that_cannot_be_read_are_refused():
    @jax.custom_jvp
    def own(w, h):
        return h @ w

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[1] @ primals[0] + primals[1] @ tangents[0]))
    cell = rnnjax.StepCell(lambda w, h, x: (own(w, h) + x, h), lambda _, rows: jnp.zeros((*rows, H)))
    with pytest.raises(ValueError, match="custom_jvp_call"):
        recurrent_weights(cell, jnp.eye(H), H)


def test_a_cell_without_any_is_refused():
    cell = rnnjax.StepCell(lambda params, h, x: (0.5 * h + x @ params, h), lambda _, rows: jnp.zeros((*rows, H)))
    with pytest.raises(ValueError, match=r"no parameter of .* multiplies its carry"):
        rnnjax.unroll(ScaledRecurrence(cell), ScaledParams(jnp.ones((D, H)), jnp.array(1.0)), jnp.ones((5, D)))
