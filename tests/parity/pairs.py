"""Who has which cell, and the largest differences from it."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from benchmarks import contest, libraries, ours
from benchmarks.libraries import Programs
from benchmarks.problems import Point, Problem, make_problem
from rnnjax import cells
from tests.parity import convolutions, paper
from tests.registry import FIXED

POINT = Point(B=2, T=6, D=4, H=4)

NAMES: dict[str, dict[str, str]] = {
    "Flax linen": {
        "elman": "SimpleCell",
        "lstm": "OptimizedLSTMCell",
        "gru": "GRUCell",
        "ugrnn": "MGUCell(reset_gate=False)",
    },
    "Flax nnx": {"elman": "SimpleCell", "lstm": "OptimizedLSTMCell", "gru": "GRUCell"},
    "Haiku": {"irnn": "VanillaRNN", "lstm": "LSTM", "gru_reset_before": "GRU"},
    "Equinox": {"lstm": "LSTMCell", "gru": "GRUCell"},
    "Keras": {
        "elman": "SimpleRNN",
        "irnn": 'SimpleRNN("relu")',
        "lstm": "LSTM",
        "gru": "GRU",
        "gru_reset_before": "GRU(reset_after=False)",
    },
    "PyTorch": {
        "elman": "RNN",
        "irnn": 'RNN("relu")',
        "lstm": "LSTM",
        "lstm_projected": "LSTM(proj_size)",
        "gru": "GRU",
    },
    "torchrecurrent": {
        name: libraries.TORCHRECURRENT[kind]
        for name, make in cells.catalogue().items()
        if (kind := type(make(2))) in libraries.TORCHRECURRENT
    },
}
"""Each library's name of each cell that it has as in the paper."""

BUILD: dict[str, Callable[[Problem], Programs]] = {
    "Flax linen": libraries.flax_linen,
    "Flax nnx": libraries.flax_nnx,
    "Haiku": libraries.haiku,
    "Equinox": libraries.equinox,
    "Keras": libraries.keras,
    "PyTorch": libraries.pytorch,
    "torchrecurrent": libraries.torchrecurrent,
    "paper in NumPy": paper.paper,
}
CONVOLUTIONS: dict[str, Callable[[Any, Problem], Programs]] = {
    "Flax linen": convolutions.flax_linen,
    "Haiku": convolutions.haiku,
    "Keras": convolutions.keras,
    "paper in NumPy": convolutions.from_paper,
}

DEPARTURES: dict[str, dict[str, str]] = {
    "gru": {"Haiku": "GRU resets before the product: `gru_reset_before`"},
    "elman": {"Haiku": "VanillaRNN has a ReLU: `irnn`"},
    "mgu": {"Flax linen": "MGUCell gates after the product, and has f for 1 - f, unlike the paper"},
    "lem": {"torchrecurrent": "LEMCell uses z of the step before, unlike the paper"},
    "scrn": {"torchrecurrent": "SCRNCell feeds back the output, unlike the paper"},
    "highway": {"torchrecurrent": "RHNCell is commented out"},
    "lstm_mass_conserving": {"torchrecurrent": "MCLSTMCell is another cell"},
}
"""What libraries have under the name of a cell, but differently."""

REMARKS = {
    ("sgu", "torchrecurrent"): "PyTorch's hard sigmoid has its slope, 1/6, in float32",
    ("dsgu", "torchrecurrent"): "PyTorch's hard sigmoid has its slope, 1/6, in float32",
    ("gru", "Flax nnx"): "has no b_hn, which is zero here",
    ("orthogonal", "paper in NumPy"): "the exponential of a matrix in float32",
    ("unitary", "paper in NumPy"): "the exponential of a matrix in float32",
}


class Pair(NamedTuple):
    """A cell, and who has it.

    Attributes:
      theirs: the library's name of the cell.
      axes: of the space of a convolutional cell, else 0.
    """

    cell: str
    library: str
    theirs: str
    axes: int = 0

    def __str__(self) -> str:
        return f"{self.cell}{f' {self.axes}d' if self.axes else ''}, {self.library}"


def pairs() -> Iterator[Pair]:
    """All, by cell: libraries first, then the paper."""
    for cell in cells.catalogue():
        for library, names in NAMES.items():
            if cell in names:
                yield Pair(cell, library, names[cell])
        yield Pair(cell, "paper in NumPy", "")
    for cell in cells.convolutional():
        for axes in (1, 2, 3):
            if cell == "conv_lstm":
                yield Pair(cell, "Flax linen", "ConvLSTMCell", axes)
                yield Pair(cell, "Haiku", f"Conv{axes}DLSTM", axes)
                yield Pair(cell, "Keras", f"ConvLSTM{axes}D", axes)
            yield Pair(cell, "paper in NumPy", "", axes)


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """JAX's defaults for a dtype, and Keras's: on JAX it would round float64 to float32 where it promotes."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contest.float32())
        if dtype == "float64":
            stack.enter_context(jax.enable_x64(True))
            if importlib.util.find_spec("keras"):
                narrow = "keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE"
                stack.enter_context(mock.patch.dict(narrow, {"float64": "float64"}))
        yield


def differences(pair: Pair, dtype: str) -> tuple[float, float]:
    """The largest difference of outputs, relative to the largest; and of the gradients of all parameters and the input.

    A paper's equations are always evaluated in float64. Raises `contest.LeftOut` where a library is not installed.
    """
    mine = _results(pair._replace(library="rnnjax", theirs=""), dtype, pair.library == "Flax nnx")
    found = _results(pair, dtype if pair.theirs else "float64", pair.library == "Flax nnx")
    gradients = found["train"].keys() - {"loss"}
    if pair.cell in FIXED:  # its parameters get no gradient
        gradients = {"xs"}
    return _relative(found["forward"], mine["forward"], {"ys"}), _relative(found["train"], mine["train"], gradients)


def _relative(got: Mapping[str, Any], expected: Mapping[str, Any], names: Set[str]) -> float:
    """The largest difference over the largest entry."""
    pairs = [(np.asarray(got[name], "float64"), np.asarray(expected[name], "float64")) for name in names]
    assert all(a.shape == b.shape for a, b in pairs)
    return float(np.max([np.abs(a - b).max() for a, b in pairs]) / np.max([np.abs(b).max() for _, b in pairs]))


@functools.lru_cache(maxsize=8)  # ours is compared with several
def _results(pair: Pair, dtype: str, without_b_hn: bool) -> dict[str, Any]:
    """Outputs and gradients by name, with Gaussian weights, biases too: the same float32 numbers in each dtype."""
    conv, problem = convolutions.made(pair.cell, pair.axes) if pair.axes else (None, make_problem(pair.cell, POINT))
    random = np.random.default_rng(zlib.crc32(pair.cell.encode()))
    scale = 0.5 / 3 ** (pair.axes / 2)
    weights = {name: scale * random.normal(size=w.shape) for name, w in problem.weights.items()}
    if without_b_hn and "b_hn" in weights:
        weights["b_hn"] = np.zeros_like(weights["b_hn"])
    weights = {name: w.astype("float32").astype(dtype) for name, w in weights.items()}
    xs = random.normal(size=problem.xs.shape).astype("float32").astype(dtype)
    problem = dataclasses.replace(problem, weights=weights, xs=xs)
    with precision(dtype):
        if pair.library == "rnnjax":
            build = ours.contestant("rnnjax", problem).build if conv is None else convolutions.scanned
        else:
            build = BUILD[pair.library] if conv is None else CONVOLUTIONS[pair.library]
        arguments = ([] if pair.library == "rnnjax" else [problem]) if conv is None else [conv, problem]
        made: Any = build(*arguments)
        return {task: dict(program.shared(program.call())) for task, program in made.items()}
