"""What is computed: a cell, a size, weights and inputs, the same for every contestant, and the floor of their times.

Shapes: B batch, T steps, D input features, H hidden units; `xs` is `[T, B, D]`. The training step is the loss
L = Σ y², its gradient with respect to every weight and to `xs`. In a padded batch the steps beyond a row's length count
neither in the outputs nor in the loss.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import AfterValidator

from rnnjax.cells import catalogue

from . import contest

CellName = Literal["lstm", "gru", "elman"]

GATES: dict[str, int] = {"lstm": 4, "gru": 3, "elman": 1}
"""How many gates a cell has."""


def _catalogued(name: str) -> str:
    if name not in catalogue():
        raise ValueError("name a cell of rnnjax.cells.catalogue(), for example mgu")
    return name


AnyCell = Annotated[str, AfterValidator(_catalogued)]
"""The name of any cell of the catalogue."""


class Point(NamedTuple):
    B: int
    T: int
    D: int
    H: int

    @classmethod
    def parse(cls, text: str) -> "Point":
        """`"8,200,32,64"` to a point."""
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){3}", text):
            raise ValueError("write a point as B,T,D,H, for example 8,200,32,64")
        return cls(*map(int, text.split(",")))

    @classmethod
    def of_size(cls, size: str, T: int) -> "Point":
        """B,D,H and T to a point."""
        try:
            return cls.parse(size.replace(",", f",{T},", 1))
        except ValueError:
            raise ValueError("write a size as B,D,H, for example 32,64,128") from None

    def __str__(self) -> str:
        return ",".join(map(str, self))


PointText = Annotated[str, AfterValidator(lambda text: str(Point.parse(text)))]
SizeText = Annotated[str, AfterValidator(lambda text: Point.of_size(text, 1) and text)]

_GRID = "1,500,32,64 8,200,32,64 32,100,64,128 16,784,1,128 64,100,256,256 128,50,64,128 4,2000,16,32 16,100,512,512"
GRID = tuple(_GRID.split())
"""The reference grid: from one short row to matrices that fill a core's cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One cell at one point, with the numbers to run it on.

    Attributes:
      weights: rnnjax's parameters by name: `w_x` [D, GH], `w_h` [H, GH], `b` [GH], of a GRU `b_hn` [H], and what other
        cells have; gates in rnnjax's order, which is PyTorch's.
      xs: `[T, B, D]`, of the weights' dtype.
      lengths: `[B]` int32, or None where every step counts.
    """

    cell: str
    point: Point
    weights: dict[str, np.ndarray]
    xs: np.ndarray
    lengths: np.ndarray | None

    @property
    def counts(self) -> np.ndarray:
        """`[T, B]` bool: which steps count."""
        B, T, _, _ = self.point
        lengths = np.full(B, T) if self.lengths is None else self.lengths
        return np.arange(T)[:, None] < lengths

    @property
    def forward_flops(self) -> float:
        """Multiplications and additions of the matmuls, of steps that count.

        A training step has three times as many: the gradient of each factor is another matmul of the same size.
        """
        return 2.0 * float(self.counts.sum()) * sum(w.size for w in self.weights.values() if w.ndim == 2)


def make_problem(cell: str, point: Point, *, padded: bool = False, seed: int = 0) -> Problem:
    """Uniform weights within ±H^-½ as PyTorch has them, Gaussian inputs; with `padded`, lengths from T/4 to T.

    `b_hn` is zero, so that a GRU without this bias (Flax nnx) computes the same.
    """
    B, T, D, H = point
    random, scale = np.random.default_rng(seed), H**-0.5
    weights = {name: np.zeros(array.shape, np.float32) for name, array in params_of(cell, D, H)._asdict().items()}
    for name in [name for name in weights if name != "b_hn"]:
        weights[name] = random.uniform(-scale, scale, weights[name].shape).astype(np.float32)
    xs = random.normal(size=(T, B, D)).astype(np.float32)
    if not padded:
        return Problem(cell, point, weights, xs, None)
    lengths = random.integers(max(1, T // 4), T, B, endpoint=True).astype(np.int32)
    lengths[0] = T
    return Problem(cell, point, weights, xs, lengths)


def params_of(cell: str, D: int, H: int) -> Any:
    """rnnjax's parameters of a cell, as shapes."""
    return jax.eval_shape(lambda key: catalogue()[cell](H).init(key, D), jax.random.key(0))


Run = Callable[[Any, Array, Array | None], Array]  # (params, xs, lengths) to ys
Layout = Callable[[Mapping[str, Any]], Any]  # the weights of a problem to a library's parameters, linear but constants


def programs(
    problem: Problem,
    run: Run,
    layout: Layout = dict,
    *,
    tasks: tuple[str, ...] = ("forward", "train"),
    batch_major: bool = False,
    weighted: bool = False,
    without: str = "",
    place: Callable[..., tuple[Any, ...]] = lambda *arguments: arguments,
    jit: bool = True,
    **compiling: Any,
) -> dict[str, contest.Program]:
    """Forward pass and training step; results in the shared form of `problem.weights`, "xs", "ys" and "loss".

    Args:
      layout: gradients come back in the shared form by the transpose of this map.
      batch_major: `run` has `xs` and `ys` as `[B, T, ...]`.
      weighted: the loss has to leave out the steps beyond a row's length; otherwise `ys` is zero there.
      without: a weight that the library does not have.
      place: `(params, xs, lengths)` to the same on their devices.
      jit: False runs it eagerly, as written.
      compiling: see `contest.compiled`.
    """

    def natural(array: Any) -> Any:
        return array.swapaxes(0, 1) if batch_major else array

    weights = {name: jnp.asarray(value) for name, value in problem.weights.items() if name != without}
    counts = natural(problem.counts)[..., None]
    weigh = jnp.asarray(counts, problem.xs.dtype) if weighted and problem.lengths is not None else None
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    arguments = place(layout(weights), jnp.asarray(natural(problem.xs)), lengths)

    def loss(params: Any, xs: Array, lengths: Array | None, weigh: Array | None) -> Array:
        ys = run(params, xs, lengths)
        return (ys**2).sum() if weigh is None else (ys**2 * weigh).sum()

    def outputs(ys: Any) -> dict[str, Any]:
        return {"ys": natural(np.asarray(ys) * counts)}

    def gradients(result: Any) -> dict[str, Any]:
        value, (dparams, dxs) = result
        return {**read(layout, weights, dparams), "xs": natural(np.asarray(dxs)), "loss": value}

    def program(function: Callable, shared: Callable, *given: Any) -> contest.Program:
        if jit:
            return contest.compiled(function, *given, shared=shared, **compiling)
        return contest.Program(lambda: jax.block_until_ready(function(*given)), shared)

    made = {"forward": program(run, outputs, *arguments)} if "forward" in tasks else {}
    if "train" in tasks:
        made["train"] = program(jax.value_and_grad(loss, argnums=(0, 1)), gradients, *arguments, weigh)
    return made


def read(layout: Layout, weights: Mapping[str, Any], grads: Any) -> dict[str, Any]:
    """Gradients in a library's layout to those of the problem's weights, by name."""
    grads = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), grads)
    return jax.vjp(layout, {name: jnp.asarray(value) for name, value in weights.items()})[1](grads)[0]


_LARGE = {"cpu": (2048, 512, 1024)}  # rows, inner, columns: large enough for the full rate, short enough to repeat


def large_matmul() -> tuple[contest.Program, float]:
    """One large matrix product, float32 at the default precision, and its floating-point operations.

    At its rate, measured in the same rounds, the matmuls of a step alone are the floor: nothing that multiplies the
    same matrices can be faster.
    """
    rows, inner, columns = _LARGE.get(jax.default_backend(), (8192, 8192, 8192))
    random = np.random.default_rng(0)
    left, right = (random.normal(size=size).astype(np.float32) for size in ((rows, inner), (inner, columns)))
    return contest.compiled(lambda a, b: a @ b, left, right), 2.0 * rows * inner * columns


def floor_row(median_ms: float, matmul_flops: float, forward_flops: float) -> dict[str, float]:
    """The floor of a point: rate of the large product, and milliseconds by task at that rate."""
    rate = matmul_flops / median_ms
    return {"gflops_per_s": 1e-6 * rate, "forward_ms": forward_flops / rate, "train_ms": 3 * forward_flops / rate}
