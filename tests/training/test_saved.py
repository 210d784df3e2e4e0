"""A model as a folder: loaded without the code that trained it, refused where it is not what it should be."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.initializers import Orthogonal
from rnnjax.training import CheckpointError, architecture, load_model, save_model

MODEL = rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(3, w_h=Orthogonal(0.9)), rnnjax.LSTM(4))), 2, 5)
PARAMS = MODEL.init(jax.random.key(0))
XS = jax.random.normal(jax.random.key(1), (6, 2, 2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "model", MODEL, PARAMS, {"score": 1.5})


def test_is_what_was_saved(saved: Path) -> None:
    found = load_model(saved)
    assert found.model == MODEL and hash(found.model) == hash(MODEL) and found.info == {"score": 1.5}
    jax.tree.map(np.testing.assert_array_equal, found.params, PARAMS)
    assert jax.tree.structure(found.params) == jax.tree.structure(PARAMS)
    expected = rnnjax.unroll(MODEL.cell, PARAMS.rnn, XS)[1] @ PARAMS.w_out + PARAMS.b_out
    np.testing.assert_array_equal(found(XS)[1], expected)
    assert load_model(saved, model=MODEL).model == MODEL


def test_steps_are_the_whole_run() -> None:
    carry, outputs = MODEL.apply(PARAMS, XS)
    stepped = MODEL.initial_carry(PARAMS, (2,))
    for x, expected in zip(XS, outputs, strict=True):
        stepped, y = MODEL.step(PARAMS, stepped, x)
        np.testing.assert_allclose(y, expected, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), stepped, carry)
    both = rnnjax.Readout(rnnjax.Bidirectional(rnnjax.GRU(2), rnnjax.GRU(2)), 2, 3)
    params = both.init(jax.random.key(0))
    assert params.w_out.shape == (4, 3) and both.apply(params, XS)[1].shape == (6, 2, 3)
    with pytest.raises(TypeError, match="whole sequence"):
        both.step(params, both.initial_carry(params, (2,)), XS[0])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(3), rnnjax.LSTM(5))), 2, 5),
            r"rnn/1/w_h: \[4, 16\] float64 in the checkpoint, \[5, 20\] float64 in this run",
        ),
        (rnnjax.Readout(rnnjax.GRU(3), 2, 5), r"rnn/1/b: \[16\] float64 in the checkpoint, absent in this run"),
        (rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(3), rnnjax.LSTM(4))), 2, 5), r"scale=0.9.*not .*scale=1.0"),
    ],
)
def test_another_architecture_is_told_leaf_by_leaf(saved: Path, other: rnnjax.Readout, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load_model(saved, model=other)


def test_parameters_of_another_model_are_not_saved(saved: Path) -> None:
    other = dataclasses.replace(MODEL, output_size=6)
    with pytest.raises(CheckpointError, match=r"w_out: \[4, 6\] float64 .* \[4, 5\] float64"):
        save_model(saved, MODEL, other.init(jax.random.key(0)))
    mixed = PARAMS._replace(b_out=PARAMS.b_out.astype(jnp.float32))
    with pytest.raises(CheckpointError, match="float32, float64; a saved model has one dtype"):
        save_model(saved, MODEL, mixed)
    assert load_model(saved).info == {"score": 1.5}, "what was there is still there"


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", MODEL, PARAMS)
    assert save_model(folder, MODEL, PARAMS, {"again": True}) == folder and load_model(folder).info == {"again": True}
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
    """Somebody's own cell."""

    extra: float = 0.5


def test_a_class_of_ones_own_is_passed_in(tmp_path: Path) -> None:
    model = rnnjax.Readout(Own(2, extra=0.25), 2, 1)
    folder = save_model(tmp_path / "model", model, model.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"none of rnnjax's: pass classes=\(Own,\)"):
        load_model(folder)
    assert load_model(folder, classes=(Own,)).model == model


def test_what_has_no_json_is_refused() -> None:
    step = rnnjax.StepCell(lambda p, h, x: (h, h), lambda p, shape: jnp.zeros(shape))
    with pytest.raises(TypeError, match="holds functions"):
        architecture.encode(rnnjax.Readout(step, 1, 1))
    content = architecture.encode(rnnjax.Elman(3))
    assert architecture.decode(content) == rnnjax.Elman(3)
    content["fields"]["older"] = 1
    with pytest.raises(TypeError, match=r"saved Elman has fields .*older"):
        architecture.decode(content)
