"""The registry of cells, and helpers of the property tests.

A new cell needs an entry in `CELLS` (and one in `oracles.ROWS`), a new engine one in `ENGINES`; all property tests then
run on it. There are few sizes, all small: most of the suite's time is compilation, so tests use new data with a
compiled function rather than new shapes.
"""

import functools
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import rnnjax
from rnnjax._unroll import Composite
from rnnjax.cell import PyTree
from tests.custom_cells import MGU, Leaky
from tests.unroll.textbook_cells import HOISTED, LAYER_NORM

T, B, D = 5, 3, 2

FIRST = ("elman", "irnn", "lstm", "gru", "lstm_projected")
"""Names in the catalogue of cells that are in the registry under other names, or with other sizes."""

CATALOGUE: dict[str, Any] = {name: make(4) for name, make in rnnjax.cells.catalogue().items() if name not in FIRST}
"""The other cells of the catalogue, under their names there; of 4 units."""

CATALOGUE["conv_lstm"] = rnnjax.cells.ConvLSTM(2, shape=(3,))
CATALOGUE["conv_gru"] = rnnjax.cells.ConvGRU(2, shape=(2, 3), kernel=2)

WITH_FUNCTIONS = (rnnjax.Elman, rnnjax.LSTM, rnnjax.GRU, rnnjax.LSTMProjected)
"""Cells that have module functions, such as `lstm_step`."""

CELLS: dict[str, Any] = {
    "elman_tanh": rnnjax.Elman(3),
    "elman_relu": rnnjax.Elman(3, "relu"),
    "elman_linear": rnnjax.Elman(3, "linear"),
    "lstm": rnnjax.LSTM(3),
    "gru": rnnjax.GRU(3),
    "step_cell": MGU,
    "custom": Leaky(3),
    "reset_before": HOISTED["gru_reset_before"],
    "projected": rnnjax.LSTMProjected(5, 2),
    "layer_norm": LAYER_NORM,
    "stack": rnnjax.Stack((rnnjax.LSTM(3), rnnjax.GRU(3))),
    "deep_stack": rnnjax.Stack(
        (rnnjax.Elman(3), rnnjax.Stack((Leaky(2), rnnjax.WithoutBias(rnnjax.Elman(3, "linear")))))
    ),
    "bidirectional": rnnjax.Bidirectional(rnnjax.GRU(3), rnnjax.LSTM(3)),
    "readout": rnnjax.Readout(rnnjax.Stack((rnnjax.Readout(rnnjax.LSTM(3), 2), rnnjax.GRU(3)), skip="input"), 2),
    "stack_of_bidirectional": rnnjax.Stack(
        (rnnjax.Bidirectional(rnnjax.Elman(3), Leaky(3), merge="product"), rnnjax.LearnedCarry(rnnjax.GRU(3))),
        skip="residual",
    ),
    **CATALOGUE,
}

ENGINES: dict[str, dict[str, Any]] = {
    "loop": {"engine": "loop"},
    "scan": {"engine": "scan"},
    "hoisted": {"engine": "hoisted"},
}
"""Keyword options of `unroll` for the property tests. "loop" runs eagerly, all others jitted."""

ASSOCIATIVE: dict[str, dict[str, Any]] = {"associative": {"engine": "associative"}}
"""The engine for the cells of `LINEAR`."""

PARALLEL: dict[str, dict[str, Any]] = {"parallel": {"engine": rnnjax.Parallel(tolerance=1e-13, above="scan")}}
"""Newton's method in time; its properties are in `tests/unroll/test_parallel.py`, as its programs compile slowly."""

VARIANTS: dict[str, dict[str, Any]] = {
    "scan_unroll_2": {"engine": "scan", "unroll": 2},
    "scan_checkpoint_2": {"engine": "scan", "checkpoint": 2},
    "hoisted_checkpoint_2": {"engine": "hoisted", "checkpoint": 2},
    "hoisted_unroll_2": {"engine": "hoisted", "unroll": 2},
    "hoisted_checkpoint_3_chunk_2": {"engine": "hoisted", "checkpoint": 3, "chunk": 2},
}
"""Options that must not change results; only values and derivatives are compared with the reference."""

LINEAR = ["t_rnn", "t_gru", "t_lstm", "min_gru", "min_lstm", "lru", "ssm_zoh", "ssm_bilinear", "rg_lru", "mlstm"]
"""Cells that are linear in their carry, which the associative engine runs."""

UNITS_MEET = ["step_cell", "layer_norm", "lstm_layer_norm", "lstm_mass_conserving", "scrn", "tau_gru", "unitary"]
UNITS_MEET += ["clockwork", "lru", "ssm_zoh", "ssm_bilinear", "mlstm", "conv_lstm", "conv_gru"]
"""Cells whose gates are not elementwise between the products."""

FIXED = ["echo_state"]
"""Cells whose parameters get no gradient."""

COMPOSITES = [name for name in CELLS if isinstance(CELLS[name], Composite)]
PLAIN = [name for name in CELLS if name not in COMPOSITES]
CAUSAL = [name for name in CELLS if "bidirectional" not in name]

every_cell = pytest.mark.parametrize("name", CELLS)
every_plain_cell = pytest.mark.parametrize("name", PLAIN)


def on_every_engine(names: Iterable[str] = CELLS, *, loop: bool = True) -> pytest.MarkDecorator:
    """Parametrises a test by `name` and `engine`, for these cells on each engine."""
    engines = [engine for engine in ENGINES | ASSOCIATIVE if loop or engine != "loop"]
    pairs = [(name, engine) for name in names for engine in engines if engine not in ASSOCIATIVE or name in LINEAR]
    return pytest.mark.parametrize(("name", "engine"), pairs)


both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


Outputs = tuple[PyTree, PyTree]
"""`(carry, ys)`."""


class Sample(NamedTuple):
    """The arguments that are differentiated."""

    params: PyTree
    carry: PyTree
    xs: Array  # [T, B, D], or [T, B, *space, D]


class Times(NamedTuple):
    """The arguments `lengths`, `mask` and `resets`."""

    lengths: Any = None  # [B] int
    mask: Any = None  # [T, B] bool
    resets: Any = None  # [T, B] bool


NOTHING_SAID = Times()

ALL_COUNT = Times(np.full(B, T), np.ones((T, B), bool), np.zeros((T, B), bool))
"""Full lengths, no masked steps and no resets, but as arrays, for the same compiled function as the next two."""

LENGTHS_ONLY = ALL_COUNT._replace(lengths=np.array([5, 3, 0]))

COMBINED = Times(
    lengths=np.array([5, 3, 0]),
    mask=np.array([[1, 0, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], bool).T,
    resets=np.array([[0, 0, 1, 0, 0], [1, 1, 0, 1, 0], [0, 1, 0, 0, 0]], bool).T,
)
"""Everything at once: a full row with a gap and a reset; a short row with resets at its start, at a masked step and
after its end; and an empty row."""

SHORT = Times(
    lengths=np.array([3, 2, 0]),
    mask=np.array([[1, 1, 1], [0, 1, 1], [1, 1, 1]], bool).T,
    resets=np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool).T,
)
"""The same for T = 3, for tests that are eager or differentiate twice."""


def normal(tree: PyTree, seed: str, dtype: str | None = None, scale: float = 1.0) -> PyTree:
    """Gaussian arrays with the shapes of `tree`, drawn by NumPy, independent of the library."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    with jax.ensure_compile_time_eval():  # may be called, and cached, during tracing
        return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), dtype or a.dtype), tree)


@functools.cache
def sample(name: str, dtype: str = "float64", steps: int = T, batch_shape: tuple[int, ...] = (B,)) -> Sample:
    """Random parameters (including biases), carry and inputs for the cell `name`.

    Parameters depend only on the name, carry and inputs also on their shapes; float32 values are rounded float64
    values.
    """
    return draw(CELLS[name], name, dtype, steps, batch_shape)


def draw(cell: Any, name: str, dtype: str = "float64", steps: int = T, batch_shape: tuple[int, ...] = (B,)) -> Sample:
    """The same for a cell that is not in the registry, such as one of another size."""
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape), params)
    xs = jax.ShapeDtypeStruct((steps, *batch_shape, *features(cell)), "float64")
    carry = normal(carry, f"{name} carry", dtype)
    return Sample(normal(params, name, dtype, scale=0.6), possible(name, carry), normal(xs, f"{name} xs", dtype))


def features(cell: Any) -> tuple[int, ...]:
    """The shape of one row's input at one step: `(D,)`, or `(*space, D)` for a convolutional cell."""
    return (*getattr(cell, "space", ()), D)


def possible(name: str, carry: PyTree) -> PyTree:
    """A carry that the cell can reach: counters are integers, and normalisers are positive."""
    if name == "clockwork":
        return carry._replace(t=jnp.abs(jnp.round(carry.t)) % 2)
    return carry._replace(n=jnp.abs(carry.n) + 1) if name == "slstm" else carry


def run(name: str, engine: str, sample: Sample, times: Times = NOTHING_SAID, reverse: bool = False) -> Outputs:
    """`(carry, ys)` of one call of `rnnjax.unroll`; jitted, except for the loop engine."""
    return _forward(name, engine, reverse)(sample, times)


def pull(
    name: str, engine: str, sample: Sample, times: Times, cotangents: Outputs, reverse: bool = False
) -> tuple[Outputs, Sample]:
    """`((carry, ys), gradients)`: gradients of the outputs weighted by `cotangents`, for params, carry and xs."""
    if engine in ENGINES | ASSOCIATIVE | PARALLEL and engine != "loop" and not reverse:
        return curvature(name, engine, sample, times, cotangents)[0]  # is compiled anyway
    return _pull(name, engine, reverse)(sample, times, cotangents)


def curvature(name: str, engine: str, sample: Sample, times: Times, cotangents: Outputs):
    """The result of `pull` and its directional derivative: `((outputs, gradients), (jvp, Hessian-vector product))`."""
    return _curvature(name, engine)(sample, times, cotangents, normal(sample, f"{name} tangents"))


def unroller(name: str, engine: str, reverse: bool, times: Times) -> Callable[..., Outputs]:
    """`unroll` as a function of its differentiable arguments: `(params, carry, xs) -> (carry, ys)`."""
    options = (ENGINES | ASSOCIATIVE | PARALLEL | VARIANTS)[engine]

    def outputs(params: PyTree, carry: PyTree, xs: Array) -> Outputs:
        return rnnjax.unroll(CELLS[name], params, xs, carry=carry, **times._asdict(), reverse=reverse, **options)

    return outputs


def compiled(engine: str, function: Callable) -> Callable:
    """Jits all engines except the loop, which would compile T copies of the step."""
    return function if engine == "loop" else jax.jit(function)


@functools.cache
def _forward(name: str, engine: str, reverse: bool) -> Callable:
    return compiled(engine, lambda sample, times: unroller(name, engine, reverse, times)(*sample))


@functools.cache
def _pull(name: str, engine: str, reverse: bool) -> Callable:
    return compiled(engine, lambda *arguments: _outputs_and_gradients(name, engine, reverse, *arguments))


@functools.cache
def _curvature(name: str, engine: str) -> Callable:
    def second(sample: Sample, times: Times, cotangents: Outputs, tangents: Sample):
        first = functools.partial(_outputs_and_gradients, name, engine, False, times=times, cotangents=cotangents)
        return jax.jvp(first, (sample,), (tangents,))

    return compiled(engine, second)


def _outputs_and_gradients(name: str, engine: str, reverse: bool, sample: Sample, times: Times, cotangents: Outputs):
    outputs, pullback = jax.vjp(unroller(name, engine, reverse, times), *sample)
    return outputs, Sample(*pullback(cotangents))


@functools.cache
def cotangents(name: str, steps: int = T) -> Outputs:
    """A weight for every output, including masked steps, so that gradients from padding would be noticed."""
    shapes = jax.eval_shape(unroller(name, "scan", False, Times()), *sample(name, steps=steps))
    return normal(shapes, f"{name} cotangents")


def assert_close(got: PyTree, expected: PyTree, tolerance: float = 1e-12) -> None:
    """Same tree, shapes and values, to `tolerance` relative or absolute; NaN equals nothing."""
    got_leaves, got_tree = jax.tree.flatten(got)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert got_tree == expected_tree
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=False)


def assert_identical(got: PyTree, expected: PyTree) -> None:
    """The same bits in every leaf: not even the sign of a zero may differ."""
    got_leaves, got_tree = jax.tree.flatten(got)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert got_tree == expected_tree
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes(), f"differ by up to {np.abs(a - b).max()}"
