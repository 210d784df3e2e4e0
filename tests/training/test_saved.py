"""Saved models: loading without the training code, and errors for corrupt or different models."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.initializers import Chrono, Orthogonal
from rnnjax.training import CheckpointError, load_model, save_model
from rnnjax.training.saved import decode, encode

MODEL = rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(3, w_h=Orthogonal(0.9)), rnnjax.LSTM(4))), 5)
PARAMS = MODEL.init(jax.random.key(0), 2)
XS = jax.random.normal(jax.random.key(1), (6, 2, 2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "model", MODEL, PARAMS, {"score": 1.5}, input_size=2)


def test_is_what_was_saved(saved: Path) -> None:
    found = load_model(saved)
    assert found.model == MODEL and hash(found.model) == hash(MODEL) and found.info == {"score": 1.5}
    assert found.input_size == 2
    jax.tree.map(np.testing.assert_array_equal, found.params, PARAMS)
    assert jax.tree.structure(found.params) == jax.tree.structure(PARAMS)
    expected = rnnjax.unroll(MODEL.cell, PARAMS.rnn, XS)[1] @ PARAMS.w_out + PARAMS.b_out
    np.testing.assert_array_equal(found(XS)[1], expected)


def test_predicts_rows_of_unequal_length_with_what_goes_before(tmp_path: Path) -> None:
    """A scaler, a network and a readout: each row alone, standardised by hand."""
    rows = [np.asarray(5 + 3 * jax.random.normal(jax.random.key(n), (n, 2))) for n in (4, 1, 7)]
    model = rnnjax.Readout(rnnjax.wrappers.Standardized.of(rnnjax.LSTM(4), rows), 3)
    params = model.init(jax.random.key(0), 2)
    found = load_model(save_model(tmp_path / "model", model, params, input_size=2))
    steps = np.concatenate(rows)
    for row, predicted in zip(rows, found.predict(rows), strict=True):
        scaled = (row - steps.mean(0)) / steps.std(0)
        expected = rnnjax.unroll(rnnjax.LSTM(4), params.rnn, scaled)[1][-1] @ params.w_out + params.b_out
        np.testing.assert_allclose(predicted, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="mean has 2 numbers, but the input has 3 features"):
        rnnjax.unroll(model, model.init(jax.random.key(0), 3), jnp.ones((4, 3)))


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A composite of an embedding and a network, for rows of tokens `[T, *batch, 1]`."""

    embedding: rnnjax.Embedding
    network: Any

    def init(self, key: jax.Array, input_size: int, dtype: Any = None) -> Any:
        return self.embedding.init(key, dtype), self.network.init(key, self.embedding.size, dtype)

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        return self.network.initial_carry(params[1], batch_shape)

    def unroll_parts(self, run: Any, params: Any, carry: Any, xs: jax.Array, masks: Any) -> Any:
        return run(self.network, params[1], carry, self.embedding(params[0], xs[..., 0]), masks)


def test_predicts_rows_of_tokens_with_their_embedding(tmp_path: Path) -> None:
    """Tokens stay integers; whole numbers are still floats for a scaler."""
    rows = [np.array([[299], [257]]), np.array([[0]]), np.array([[7], [259], [258]])]
    model = Embedded(rnnjax.Embedding(300, 3), rnnjax.Readout(rnnjax.LSTM(4), 2))
    table, params = both = model.init(jax.random.key(0), 1)
    folder = save_model(tmp_path / "model", model, both, input_size=1)
    found = load_model(folder, classes=(Embedded,))
    assert found.model == model
    for row, predicted in zip(rows, found.predict(rows), strict=True):
        expected = rnnjax.unroll(model.network, params, model.embedding(table, row[:, 0]))[1][-1]
        np.testing.assert_allclose(predicted, expected, rtol=1e-10)
    scaled = rnnjax.Readout(rnnjax.wrappers.Standardized.of(rnnjax.LSTM(4), rows), 3)
    found = load_model(save_model(folder, scaled, scaled.init(jax.random.key(0), 1), input_size=1))
    np.testing.assert_array_equal(found.predict(rows), found.predict([row.astype(float) for row in rows]))


@pytest.mark.parametrize("cell", [rnnjax.LSTM(3, Chrono(9)), rnnjax.Bidirectional(rnnjax.GRU(2), rnnjax.Elman(2))])
def test_any_cell_is_a_model(tmp_path: Path, cell: Any) -> None:
    params = cell.init(jax.random.key(0), 2)
    found = load_model(save_model(tmp_path / "model", cell, params, input_size=2))
    assert found.model == cell
    jax.tree.map(np.testing.assert_array_equal, found(XS), rnnjax.unroll(cell, params, XS))


def test_parameters_of_another_model_are_not_saved(saved: Path) -> None:
    other = dataclasses.replace(MODEL, output_size=6)
    with pytest.raises(CheckpointError, match=r"w_out: \[4, 6\] float64 .* \[4, 5\] float64"):
        save_model(saved, MODEL, other.init(jax.random.key(0), 2), input_size=2)
    mixed = PARAMS._replace(b_out=PARAMS.b_out.astype(jnp.float32))
    with pytest.raises(CheckpointError, match="float32, float64; a saved model has one dtype"):
        save_model(saved, MODEL, mixed, input_size=2)
    assert load_model(saved).info == {"score": 1.5}, "what was there is still there"


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", MODEL, PARAMS, input_size=2)
    assert save_model(folder, MODEL, PARAMS, {"again": True}, input_size=2) == folder
    assert load_model(folder).info == {"again": True}
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left beside it"
    path = max(
        (each for each in (folder / "arrays").rglob("*") if each.is_file()), key=lambda each: each.stat().st_size
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"damaged: .* has other bytes"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="no saved model"):
        load_model(tmp_path)


def test_a_dtype_that_jax_would_narrow_is_refused(saved: Path) -> None:
    with jax.enable_x64(False), pytest.raises(CheckpointError, match="is float64; turn on"):
        load_model(saved)


@dataclasses.dataclass(frozen=True)
class Own(rnnjax.GRU):
    """A custom cell."""

    extra: float = 0.5


def test_a_class_of_ones_own_is_passed_in(tmp_path: Path) -> None:
    model = rnnjax.Readout(Own(2, extra=0.25), 1)
    folder = save_model(tmp_path / "model", model, model.init(jax.random.key(0), 2), input_size=2)
    with pytest.raises(ValueError, match=r"not an rnnjax class: pass classes=\(Own,\)"):
        load_model(folder)
    assert load_model(folder, classes=(Own,)).model == model


def test_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    """Files identify classes by name, so a custom class named GRU would be loaded as rnnjax's."""

    class GRU(rnnjax.GRU): ...

    Other = dataclasses.make_dataclass("Own", [], bases=(rnnjax.GRU,), frozen=True)
    for model in (GRU(2), rnnjax.Stack((Own(2), Other(2)))):
        with pytest.raises(ValueError, match=r"would be taken for .*: rename one of the two"):
            save_model(tmp_path / "model", model, model.init(jax.random.key(0), 2), input_size=2)
    for classes in ((GRU,), (Own, Other)):
        with pytest.raises(ValueError, match=r"would be taken for .*: rename one of the two"):
            decode(encode(rnnjax.GRU(2)), classes)
    assert decode(encode(Own(2)), (Own, rnnjax.GRU, Own)) == Own(2)


def test_what_has_no_json_is_refused() -> None:
    step = rnnjax.StepCell(lambda p, h, x: (h, h), lambda p, shape: jnp.zeros(shape))
    with pytest.raises(TypeError, match="holds functions"):
        encode(rnnjax.Readout(step, 1))
    with pytest.raises(TypeError, match="activation of your own"):
        encode(rnnjax.Elman(3, jnp.sin))
    content = encode(rnnjax.Elman(3))
    assert decode(content) == rnnjax.Elman(3)
    content["older"] = 1
    with pytest.raises(TypeError, match=r"saved Elman has fields .*older"):
        decode(content)


def test_integers_are_not_standardised_in_silence() -> None:
    """A mean of 0.5 would be rounded to 0."""
    model = rnnjax.wrappers.Standardized(rnnjax.GRU(2), mean=(0.5,), deviation=(0.5,))
    params = model.init(jax.random.key(0), input_size=1)
    with pytest.raises(TypeError, match="the input of Standardized is int32; convert `xs` to floats"):
        rnnjax.unroll(model, params, jnp.ones((3, 1), jnp.int32))
