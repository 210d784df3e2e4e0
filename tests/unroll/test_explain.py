"""`explain` says what `unroll` does: the engine of each layer, the segments, the bytes and the FLOPs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax._unroll import contract
from tests.custom_cells import Leaky
from tests.registry import CELLS, COMBINED, PLAIN, UNITS_MEET, B, D, T, sample


def explain(name, **options):
    return rnnjax.explain(CELLS[name], **sample(name)._asdict(), **options)


@pytest.mark.parametrize("name", PLAIN)
def test_auto_does_what_is_explained(name):
    """Only the hoisted engine has a custom derivative rule, and `auto` uses it if `explain` says so."""
    program = str(jax.make_jaxpr(lambda p, c, xs: rnnjax.unroll(CELLS[name], p, xs, carry=c))(*sample(name)))
    (layer,) = explain(name).layers
    assert layer.engine == "hoisted" and "custom_jvp_call" in program
    assert ("slopes stay inside" if name in UNITS_MEET else "in the derivative too") in layer.why


def test_where_hoisted_cannot_serve_it_says_why():
    """`auto` uses the scan and names the obstacle; engine="hoisted" raises with the same reason."""
    cell = rnnjax.gradients.ClippedAdjoint(CELLS["gru"])
    (layer,) = rnnjax.explain(cell, **sample("gru")._asdict()).layers
    assert layer.engine == "scan" and layer.why.startswith("auto: hoisted cannot run it: ")
    program = jax.make_jaxpr(lambda p, c, xs: rnnjax.unroll(cell, p, xs, carry=c))(*sample("gru"))
    assert "custom_jvp_call" not in str(program)
    for function in (rnnjax.unroll, rnnjax.explain):
        with pytest.raises(rnnjax.NotHoistable) as refusal:
            function(cell, **sample("gru")._asdict(), engine="hoisted")
        assert layer.why.removeprefix("auto: hoisted cannot run it: ").partition("; ")[0] in str(refusal.value)


@pytest.mark.parametrize("engine", ["loop", "scan", "hoisted"])
def test_a_named_engine_is_that_engine(engine):
    plan = explain("stack", engine=engine)
    assert [layer.engine for layer in plan.layers] == [engine, engine]
    assert all(layer.why.startswith("named: ") for layer in plan.layers)


@dataclasses.dataclass(frozen=True)
class NeedsABatch(Leaky):
    """A cell that uses the batch axis, which fails for a single row."""

    def step(self, params, carry, x):
        r = jnp.einsum("bi,ij->bj", carry, params.w_h)
        h = jax.nn.sigmoid(params.rate) * carry + jnp.tanh(x @ params.w_x + r)
        return h, h * h - x @ params.w_x


def test_a_cell_that_needs_a_batch_axis_gets_the_scan():
    params, carry, xs = sample("custom")
    plan = rnnjax.explain(NeedsABatch(3), params, xs, carry=carry)
    assert plan.layers[0].engine == "scan" and "for a single row" in plan.layers[0].why
    _, ys = rnnjax.unroll(NeedsABatch(3), params, xs, carry=carry)
    np.testing.assert_allclose(ys, rnnjax.unroll(CELLS["custom"], params, xs, carry=carry)[1], rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class Named(Leaky):
    """A cell with a list among its fields, and so without a hash."""

    names: tuple[str, ...] | list[str] = ()


def test_a_cell_without_a_hash_works():
    cell = Named(3, ["a", "b"])
    with pytest.raises(TypeError, match="unhashable"):
        hash(cell)
    assert rnnjax.explain(cell, **sample("custom")._asdict()).layers[0].engine == "hoisted"


def test_an_error_of_the_engine_is_not_hidden_behind_another(monkeypatch):
    """`auto` only falls back for properties of the cell; errors of the engine itself are raised."""

    def broken(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(contract, "unroll_hoisted", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        rnnjax.unroll(Leaky(17), Leaky(17).init(jax.random.key(0), D), jnp.ones((T, D)))


@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        (rnnjax.Elman(5), [(D, 5, 1)]),
        (rnnjax.LSTM(5), [(D, 5, 4)]),
        (rnnjax.GRU(5), [(D, 5, 3)]),
        (rnnjax.Stack((rnnjax.LSTM(5), rnnjax.GRU(4))), [(D, 5, 4), (5, 4, 3)]),
        (rnnjax.Bidirectional(rnnjax.GRU(4), rnnjax.Elman(2)), [(D, 4, 3), (D, 2, 1)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_flops_are_those_of_the_matmuls(cell, gates):
    """2 T B (D + H) G H per layer; a training step is three times that, and remat adds one more."""
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, B, D), "float64")
    forward = sum(2 * T * B * (d + h) * g * h for d, h, g in gates)
    plan = rnnjax.explain(cell, params, xs)
    assert (plan.forward_flops, plan.training_flops) == (forward, 3 * forward)
    assert rnnjax.explain(cell, params, xs, checkpoint=2).training_flops == 4 * forward


@pytest.mark.parametrize("name", ["lstm", "stack_of_bidirectional"])
def test_shapes_are_enough(name):
    drawn = sample(name)
    of, times = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (drawn, COMBINED))
    by_shape = rnnjax.explain(CELLS[name], **of._asdict(), **times._asdict(), checkpoint="sqrt")
    assert by_shape == rnnjax.explain(CELLS[name], **drawn._asdict(), **COMBINED._asdict(), checkpoint="sqrt")


def test_parts_are_what_is_cut_as_one():
    """A causal stack has common segments; with a bidirectional layer, each part has its own."""
    assert [len(part.layers) for part in explain("deep_stack").parts] == [3]
    assert [len(part.layers) for part in explain("stack_of_bidirectional").parts] == [1, 1, 1]


def test_the_projected_input_is_bounded_by_segments_and_chunks():
    a_step = B * 4 * 3 * 8  # [B, 4H] of float64
    for options, steps in (({}, T), ({"chunk": 2}, 2), ({"checkpoint": 3}, 3), ({"checkpoint": 3, "chunk": 7}, 3)):
        assert explain("lstm", engine="hoisted", **options).projected_bytes == steps * a_step
    assert explain("lstm", engine="scan").projected_bytes == 0


@pytest.mark.parametrize("engine", ["scan", "hoisted"])
@pytest.mark.parametrize("cell", [rnnjax.LSTM(16), rnnjax.Elman(16)], ids=["lstm", "elman"])
def test_bytes_are_those_that_xla_sets_aside(cell, engine):
    """Within 30%, for a gradient of the last carry."""
    params = jax.eval_shape(lambda key: cell.init(key, 8, "float32"), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((4096, 4, 8), "float32")

    def loss(params, xs):
        carry, _ = rnnjax.unroll(cell, params, xs, engine=engine)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(carry))

    measured = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, xs).compile().memory_analysis()
    assert measured is not None
    expected = rnnjax.explain(cell, params, xs, engine=engine).backward_bytes
    assert 0.7 < measured.temp_size_in_bytes / expected < 1.3


def test_it_reads_as_text():
    text = str(explain("stack", checkpoint=2))
    assert "LSTM(hidden_size=3" in text and "GRU(hidden_size=3" in text
    assert "hoisted (auto: every matmul that does not need the carry leaves the loop" in text
    assert "time: 5 steps in segments of 2, recomputed" in text
    assert text.splitlines()[-1].startswith("total: forward ")
    assert "5 steps, uncut" in str(explain("elman_tanh"))


def test_it_checks_what_unroll_checks():
    with pytest.raises(ValueError, match="`carry` is"):
        rnnjax.explain(CELLS["gru"], sample("gru").params, sample("gru").xs, carry=jnp.zeros((B, 7)))
    with pytest.raises(ValueError, match="time-major"):
        explain("gru", mask=np.ones((B, T), bool))
    with pytest.raises(ValueError, match="engine is 'fast'"):
        explain("gru", engine="fast")


def test_where_gates_are_not_pointwise_hoisting_is_chosen_where_it_pays():
    """engine="hoisted" works for any number of rows; for a symbolic number, "auto" hoists."""
    cell = CELLS["layer_norm"]
    params = sample("layer_norm").params

    def layer(rows, engine: Any = "auto"):
        return rnnjax.explain(cell, params, jax.ShapeDtypeStruct((T, rows, D), "float64"), engine=engine).layers[0]

    assert layer(16).engine == "hoisted" and "slopes stay inside" in layer(16).why
    assert layer(17).engine == "scan" and "for so many rows" in layer(17).why
    assert layer(17, "hoisted").engine == "hoisted"
