"""How fast does a gradient vanish or explode?

Question: by what factor per step does dL/dh shrink or grow on its way back through time, for each cell and scale of W2?
Command: python -m experiments.gradient_decay
Minutes: 1 on two cores; with --quick half of one.
Expected: the linear cell with an orthogonal W2 of scale s gives log s nats per step to 1e-12, at any length. The
lecture's 0.5^50 = 8.88e-16 and 2^50 = 1.13e15 come out exactly. A tanh network driven by returns of variance 1 vanishes
at every scale up to 1.8, not 1, as the mean-field theory says. An LSTM's gradient halves in 2 to 3 steps at scale 1.

The loss depends on the last output only, through a random direction v of length 1: L = <v, y_T>. Measured is the log of
|dL/dh_t| (the whole carry: h and c of an LSTM together), in float64 and log form, so that nothing under- or overflows:
  by length   how much of the gradient reaches step 1 of a sequence of T steps (lag T - 1), for each T
  by lag      how much of it is left k steps before the end, within the longest sequence
W2 is redrawn for every seed, gate by gate: `orthogonal` is scale times a Haar-orthogonal matrix, `gain` is
N(0, scale²/H). The input is real: standardized daily log returns of stocks. `--input gaussian` is white noise, and
`--data my.csv` a file of yours: a row per step, a column per feature, with or without a header. Columns without numbers
are ignored; each column is standardized unless `--raw`.

`--cells` takes any names of `rnnjax.cells.catalogue()`, or `all`. W2 is whatever multiplies the carry in a cell's
equations (`rnnjax.wrappers.recurrent_weights`): matrices, which are redrawn if they consist of square blocks, and
vectors or eigenvalues, which stay as the cell draws them; the scale multiplies all of them. If nothing can be redrawn,
the kind is `own`. Cells without such a weight, or whose constraint forbids a scale, have a knob in its place: `scale`
then multiplies the odds of keeping the state, or the generator of an orthogonal matrix, as the figures say.

Your own cell joins with `--cell package.module:MyCell`: a cell, or a class or function that makes one when called with
`hidden_size=H`. All scales, seeds and lengths of a cell run in one compiled program; in a finished folder, a new scale,
seed or length is computed alone.
"""

import functools
import hashlib
import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import BeforeValidator, PositiveInt

import rnnjax
from rnnjax.gradients import theory
from rnnjax.initializers import Normal, Orthogonal, per_gate
from rnnjax.wrappers import ScaledParams, ScaledRecurrence, knob_of, recurrent_weights

from . import lab

CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {
    "linear": lambda hidden_size: rnnjax.Elman(hidden_size, activation="linear"),
    "tanh": lambda hidden_size: rnnjax.Elman(hidden_size, activation="tanh"),
    "relu": lambda hidden_size: rnnjax.Elman(hidden_size, activation="relu"),
    **rnnjax.cells.catalogue(),
}
INITIALIZERS = {"orthogonal": Orthogonal(), "gain": Normal()}
LAG = 50  # of the lecture's powers [steps]: a network of 51 copies has 50 factors W2 between its first and its last
STABLE_DECADES = 1.0  # a gradient is called stable while it stays within a tenth and ten times
VERDICTS = ("vanishing", "stable", "exploding", "zero", "overflow")
AT_ONCE = 40  # networks in one call of the program, so that memory does not grow with the sweep
WIDE = 8  # panels side by side; of more cells only one kind is drawn
FLOAT32_DECADES = (-63 * math.log10(2), 64 * math.log10(2))  # entries beyond these square to 0 or to inf


def _expanded(values: Any) -> tuple[float, ...]:
    """Scales as numbers; `0.5:2:7` is seven of them, evenly spaced from 0.5 to 2, both included."""
    numbers: list[float] = []
    for value in values:
        start, *rest = str(value).split(":")
        is_range = len(rest) == 2
        numbers += np.linspace(float(start), float(rest[0]), int(rest[1])).tolist() if is_range else [float(value)]
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError("a scale is a finite number above zero, or START:STOP:COUNT")
    return tuple(numbers)


def _all_or_named(names: Any) -> Any:
    return tuple(CELLS) if tuple(names) == ("all",) else names


@lab.options(quick={"lengths": (5, 10, 20, 50, 100), "seeds": 4, "hidden_size": 32})
class Options(lab.Options):
    """Gradient decay of recurrent cells over scales of W2, sequence lengths and seeds."""

    cells: Annotated[tuple[str, ...], BeforeValidator(_all_or_named)] = ("linear", "tanh", "relu", "lstm", "gru")
    """linear, tanh, relu (Elman networks), or names of the catalogue, such as lstm, gru, lru; `all` for all of them."""
    cell: str | None = None
    """Your own cell as package.module:name, measured beside them."""
    kinds: lab.Distinct[Literal["orthogonal", "gain"]] = ("orthogonal", "gain")
    """How W2 is drawn: scale times orthogonal, or Gaussian of variance scale²/H."""
    scales: Annotated[lab.Distinct[float | str], BeforeValidator(_expanded)] = (
        0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0,
    )  # fmt: skip
    """Scales of W2 [dimensionless]; 0.5:2:7 is seven of them from 0.5 to 2."""
    lengths: lab.Distinct[Annotated[int, Ge(2)]] = (5, 10, 20, 50, 100, 200, 500, 1000)
    """Sequence lengths [steps]; the decay by lag is measured within the longest."""
    seeds: PositiveInt = 8
    """How many networks are drawn per row."""
    hidden_size: PositiveInt = 64
    """H [units]."""
    input: Literal["stocks", "gaussian"] = "stocks"
    """Daily log returns, standardized, or white noise of the same width."""
    tickers: tuple[str, ...] = ("AAPL", "IBM", "MSFT")
    """Which stocks: one input feature each."""
    data: Path | None = None
    """A CSV file of your own in place of --input: numeric columns are features, rows are steps."""
    raw: bool = False
    """Take the columns of --data as they are, not standardized."""

    def check(self) -> None:
        unknown = [name for name in self.cells if name not in CELLS]
        if unknown:
            raise lab.UsageError(f"--cells {' '.join(unknown)}: unknown; choose from {', '.join(CELLS)}.")
        if not self.names or len(set(self.names)) < len(self.names):
            raise lab.UsageError(f"--cells is {self.cells}; name at least one, each once, or give your own: --cell.")
        steps = len(series(self)[0]) if self.data or self.input == "stocks" else math.inf
        if max(self.lengths) > steps:
            raise lab.UsageError(
                f"--lengths has {max(self.lengths)}, but the input has only {steps} steps; shorten it, or choose "
                "another input (--tickers, --input gaussian, --data)."
            )
        if self.cell is not None:
            resolve(self.cell, self.hidden_size)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.cells, *([self.cell] if self.cell else []))


def series(options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    """The input `[T, D]`, and where it comes from."""
    if options.data is not None:
        xs, record = read_csv(options.data, options.raw)
        return xs, record | {"steps_count": len(xs)}
    if options.input == "gaussian":
        shape = max(options.lengths), len(options.tickers)
        xs = np.asarray(jax.random.normal(jax.random.key(options.seed), shape, "float64"))
        source = f"jax.random.normal, seed {options.seed}"
        return xs, {"source": source, "kind": "white noise N(0, 1)", "sha256": None, "steps_count": len(xs)}
    from .data import stocks

    returns = stocks.log_returns(*options.tickers, standardize=True)
    return returns.values, returns.record | {"steps_count": max(options.lengths)}


def read_csv(path: Path, raw: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """The numeric columns of a CSV file, `[T, D]`, and what to record of them.

    A column is a feature if more than half of its entries are numbers. The first line is a header if it has no number
    in one of these columns.

    Raises:
      UsageError: the file cannot be read, has no numbers, or an entry of a feature is not a finite number.
    """
    import pandas

    try:
        text = path.read_bytes()
        table = pandas.read_csv(path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, ValueError) as error:
        raise lab.UsageError(f"--data {path} cannot be read: {error}") from error
    numbers = table.apply(pandas.to_numeric, errors="coerce").to_numpy(float)
    columns = np.flatnonzero(np.isfinite(numbers[1:]).mean(axis=0) > 0.5) if len(numbers) > 2 else []
    if not len(columns):
        raise lab.UsageError(f"--data {path} has no column of numbers with three rows or more.")
    header = bool(np.isnan(numbers[0, columns]).any())
    xs = numbers[header:, columns]
    if not np.isfinite(xs).all():
        row, column = np.argwhere(~np.isfinite(xs))[0]
        name = table.iloc[0, columns[column]] if header else columns[column] + 1
        given = table.iloc[row + header, columns[column]]
        raise lab.UsageError(f"--data {path}, line {row + header + 1}, column {name}: {given!r} is no finite number.")
    spread = xs.std(axis=0)
    if not raw and not spread.all():
        constant = columns[np.argmin(spread)] + 1
        raise lab.UsageError(f"--data {path}: column {constant} is constant; remove it or add --raw.")
    record = {"source": path.name, "sha256": hashlib.sha256(text).hexdigest(), "columns": len(columns)}
    kind = "as it is" if raw else "standardized"
    return (xs if raw else (xs - xs.mean(axis=0)) / spread), record | {"kind": kind}


def resolve(name: str, hidden_size: int) -> rnnjax.Cell:
    """A built-in cell by its name, or a user's own as `package.module:name`, tried out.

    Raises:
      UsageError: it cannot be imported, is not a cell, or has nothing to scale.
    """
    if name in CELLS:
        return CELLS[name](hidden_size)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise lab.UsageError(f"--cell {name}: write package.module:name, such as my_cells:MyCell.")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise lab.UsageError(f"--cell {name} cannot be imported: {error}. Run where its module is found.") from error
    if isinstance(found, type) or not hasattr(found, "step"):
        try:
            found = found(hidden_size=hidden_size)
        except (TypeError, ValueError) as error:
            raise lab.UsageError(f"--cell {name}, called with hidden_size={hidden_size}, failed: {error}") from error
    missing = [method for method in ("init", "initial_carry", "step") if not callable(getattr(found, method, None))]
    if missing:
        raise lab.UsageError(f"--cell {name} gives {found!r}, which has no {', '.join(missing)}; see rnnjax.Cell.")
    _try_out(name, found)
    return found


def _try_out(name: str, cell: Any) -> None:
    """Three steps of the cell and of its gradient, against `lax.scan` of its step."""
    try:
        hash(cell)
        with jax.enable_x64(True):
            xs = jax.random.normal(jax.random.key(1), (3, 3), "float64")
            params = cell.init(jax.random.key(0), 3, xs.dtype)
            _, ys = rnnjax.unroll(cell, params, xs)
            _, expected = jax.lax.scan(functools.partial(cell.step, params), cell.initial_carry(params, ()), xs)
            one_vector = hasattr(ys, "shape") and ys.ndim == 2
            if one_vector:
                rnnjax.gradients.adjoint(cell, params, xs, lambda ys: ys.sum())
    except (TypeError, ValueError) as error:
        raise lab.UsageError(f"--cell {name}: three steps of it in float64 fail: {error}") from error
    if not one_vector:
        raise lab.UsageError(f"--cell {name}: its output must be one vector, for a loss to weigh; it is {ys}.")
    if not np.allclose(ys, expected, rtol=1e-9, atol=1e-12):
        raise lab.UsageError(f"--cell {name}: unroll and lax.scan of its step give other numbers; is the step pure?")
    try:
        scalable = knob_of(cell) or recurrent_weights(cell, params, xs.shape[-1])
    except ValueError as error:
        raise lab.UsageError(f"--cell {name}: {error}") from error
    if not scalable:
        raise lab.UsageError(
            f"--cell {name}: none of its parameters multiplies its carry, so there is no W2 to scale; give it a "
            "`knob`, the name of what its method `with_knob(params, scale)` changes."
        )


def redrawn(cell: Any, params: Any, input_size: int) -> list[str]:
    """The paths of the parameters that are redrawn: matrices of square blocks `[..., H, gates * H]` that are W2."""
    if knob_of(cell):
        return []
    found = [w for w in recurrent_weights(cell, params, input_size) if w.is_factor and w.by_matrix]
    return [w.path for w in found if w.shape[-1] % w.shape[-2] == 0]


@functools.cache
def kinds_of(name: str, hidden_size: int, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """`kinds`, or `own` if nothing of the cell can be redrawn."""
    cell = resolve(name, hidden_size)
    params = jax.eval_shape(lambda key: cell.init(key, 3), jax.random.key(0))
    return kinds if redrawn(cell, params, 3) else ("own",)


@functools.cache
def what_is_scaled(name: str, hidden_size: int) -> str:
    """W2, or the cell's knob."""
    return knob_of(resolve(name, hidden_size)) or "W2"


def redraw(params: Any, paths: Sequence[str], key: Array, kind: str) -> Any:
    """The same parameters with those at `paths` drawn anew at scale 1, one square block (gate) at a time."""
    layers = itertools.count()

    def one(path: Any, leaf: Array) -> Array:
        if jax.tree_util.keystr(path) not in paths:
            return leaf
        rows, columns = leaf.shape[-2:]
        drawn = []
        for _ in range(math.prod(leaf.shape[:-2])):
            layer = next(layers)
            own_key = jax.random.fold_in(key, layer) if layer else key  # or all layers of a stack would be equal
            drawn.append(per_gate(INITIALIZERS[kind], own_key, (rows, rows), columns // rows, leaf.dtype))
        return jnp.stack(drawn).reshape(leaf.shape)

    return jax.tree.map_with_path(one, params)


class Networks(NamedTuple):
    """Networks at scale 1, axis 0 is (kind, index). An index has the same W1 and v for every kind and scale."""

    params: Any
    direction: Any  # [N, *output], the loss's v, of length 1
    log_spectral_radius: Any  # [N] of the first W2 that is redrawn, NaN if it has several gates


def decay(asked: Sequence[dict[str, Any]], xs: np.ndarray) -> list[dict[str, Any]]:
    """The gradient within one sequence, for each row asked; all rows are of one cell.

    Args:
      asked: "cell", "hidden_size", "seed", "kind", "scale", "index" of the network and "length" T of the sequence.
      xs: `[T, D]`, of the longest length or more.
    Returns:
      log_norm: `[T + 1]` nats, log |dL/d(carry_t)|; the lag is T - t. -inf where it is exactly zero.
      float32_norm: `[T + 1]` the same norm as plain float32 arithmetic has it: 0 or inf where it dies.
      arrival_lag_steps: where the gradient enters the carry: 0 where the output is part of it, 1 elsewhere.
      finite_steps_count: how many steps of the forward pass stay finite.
      log_spectral_radius: log ρ of the first W2 that is redrawn, NaN if it has several gates.
    """
    first = asked[0]
    cell = resolve(first["cell"], first["hidden_size"])
    kinds = list(dict.fromkeys(each["kind"] for each in asked))
    seeds = 1 + max(each["index"] for each in asked)
    networks = _drawn(cell, kinds, seeds, jax.random.key(first["seed"]), xs)
    lengths: dict[tuple[str, float, int], list[int]] = {}
    for each in asked:
        lengths.setdefault((each["kind"], each["scale"], each["index"]), []).append(each["length"])
    found = {}
    for some in dict.fromkeys(map(tuple, lengths.values())):  # networks that lack the same lengths share a program
        grid = [network for network in lengths if tuple(lengths[network]) == some]
        for start in range(0, len(grid), AT_ONCE):
            part = grid[start : start + AT_ONCE]
            padded = part + [part[-1]] * (min(AT_ONCE, len(grid)) - len(part))
            numbers = np.array([kinds.index(kind) * seeds + index for kind, _, index in padded])
            scales = np.array([scale for _, scale, _ in padded])
            measured = jax.device_get(_measured(cell, np.array(some), xs[: max(some)], networks, numbers, scales))
            for row, network in enumerate(part):
                for column, steps in enumerate(some):
                    log_norm, float32_norm, arrival_lag, finite_steps, log_radius = (leaf[row] for leaf in measured)
                    found[*network, steps] = {
                        "log_norm": log_norm[: steps + 1, column],
                        "float32_norm": float32_norm[: steps + 1, column],
                        "arrival_lag_steps": int(arrival_lag),
                        "finite_steps_count": min(int(finite_steps), steps),
                        "log_spectral_radius": float(log_radius),
                    }
    return [found[each["kind"], each["scale"], each["index"], each["length"]] for each in asked]


def _drawn(cell: rnnjax.Cell, kinds: Sequence[str], seeds: int, key: Array, xs: np.ndarray) -> Networks:
    """Not compiled as a whole: all cells share the compiled pieces, which takes a third of the time.

    Nor may it join the time loops: with LAPACK's QR and eigenvalues in one program with a scan, jaxlib 0.10.2 can stop
    dead on a CPU.
    """

    def one(key: Array, kind: str) -> Networks:
        key_params, key_recurrent, key_direction = jax.random.split(key, 3)
        params = cell.init(key_params, xs.shape[-1], xs.dtype)
        paths = redrawn(cell, params, xs.shape[-1])
        params = redraw(params, paths, key_recurrent, kind)
        outputs = jax.eval_shape(lambda p: rnnjax.unroll(cell, p, xs[:1])[1], params)
        direction = jax.random.normal(key_direction, outputs.shape[1:], xs.dtype)
        drawn = [leaf for path, leaf in jax.tree.leaves_with_path(params) if jax.tree_util.keystr(path) in paths]
        square = bool(drawn) and drawn[0].ndim == 2 and drawn[0].shape[0] == drawn[0].shape[1]
        log_spectral_radius = theory.linear_rate(drawn[0]) if square else jnp.array(jnp.nan, xs.dtype)
        return Networks(params, direction / jnp.linalg.norm(direction), log_spectral_radius)

    keys = jax.random.split(key, seeds)
    drawn = [jax.vmap(lambda key, kind=kind: one(key, kind))(keys) for kind in kinds]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *drawn)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, None, None, 0, 0))
def _measured(
    cell: rnnjax.Cell, lengths: Array, xs: Array, networks: Networks, network: Array, scale: Array
) -> tuple[Array, ...]:
    """Every length of one network at one scale; vmapped over networks and scales."""
    params, direction, log_spectral_radius = jax.tree.map(lambda leaf: leaf[network], networks)
    cell, params = ScaledRecurrence(cell), ScaledParams(params, scale)
    rows = np.arange(len(lengths))
    same_input = jnp.broadcast_to(xs[:, None], (xs.shape[0], len(lengths), xs.shape[1]))

    def loss(ys: Array) -> Array:
        return (ys[lengths - 1, rows] @ direction.astype(ys.dtype)).sum()

    log_norm = rnnjax.gradients.adjoint(cell, params, same_input, loss, lengths=lengths).log_norm
    plain = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, same_input))
    gradient = rnnjax.gradients.adjoint_by_perturbation(cell, plain[0], plain[1], loss, lengths=lengths)
    squares = [(leaf * leaf).reshape(*log_norm.shape, -1).sum(axis=-1) for leaf in jax.tree.leaves(gradient)]
    finite = jnp.isfinite(rnnjax.unroll(cell, params, xs)[1]).all(axis=-1)
    return (
        log_norm,
        jnp.sqrt(jnp.stack(squares).sum(axis=0)),
        jnp.where(jnp.isfinite(log_norm[lengths, rows]).any(), 0, 1),
        jnp.where(finite.all(), xs.shape[0], jnp.argmin(finite)),
        log_spectral_radius + jnp.log(scale),
    )


def scalar_case(w2: float, lag: int = LAG) -> dict[str, Any]:
    """The lecture's one unit: dh_T/dh_(T-lag) of h_t = w2 h_(t-1) + x_t, plain and in log form, beside w2^lag."""
    cell = rnnjax.Elman(1, activation="linear")
    params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.full((1, 1), w2), b=jnp.zeros(1))
    xs = jnp.ones((lag, 1))

    def last(ys: Array) -> Array:
        return ys[-1, 0]

    plain = rnnjax.gradients.adjoint_by_perturbation(cell, params, xs, last)
    logs = rnnjax.gradients.adjoint(cell, params, xs, last).log_norm
    return {
        "w2": w2,
        "lag_steps": lag,
        "gradient": float(plain[0, 0]),
        "closed_form": w2**lag,
        "log_gradient_nats": float(logs[0]),
        "log_closed_form_nats": lag * math.log(w2),
    }


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    xs, record = series(options)
    common = {"hidden_size": options.hidden_size, "seed": options.seed, "input": record["source"]}
    common |= {"input_sha256": record["sha256"], "raw": options.raw, "tickers": list(options.tickers)}
    asked = [
        {"cell": cell, "kind": kind, "scale": scale, "length": length, "index": index} | common
        for cell, kind, scale, length, index in itertools.product(
            options.names, ("own", *options.kinds), options.scales, options.lengths, range(options.seeds)
        )
        if kind in kinds_of(cell, options.hidden_size, options.kinds)
    ]
    powers = run.rows(scalar_case, [{"w2": w2, "lag": LAG} for w2 in (0.5, 2.0)], "networks of one unit")
    return powers + run.rows(decay, asked, "sequences", together=("cell",), given={"xs": xs})


def predicted(
    cell: str, kind: str, scale: float, xs: np.ndarray, log_radius: float
) -> tuple[np.ndarray | None, str | None]:
    """What a closed form says of each step's growth, J_1 .. J_T [nats], and which one; None where there is none.

    Args:
      xs: the input `[T, D]`; W1 ~ N(0, 1/D), so the units' drive has variance |x_t|²/D.
      log_radius: mean over networks; the linear cell with a Gaussian W2 is predicted from the drawn matrices.
    """
    steps, cell = len(xs), {"elman": "tanh", "irnn": "relu"}.get(cell, cell)
    if cell == "linear" and kind == "orthogonal":
        return np.full(steps, math.log(scale)), "log scale"
    if cell == "linear":
        return np.full(steps, log_radius), "mean of log spectral radius (long lags)"
    if cell == "tanh":
        drive = jnp.asarray((xs**2).mean(axis=-1))
        return np.asarray(theory.tanh_mean_field_rates(scale, drive)), "mean field, large H"
    if cell == "relu":
        return np.full(steps, float(theory.relu_mean_field_rate(scale))), "mean field, large H"
    return None, None


def line_by_length(rows: Sequence[lab.Row], growth: np.ndarray | None, source: str | None) -> dict[str, Any]:
    """How much of the gradient reaches step 1: one line of a cell, kind, scale and length, over networks."""
    length, linear = rows[0]["length"], rows[0]["cell"] == "linear"
    overflow = np.array([row["finite_steps_count"] < length for row in rows])
    log_gradient = np.array([row["log_norm"][1] for row in rows])
    survives = np.isfinite(log_gradient) & (linear | ~overflow)  # a linear Jacobian does not depend on the state
    travelled = np.array([length - 1 - row["arrival_lag_steps"] for row in rows])
    arrival = np.array([row["log_norm"][length - row["arrival_lag_steps"]] for row in rows])
    rated = survives & (travelled > 0)
    decades = log_gradient[survives] / math.log(10)
    line = {name: rows[0][name] for name in ("cell", "kind", "scale", "length")} | {"lag_steps": length - 1}
    line["log10_gradient_mean"], line["log10_gradient_std"] = _mean_and_std(decades)
    line |= _rate((log_gradient[rated] - arrival[rated]) / travelled[rated])
    line["predicted_rate_nats_per_step"] = None if growth is None else float(growth[1:length].mean())
    line |= {"prediction": source, "seeds": len(rows), "surviving_fraction": float(survives.mean())}
    line["forward_overflow_fraction"] = float(overflow.mean())
    return line | {"verdict": verdict(line["log10_gradient_mean"], line["forward_overflow_fraction"])}


def line_by_lag(rows: Sequence[lab.Row], growth: np.ndarray | None) -> dict[str, Any]:
    """The decay within the longest sequence: the slope of log |dL/d(carry_t)| over lags from a tenth of it on."""
    steps, linear = rows[0]["length"], rows[0]["cell"] == "linear"
    lags, by_lag = np.arange(steps + 1), np.array([row["log_norm"][::-1] for row in rows])
    fitted = lags >= max(1, steps // 10)
    finite = np.array([row["finite_steps_count"] >= steps for row in rows])
    survives = np.isfinite(by_lag[:, fitted]).all(axis=1) & (linear | finite)
    slopes = np.array([np.polyfit(lags[fitted], curve[fitted], 1)[0] for curve in by_lag[survives]])
    line = {name: rows[0][name] for name in ("cell", "kind", "scale", "length")} | _rate(slopes)
    line["predicted_rate_nats_per_step"] = None
    if growth is not None:
        theory_by_lag = np.concatenate([[0.0], np.cumsum(growth[::-1])])
        line["predicted_rate_nats_per_step"] = float(np.polyfit(lags[fitted], theory_by_lag[fitted], 1)[0])
    line["surviving_fraction"] = float(survives.mean())
    float32 = np.array([row["float32_norm"][::-1] for row in rows])
    return line | {"float32_norm_dies_at_lag_steps": float32_death(float32, by_lag)}


def float32_death(norms: np.ndarray, by_lag: np.ndarray) -> float | None:
    """The median over networks of the lag from which a plain float32 norm is 0, inf or NaN, and the true one is not.

    Both are `[networks, lags]`. None if that happens to less than half of the networks.
    """
    dead = ((norms == 0) | ~np.isfinite(norms)) & np.isfinite(by_lag)
    median = float(np.median(np.where(dead.any(axis=1), dead.argmax(axis=1), np.inf)))
    return median if math.isfinite(median) else None


def verdict(log10_gradient: float | None, forward_overflow_fraction: float) -> str:
    """vanishing, stable or exploding, by the factor that reaches step 1, where any network has one.

    Else "zero" where exactly nothing arrives, and "overflow" where the state of every network leaves floating point
    before the end, so that its gradient cannot be known.
    """
    if log10_gradient is None:
        return "overflow" if forward_overflow_fraction == 1 else "zero"
    if abs(log10_gradient) <= STABLE_DECADES:
        return "stable"
    return "vanishing" if log10_gradient < 0 else "exploding"


def _mean_and_std(values: np.ndarray) -> tuple[float | None, float | None]:
    return (float(values.mean()), float(values.std())) if len(values) else (None, None)


def _rate(rates: np.ndarray) -> dict[str, Any]:
    """Mean and spread over networks, and the time in which the gradient halves or doubles at the mean rate."""
    mean, std = _mean_and_std(rates)
    return {
        "rate_nats_per_step": mean,
        "rate_nats_per_step_std": std,
        "half_life_steps": math.log(2) / -mean if mean is not None and mean < 0 else None,
        "doubling_time_steps": math.log(2) / mean if mean is not None and mean > 0 else None,
    }


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    options: Options = page.options
    xs, record = series(options)
    powers = [dict(row.plain) for row in rows if "w2" in row]
    groups: dict[tuple[str, str, float], dict[int, list[lab.Row]]] = {}
    for row in rows:
        if "w2" not in row:
            lengths = groups.setdefault((row["cell"], row["kind"], row["scale"]), {})
            lengths.setdefault(row["length"], []).append(row)
    longest = max(options.lengths)
    lines, lag_lines, curves = [], [], {}
    for (cell, kind, scale), by_length in groups.items():
        log_radius = float(np.mean(np.array([row["log_spectral_radius"] for row in by_length[longest]], float)))
        growth, source = predicted(cell, kind, scale, xs[:longest], log_radius)
        scaled = {"scaled": what_is_scaled(cell, options.hidden_size)}
        lines += [line_by_length(own, growth, source) | scaled for own in by_length.values()]
        lag_lines.append(line_by_lag(by_length[longest], growth) | scaled)
        by_lag = np.array([row["log_norm"][::-1] for row in by_length[longest]]) / math.log(10)
        curves[cell, kind, scale] = by_lag, growth
    page.text("Results", _results(lines, powers))
    _decay_figure(page, curves, lag_lines)
    if len(options.names) <= WIDE:
        _map_figure(page, lines)
        _rates_figure(page, lag_lines)
    else:
        _overview_figure(page, lag_lines)
    columns = {
        "cell": "cell", "kind": "W2", "scale": "scale", "log10_gradient_mean": "log10 gradient, mean",
        "log10_gradient_std": "std", "rate_nats_per_step": "rate [nats per step]",
        "predicted_rate_nats_per_step": "theory [nats per step]", "half_life_steps": "half-life [steps]",
        "verdict": "verdict",
    }  # fmt: skip
    caption = f"Gradient that reaches step 1 of {longest} steps (summary.json has all lengths)"
    page.table([line for line in lines if line["length"] == longest], columns, caption)
    origin = {"source": record["source"], "sha256": record["sha256"]}
    page.summary |= {
        "rows": [line | {"input": origin} for line in lines],
        "lag_rows": lag_lines,
        "scalar_cases": powers,
        "input": record,
        "verdict_threshold_decades": STABLE_DECADES,
        "loss": "inner product of the last output with a random unit vector",
    }


def _panels(options: Options) -> list[list[tuple[str, str]]]:
    """Rows of (kind, cell): a row of cells for each kind; of many cells, rows of the first kind alone."""

    def panel(kind: str, cell: str) -> tuple[str, str]:
        return kind if kind in kinds_of(cell, options.hidden_size, options.kinds) else "own", cell

    if len(options.names) <= WIDE:
        return [[panel(kind, cell) for cell in options.names] for kind in options.kinds]
    panels = [panel(options.kinds[0], cell) for cell in options.names]
    return [panels[start : start + WIDE] for start in range(0, len(panels), WIDE)]


def _title(kind: str, cell: str, options: Options) -> str:
    """The panel's cell and kind, and its knob if it has one."""
    scaled = what_is_scaled(cell, options.hidden_size)
    return f"{cell}, {kind}" if scaled == "W2" else f"{cell}: {scaled}"


def _results(lines: list[dict[str, Any]], powers: list[dict[str, Any]]) -> list[str]:
    said = [
        f"One unit: {case['w2']:g} to the power {case['lag_steps']} is {case['gradient']:.17g} as measured, "
        f"{case['closed_form']:.17g} as a power."
        for case in powers
    ]
    exact = [line for line in lines if line["prediction"] == "log scale" and line["rate_nats_per_step"] is not None]
    if exact:
        worst = max(abs(line["rate_nats_per_step"] - line["predicted_rate_nats_per_step"]) for line in exact)
        said.append(f"Linear cell, orthogonal W2: the measured rate differs from log scale by {worst:.1e} at most.")
    counts = {name: sum(line["verdict"] == name for line in lines) for name in VERDICTS}
    return [*said, "Gradients by verdict: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n) + "."]


def _decay_figure(page: lab.Page, curves: dict[Any, Any], lag_lines: list[dict[str, Any]]) -> None:
    """The log gradient against lag, theory over it, and where float32 gives up; panels kind x cell."""
    from matplotlib.lines import Line2D

    from .lab import style

    options, height = page.options, 30.0  # decades above and below zero
    death = {(line["cell"], line["kind"], line["scale"]): line["float32_norm_dies_at_lag_steps"] for line in lag_lines}
    cross: Any = {"color": "black", "linestyle": "none", "marker": "x", "markersize": 8, "mew": 2}
    panels = _panels(options)
    rows, columns = len(panels), len(panels[0])
    fig, axes = style.figures(rows, columns, 2.6 * columns + 1.2, 2.9 * rows + 1.0, sharex=True, sharey=True)
    lags = np.arange(1 + min(max(options.lengths), 2 * LAG))
    for ax in axes.flat[len(options.names) if len(options.names) > WIDE else rows * columns :]:
        ax.axis("off")
    for row, column in [(row, column) for row, line in enumerate(panels) for column in range(len(line))]:
        ax, (kind, cell) = axes[row, column], panels[row][column]
        ax.axhspan(FLOAT32_DECADES[1], height, color="#e6e6e6", zorder=0)
        ax.axhspan(-height, FLOAT32_DECADES[0], color="#e6e6e6", zorder=0)
        for i, scale in enumerate(_spread_out(options.scales, 5)):
            by_lag, growth = curves[cell, kind, scale]
            alive = np.ma.masked_invalid(by_lag[:, : len(lags)])
            mean, std = alive.mean(axis=0).filled(np.nan), alive.std(axis=0).filled(np.nan)
            ax.plot(lags, mean, label=f"scale {scale:g}", **style.curve(i))
            ax.fill_between(lags, mean - std, mean + std, color=style.COLORS[i], alpha=0.18, linewidth=0)
            if growth is not None:
                told = np.concatenate([[0.0], np.cumsum(growth[::-1])])[: len(lags)] / math.log(10)
                some = slice(0, None, max(1, len(lags) // 8))
                ax.plot(lags[some], told[some], **style.markers(i), markersize=4)
            dies = death[cell, kind, scale]
            if dies is not None and dies < len(lags):
                ax.plot(dies, mean[int(dies)], zorder=5, **cross)
        for w2 in (0.5, 2.0) if cell == "linear" else ():
            powers = np.arange(LAG + 1) * math.log10(w2)
            ax.plot(np.arange(LAG + 1), powers, color="#888888", linewidth=5, alpha=0.5, zorder=1)
            ax.annotate(f"${w2:g}^k$", (LAG, powers[-1]), (3, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set(ylim=(-height, height), xlim=(0, lags[-1]), title=_title(kind, cell, options))
        ax.set_xlabel("lag T − t [steps]" if row == rows - 1 else "")
        axes[row, 0].set_ylabel("log10 |dL/dh| [decades]")
    style.letters(axes)
    fig.suptitle("Gradient left at each lag")
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="none", label="theory"),
        Line2D([], [], label="float32 norm dies", **cross),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles) if columns > 2 else 2)
    page.figure(
        "decay",
        fig,
        alt="Log gradient against lag for each cell and up to five scales of W2: lines that fall for small scales and "
        "rise for large ones, with the theory's markers on them.",
        caption="Gradient that is left k steps before the end of the longest sequence: mean over seeds, band one "
        "standard deviation, open markers theory, thick grey the lecture's 0.5^k and 2^k. In the shaded zones a "
        "float32 norm is no longer representable; a cross marks the lag from which the one computed here in float32 "
        "is 0, inf or NaN.",
    )


def _spread_out(scales: Sequence[float], count: int) -> list[float]:
    """At most `count` of the scales, evenly spaced in their logarithm as far as possible, first and last included."""
    ordered = np.array(sorted(scales))
    targets = np.geomspace(ordered[0], ordered[-1], min(count, len(ordered)))
    return [float(ordered[i]) for i in sorted({int(np.abs(np.log(ordered / t)).argmin()) for t in targets})]


def _map_figure(page: lab.Page, lines: list[dict[str, Any]]) -> None:
    """How much gradient reaches step 1, by scale (up) and length (to the right); decades written in each field."""
    from matplotlib.colors import TwoSlopeNorm

    from .lab import style

    norm = TwoSlopeNorm(0, -20, 20)  # decades; the colour map's brightness rises throughout, so it also reads in grey
    kinds, scales, lengths, cells = (getattr(page.options, name) for name in ("kinds", "scales", "lengths", "names"))
    panels = _panels(page.options)
    found = {(line["kind"], line["cell"], line["scale"], line["length"]): line for line in lines}
    size = 2.9 * len(cells) + 1.0, 0.3 * len(scales) * len(kinds) + 2.0
    fig, axes = style.figures(len(kinds), len(cells), *size, sharex=True, sharey=True)
    image: Any = None
    for row, column in itertools.product(range(len(kinds)), range(len(cells))):
        ax, (kind, cell) = axes[row, column], panels[row][column]
        fields = [[found[kind, cell, scale, length] for length in lengths] for scale in scales]
        values = np.array([[field["log10_gradient_mean"] for field in line] for line in fields], float)
        image = ax.imshow(values, norm=norm, cmap="cividis", aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(values):
            text = "0" if np.isnan(value) or abs(value) < 0.5 else f"{value:.0f}".replace("-", "−")
            text = "∞" if fields[i][j]["verdict"] == "overflow" else text
            ink = "black" if np.isnan(value) or norm(value) > 0.55 else "white"
            ax.text(j, i, text, ha="center", va="center", fontsize=7.5, color=ink)
        ax.grid(False)
        ax.set_xticks(range(len(lengths)), [str(length) for length in lengths], rotation=90)
        ax.set_yticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        title = _title(kind, cell, page.options)
        ax.set(title=title, xlabel="length T [steps]" if row == len(kinds) - 1 else "")
        axes[row, 0].set_ylabel("scale of W2")
    style.letters(axes)
    fig.suptitle("Gradient that reaches step 1")
    fig.colorbar(image, ax=axes, label="log10 |dL/dh_1| [decades]", extend="both", pad=0.01)
    page.figure(
        "map",
        fig,
        alt="Heat maps of the log gradient that reaches step 1 by scale of W2 and length, one per cell and kind.",
        caption="Decades of gradient that reach step 1 (mean over seeds): dark vanishes, bright explodes. A zero in an "
        "empty field means that exactly nothing arrives, ∞ that the state itself overflows.",
    )


def _rates_figure(page: lab.Page, lag_lines: list[dict[str, Any]]) -> None:
    """Growth per step against the scale of W2, measured and in theory; one panel per kind."""
    from .lab import style

    options = page.options
    fig, axes = style.figures(1, len(options.kinds), 4.6 * len(options.kinds), 4.4, sharey=True)
    for ax, kind, panels in zip(axes[0], options.kinds, _panels(options), strict=True):
        ax.axhline(0, color="black", linewidth=0.8)
        for i, (own_kind, cell) in enumerate(panels):
            own = [line for line in lag_lines if (line["cell"], line["kind"]) == (cell, own_kind)]
            own.sort(key=lambda line: line["scale"])
            names = ("scale", "rate_nats_per_step", "rate_nats_per_step_std", "predicted_rate_nats_per_step")
            scale, mean, std, told = np.array([[line[name] for name in names] for line in own], float).T
            scaled = own[0]["scaled"]
            label = cell if scaled == "W2" else f"{cell}: {scaled}"
            ax.errorbar(scale, mean, std, **style.markers(i), label=label)
            if np.isfinite(told).any():
                ax.plot(scale, told, **style.curve(i), label=f"{cell}, theory")
        ax.set_xscale("log")
        ax.set_xticks(options.scales, [f"{scale:g}" for scale in options.scales], rotation=90)
        ax.minorticks_off()
        ax.set(title=f"{kind} W2", xlabel="scale of W2, or of the knob named")
    axes[0, 0].set_ylabel("growth per step back [nats]")
    style.letters(axes)
    fig.suptitle("Growth of the gradient per step")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    page.figure(
        "rates",
        fig,
        alt="Growth of the gradient per step in nats against the scale of W2, markers measured and lines theory.",
        caption="Slope of the log gradient over lags from a tenth of the longest sequence on: mean and standard "
        "deviation over seeds, lines theory. Below 0 the gradient vanishes, above it explodes.",
    )


def _overview_figure(page: lab.Page, lag_lines: list[dict[str, Any]]) -> None:
    """Growth per step of many cells: cells from the most vanishing to the most exploding, scales to the right."""
    from matplotlib.colors import TwoSlopeNorm

    from .lab import style

    options = page.options
    kinds, scales = options.kinds, sorted(options.scales)
    rates = {(line["cell"], line["kind"], line["scale"]): line["rate_nats_per_step"] for line in lag_lines}
    middle = min(scales, key=lambda scale: abs(math.log(scale)))
    tables = []
    for kind in kinds:
        own = {cell: kind if (cell, kind, middle) in rates else "own" for cell in options.names}
        tables.append([[rates[cell, own[cell], scale] for scale in scales] for cell in options.names])
    values = np.array(tables, float)
    order = np.argsort(np.nan_to_num(values[0, :, scales.index(middle)], nan=np.inf))
    labels = [_title("", options.names[i], options).removesuffix(", ") for i in order]
    norm = TwoSlopeNorm(0, -1, 1)
    image: Any = None
    size = 0.55 * len(scales) * len(kinds) + 4.5, 0.2 * len(order) + 2.0
    fig, axes = style.figures(1, len(kinds), *size, sharey=True)
    for ax, kind, table in zip(axes[0], kinds, values, strict=True):
        image = ax.imshow(table[order], norm=norm, cmap="cividis", aspect="auto")
        for (i, j), value in np.ndenumerate(table[order]):
            text = "∞" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
            ink = "black" if np.isnan(value) or norm(value) > 0.55 else "white"
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
        ax.grid(False)
        ax.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales], rotation=90)
        ax.set_yticks(range(len(order)), labels, fontsize=7.5)
        ax.set(title=f"{kind} W2, where it can be redrawn", xlabel="scale of W2, or of the knob named with the cell")
    fig.suptitle("Growth of the gradient per step back")
    fig.colorbar(image, ax=axes, label="growth per step back [nats]", extend="both", pad=0.01)
    page.figure(
        "rates",
        fig,
        alt="Heat map of the gradient's growth per step: a row per cell, a column per scale.",
        caption="Slope of the log gradient over lags from a tenth of the longest sequence on, mean over seeds: dark "
        f"vanishes, bright explodes; cells are ordered by their rate at scale {middle:g}. ∞: no network survives, as "
        "its state overflows or exactly nothing arrives.",
    )


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()
