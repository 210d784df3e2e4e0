"""Random steps as Python source: a seed gives a step with parameters, carry, inputs and masks.

A step combines common ways to write a recurrence: products with the carry in one to three stages, weights that are
functions of parameters, elementwise gates, and more. Each way has a name; the names in a step are its `features`. The
source is kept, so that a failing step can be read and pasted.

    >>> written = write(0)
    >>> written.source.splitlines()[0]
    'def make_step(closed):'
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rnnjax
from rnnjax.cell import PyTree

FLOAT = "float64"


@jax.custom_jvp
def half_slope(z: Array) -> Array:
    """tanh with half of its derivative, by a custom rule."""
    return jnp.tanh(z)


@half_slope.defjvp
def _half_slope_jvp(primals, tangents):
    y = half_slope(primals[0])
    return y, 0.5 * (1 - y * y) * tangents[0]


@jax.custom_vjp
def straight_through(z: Array) -> Array:
    """The sign of z, differentiated as tanh(z): a binary unit."""
    return jnp.sign(z)


def _straight_through_forward(z: Array) -> tuple[Array, Array]:
    return jnp.sign(z), z


def _straight_through_backward(z: Array, dy: Array) -> tuple[Array]:
    return (dy * (1 - jnp.tanh(z) ** 2),)


straight_through.defvjp(_straight_through_forward, _straight_through_backward)


class Vector(NamedTuple):
    """An expression of shape `[*batch, width]`."""

    text: str
    width: int


class Leaf(NamedTuple):
    """A leaf of the carry; `kind` is vector, scalar, counter, complex or matrix."""

    name: str
    kind: str
    width: int

    @property
    def own_shape(self) -> tuple[int, ...]:
        return {"vector": (self.width,), "complex": (self.width,), "matrix": (self.width, self.width)}.get(
            self.kind, ()
        )

    @property
    def dtype(self) -> str:
        return {"counter": "int32", "complex": "complex128"}.get(self.kind, FLOAT)


class Arguments(NamedTuple):
    """The differentiated arguments, all floating or complex."""

    params: dict[str, Array]
    carry: dict[str, Array]  # without counters; empty where the cell's initial carry is used
    xs: Array  # [T, *batch, D]
    closed: dict[str, Array]  # arrays that the step closes over


class OwnClass(NamedTuple):
    """A cell as a user's class, independent of the library."""

    step: Callable[..., Any]
    initial: Callable[..., Any]

    def init(self, key: Array, input_size: int, dtype: Any = None) -> PyTree:
        raise NotImplementedError

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return self.initial(params, batch_shape)


@dataclasses.dataclass(frozen=True)
class Written:
    """A step with its arguments.

    Attributes:
      source: the source of `make_step(closed)`, which returns `step(params, carry, x)`.
      constants: arrays that the source uses and that are not differentiated.
      homes: for each leaf of y, the leaf of the carry that it equals, if any.
      times: `lengths`, `mask` and `resets`, if given.
      learned_start: whether the initial carry depends on parameters.
    """

    seed: int
    source: str
    features: frozenset[str]
    constants: dict[str, np.ndarray]
    leaves: tuple[Leaf, ...]
    form: str  # of the carry: "bare", "tuple" or "dict"
    homes: tuple[int | None, ...]
    batch_shape: tuple[int, ...]
    times: dict[str, np.ndarray]
    reverse: bool
    given_carry: bool
    learned_start: bool
    own_class: bool
    counters: dict[str, np.ndarray]
    shapes: dict[str, dict[str, tuple[tuple[int, ...], str, float]]]
    sizes: tuple[int, int]  # T, D

    def cell(self, closed: dict[str, Array]) -> Any:
        """The cell whose step closes over `closed`."""
        step = self.make_step(closed)
        return (OwnClass if self.own_class else rnnjax.StepCell)(step, self.initial_carry)

    def make_step(self, closed: dict[str, Array]) -> Callable[..., Any]:
        names = {"jax": jax, "jnp": jnp, "lax": lax, "half_slope": half_slope, "straight_through": straight_through}
        with jax.ensure_compile_time_eval():
            names |= {name: jnp.asarray(value) for name, value in self.constants.items()}
        exec(compile(self.source, f"<step {self.seed}>", "exec"), names)
        return names["make_step"](closed)

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """Zero, or for vectors learned."""

        def start(leaf: Leaf) -> Array:
            shape = (*batch_shape, *leaf.own_shape)
            if self.learned_start and leaf.kind == "vector":
                return jnp.broadcast_to(jnp.tanh(params[f"start_{leaf.name}"]), shape)
            return jnp.zeros(shape, leaf.dtype)

        return self.pack({leaf.name: start(leaf) for leaf in self.leaves})

    def pack(self, named: Mapping[str, Any]) -> PyTree:
        """Leaves by name as the step's carry."""
        if self.form == "bare":
            return named[self.leaves[0].name]
        return tuple(named[leaf.name] for leaf in self.leaves) if self.form == "tuple" else dict(named)

    def carry(self, arguments: Arguments) -> PyTree:
        """The carry argument of a call, with counters; `None` if there is none."""
        return self.pack(arguments.carry | self.counters) if self.given_carry else None

    def arguments(self, salt: int = 0, scale: float = 1.0) -> Arguments:
        """Gaussian numbers; the same for the same salt."""
        rng = np.random.default_rng([self.seed, salt])

        def normal(shape: tuple[int, ...], dtype: str, size: float) -> Array:
            values = rng.normal(size=shape) * size * scale
            if dtype == "complex128":
                values = values + 1j * rng.normal(size=shape) * size * scale
            return jnp.asarray(values, dtype)

        def all_of(kind: str) -> dict[str, Array]:
            return {name: normal(*of) for name, of in self.shapes[kind].items()}

        steps, features = self.sizes
        return Arguments(
            all_of("params"),
            all_of("carry"),
            normal((steps, *self.batch_shape, features), FLOAT, 1.0),
            all_of("closed"),
        )

    @property
    def hidden(self) -> np.ndarray:
        """`[T, *batch]`, the masked steps."""
        shape = (self.sizes[0], *self.batch_shape)
        hidden = np.zeros(shape, bool)
        if "lengths" in self.times:
            hidden |= np.arange(shape[0]).reshape(-1, *(1 for _ in self.batch_shape)) >= self.times["lengths"]
        return hidden | ~self.times["mask"] if "mask" in self.times else hidden

    def __str__(self) -> str:
        times = {name: value.tolist() for name, value in self.times.items()}
        about = f"batch {self.batch_shape}, reverse={self.reverse}, {times}"
        return f"{self.source}\n# seed {self.seed}: {', '.join(sorted(self.features))}\n# {about}"


class Writer:
    """Writes one step; every choice is drawn from `rng`, but `wanted` features are used where possible."""

    def __init__(self, rng: np.random.Generator, wanted: set[str]) -> None:
        self.rng, self.wanted = rng, set(wanted)
        self.features: set[str] = set()
        self.lines: list[str] = []
        self.params: dict[str, tuple[tuple[int, ...], str, float]] = {}
        self.closed: dict[str, tuple[tuple[int, ...], str, float]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.plain_weights: list[tuple[str, tuple[int, int]]] = []
        self.batch_ndim = int(self.pick([0, 1, 1, 1, 1, 2]))
        if "two batch axes" in wanted:
            self.batch_ndim = 2
        if {"no batch axis", "w @ h of one row", "cond on the carry"} & wanted:
            self.batch_ndim = 0
        if {"vmapped step", "product under vmap"} & wanted:
            self.batch_ndim = 1
        self.features |= {0: {"no batch axis"}, 2: {"two batch axes"}}.get(self.batch_ndim, set())
        self.x = Vector("x", int(self.rng.integers(1, 4)))
        self.dead_input = self.asked("dead input", 0.05)

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def asked(self, feature: str, otherwise: float = 0.0) -> bool:
        """Whether to use a feature: always if it is wanted, else by chance."""
        use = feature in self.wanted or self.chance(otherwise)
        if use:
            self.wanted.discard(feature)
            self.features.add(feature)
        return use

    def choose(self, ways: dict[str, Callable[..., str | None]], *of: Any, plain: str, often: float = 0.5) -> str:
        """Applies one of these ways: a wanted one, else the plain one, else any that fits."""
        for name in [name for name in ways if name in self.wanted]:
            text = ways[name](self, *of)
            if text is not None:
                self.wanted.discard(name)
                self.features.add(name)
                return text
        while not self.chance(often):
            name = self.pick(list(ways))
            text = None if name in RARE else ways[name](self, *of)
            if text is not None:
                self.features.add(name)
                return text
        text = ways[plain](self, *of)
        assert text is not None
        self.features.add(plain)
        return text

    def let(self, text: str) -> str:
        """A variable that holds this."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def param(self, *shape: int, dtype: str = FLOAT, scale: float | None = None) -> str:
        name = f"p{len(self.params)}"
        fan = shape[0] if len(shape) > 1 else 1
        self.params[name] = (shape, dtype, (0.9 / np.sqrt(fan)) if scale is None else scale)
        return f'params["{name}"]'

    def close_over(self, *shape: int) -> str:
        name = f"a{len(self.closed)}"
        self.closed[name] = (shape, FLOAT, 0.7 / np.sqrt(shape[0]))
        return f'closed["{name}"]'

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def weight(self, rows: int, columns: int) -> str:
        return self.choose(WEIGHTS, rows, columns, plain="w", often=0.6)

    def pointwise(self, z: str) -> str:
        return self.choose(POINTWISE, z, plain="tanh", often=0.3)

    def product(self, v: Vector, columns: int) -> Vector:
        text = self.choose(PRODUCTS, v, columns, plain="h @ w", often=0.2)
        return Vector(self.let(text), columns)

    def from_input(self, columns: int) -> str:
        """The input's contribution to a pre-activation, with a bias."""
        if self.dead_input:
            return self.param(columns)
        return self.choose(INPUTS, columns, plain="x @ w + b", often=0.4)

    def stage(self, v: Vector, columns: int) -> Vector:
        """A gate of width `columns`: a product with v, plus a bias and the input."""
        if self.asked("bias before the product", 0.1):
            v = Vector(f"({v.text} + {self.param(v.width)})", v.width)
        z = self.product(v, columns).text
        added = self.from_input(columns) if self.chance(0.75) else self.param(columns)
        z = f"{z} + {added}" if self.chance(0.5) else f"{added} + {z}"
        if self.plain_weights and self.asked("a weight also elsewhere", 0.08):
            name, _ = self.pick(self.plain_weights)
            z = f"{z} + jnp.tanh({name}).sum()"
        return self.changed(Vector(self.let(self.pointwise(f"({z})")), columns))

    def changed(self, v: Vector) -> Vector:
        """Mostly v itself; sometimes an operation that is not elementwise."""
        if set(BEYOND_POINTWISE) & self.wanted or self.chance(0.12):
            return Vector(self.let(self.choose(BEYOND_POINTWISE, v, plain="jit inside", often=0.2)), v.width)
        return v


def _shared(writer: Writer, rows: int, columns: int) -> str | None:
    of_shape = [name for name, shape in writer.plain_weights if shape == (rows, columns)]
    if of_shape:
        return writer.pick(of_shape)
    turned = [name for name, shape in writer.plain_weights if shape == (columns, rows)]
    return f"{writer.pick(turned)}.T" if turned else None


def _plain(writer: Writer, rows: int, columns: int) -> str:
    name = writer.param(rows, columns)
    writer.plain_weights.append((name, (rows, columns)))
    return name


def _signs(writer: Writer, rows: int) -> str:
    return writer.constant(np.where(writer.rng.random((rows, 1)) < 0.5, -1.0, 1.0))


def _mask(writer: Writer, rows: int, columns: int) -> str:
    return writer.constant((writer.rng.random((rows, columns)) < 0.7).astype(FLOAT))


WEIGHTS: dict[str, Callable[..., str | None]] = {
    "w": _plain,
    "shared weight": _shared,
    "mask * w": lambda k, m, n: f"({_mask(k, m, n)} * {_plain(k, m, n)})",
    "softplus(w)": lambda k, m, n: f"(0.5 * jax.nn.softplus({k.param(m, n)}))",
    "w.astype": lambda k, m, n: f'{k.param(m, n, dtype="float32")}.astype("float64")',
    "Dale's law": lambda k, m, n: f"(jnp.abs({k.param(m, n)}) * {_signs(k, m)})",
    "normalised w": lambda k, m, n: k.let("{0} / jnp.sqrt(1.0 + ({0} * {0}).sum())".format(k.param(m, n))),
    "w - w.T": lambda k, m, n: "({0} - {0}.T)".format(k.param(m, m)) if m == n else None,
    "triangular w": lambda k, m, n: f"jnp.tril({k.param(m, n)})",
    "low rank": lambda k, m, n: f"({k.param(m, 1)} @ {k.param(1, n)})",
    "slice of w": lambda k, m, n: f"{k.param(m + 1, n)}[1:]",
    "w.at.set": lambda k, m, n: f"{k.param(m, n)}.at[0, 0].set(0.5)",
    "stop_gradient(w)": lambda k, m, n: f"lax.stop_gradient({k.param(m, n)})",
    "half stopped w": lambda k, m, n: k.let("lax.stop_gradient({0}) + 0.5 * jnp.sin({0})".format(k.param(m, n))),
    "closed array": lambda k, m, n: k.constant(k.rng.normal(size=(m, n)) * 0.7),
    "closed tracer": lambda k, m, n: k.close_over(m, n),
    "w times closed": lambda k, m, n: f"({k.param(m, n)} * jnp.tanh({k.close_over(n)}))",
    "outer product": lambda k, m, n: f"jnp.outer({k.param(m)}, {k.param(n)})",
}


def _of_x(writer: Writer) -> str:
    return "jnp.ones_like(x)" if writer.dead_input else "x"


def _parts(writer: Writer, v: Vector, columns: int) -> str:
    first = max(1, columns // 2)
    if columns == 1:
        return f"{v.text} @ {writer.weight(v.width, 1)}"
    a, b = writer.weight(v.width, first), writer.weight(v.width, columns - first)
    return f"jnp.concatenate([{v.text} @ {a}, {v.text} @ {b}], axis=-1)"


def _split(writer: Writer, v: Vector, columns: int) -> str:
    z = writer.let(f"{v.text} @ {writer.weight(v.width, 2 * columns)}")
    a, b = f"a{len(writer.lines)}", f"b{len(writer.lines)}"
    writer.lines.append(f"{a}, {b} = jnp.split({z}, 2, axis=-1)")
    return f"{a} * jax.nn.sigmoid({b})"


def _blocks(writer: Writer, v: Vector, columns: int) -> str:
    z = writer.let(f'jnp.einsum("...i,igj->...gj", {v.text}, {writer.param(v.width, 2, columns)})')
    return f"{z}[..., 0, :] * jax.nn.sigmoid({z}[..., 1, :])"


def _reshaped(writer: Writer, v: Vector, columns: int) -> str:
    z = f"({v.text} @ {writer.weight(v.width, 2 * columns)})"
    z = writer.let(f"{z}.reshape(*{v.text}.shape[:-1], 2, {columns})")
    return f"jnp.tanh({z}[..., 0, :]) * {z}[..., 1, :]"


def _heads(writer: Writer, v: Vector, columns: int) -> str | None:
    if v.width % 2:
        return None
    half = v.width // 2
    heads = f"{v.text}.reshape(*{v.text}.shape[:-1], 2, {half})"
    return f'jnp.einsum("...gi,gij->...gj", {heads}, {writer.param(2, half, columns, scale=0.6)}).sum(-2)'


def _tied(writer: Writer, v: Vector, columns: int) -> str:
    w = writer.param(v.width, 2)
    return f"jnp.tanh({v.text} @ {w}) @ {w}.T @ {writer.param(v.width, columns)}"


def _twice(writer: Writer, v: Vector, columns: int) -> str:
    w = writer.param(v.width, v.width)
    return f"jnp.tanh({v.text} @ {w}) @ {w} @ {writer.param(v.width, columns)}"


def _weights_of_input(writer: Writer, v: Vector, columns: int) -> str:
    w = f"jnp.tanh({_of_x(writer)} @ {writer.param(writer.x.width, v.width * columns)})"
    w = writer.let(f"{w}.reshape(*x.shape[:-1], {v.width}, {columns})")
    return f'jnp.einsum("...i,...ij->...j", {v.text}, {w})'


def _of_one_row(writer: Writer, v: Vector, columns: int) -> str | None:
    return f"{writer.weight(columns, v.width)} @ {v.text}" if writer.batch_ndim == 0 else None


def _under_vmap(writer: Writer, v: Vector, columns: int) -> str | None:
    w = writer.weight(columns, v.width)
    return f"jax.vmap(lambda row: {w} @ row)({v.text})" if writer.batch_ndim == 1 else None


def _joined(writer: Writer, v: Vector, columns: int, parts: str, more: int) -> str:
    return f"jnp.concatenate([{parts}], axis=-1) @ {writer.weight(v.width + more, columns)}"


def _dot_general(writer: Writer, v: Vector, columns: int) -> str:
    w = writer.weight(columns, v.width)
    return f"lax.dot_general({v.text}, {w}, ((({v.text}.ndim - 1,), (1,)), ((), ())))"


PRODUCTS: dict[str, Callable[..., str | None]] = {
    "h @ w": lambda k, v, n: f"{v.text} @ {k.weight(v.width, n)}",
    "jnp.dot": lambda k, v, n: f"jnp.dot({v.text}, {k.weight(v.width, n)})",
    "einsum": lambda k, v, n: f'jnp.einsum("...i,ij->...j", {v.text}, {k.weight(v.width, n)})',
    "einsum, w first": lambda k, v, n: f'jnp.einsum("ji,...i->...j", {k.weight(n, v.width)}, {v.text})',
    "w @ h": lambda k, v, n: f"({k.weight(n, v.width)} @ {v.text}[..., None])[..., 0]",
    "w @ h of one row": _of_one_row,
    "h @ w.T": lambda k, v, n: f"{v.text} @ {k.weight(n, v.width)}.T",
    "concatenate [x, h]": lambda k, v, n: _joined(k, v, n, f"{_of_x(k)}, {v.text}", k.x.width),
    "concatenate [h, x, 1]": lambda k, v, n: _joined(
        k, v, n, f"{v.text}, {_of_x(k)}, jnp.ones_like({v.text}[..., :1])", k.x.width + 1
    ),
    "concatenate [h, tanh h]": lambda k, v, n: _joined(k, v, n, f"{v.text}, jnp.tanh({v.text})", v.width),
    "gate by gate": _parts,
    "split into gates": _split,
    "weights of three axes": _blocks,
    "gates by reshape": _reshaped,
    "heads": _heads,
    "lax.dot_general": _dot_general,
    "jnp.matmul, precision": lambda k, v, n: f'jnp.matmul({v.text}, {k.weight(v.width, n)}, precision="highest")',
    "jnp.tensordot": lambda k, v, n: f"jnp.tensordot({v.text}, {k.weight(v.width, n)}, 1)",
    "jnp.inner": lambda k, v, n: f"jnp.inner({v.text}, {k.weight(n, v.width)})",
    "product by broadcasting": lambda k, v, n: f"jnp.sum({v.text}[..., :, None] * {k.weight(v.width, n)}, axis=-2)",
    "bilinear in x and h": lambda k, v, n: (
        f'jnp.einsum("...i,...j,ijk->...k", {_of_x(k)}, {v.text}, {k.param(k.x.width, v.width, n, scale=0.5)})'
    ),
    "bilinear in h and h": lambda k, v, n: (
        f'jnp.einsum("...i,...j,ijk->...k", {v.text}, jnp.tanh({v.text}), {k.param(v.width, v.width, n, scale=0.3)})'
    ),
    "weights made of x": _weights_of_input,
    "w and w.T": _tied,
    "one weight in two products": _twice,
    "product under vmap": _under_vmap,
    "product under jit": lambda k, v, n: f"jax.jit(lambda a, w: a @ w)({v.text}, {k.weight(v.width, n)})",
    "product under checkpoint": lambda k, v, n: (
        f"jax.checkpoint(lambda a, w: jnp.tanh(a @ w))({v.text}, {k.weight(v.width, n)})"
    ),
}

POINTWISE: dict[str, Callable[..., str | None]] = {
    "tanh": lambda k, z: f"jnp.tanh({z})",
    "sigmoid": lambda k, z: f"jax.nn.sigmoid({z})",
    "relu": lambda k, z: f"jax.nn.relu({z})",
    "exp of tanh": lambda k, z: f"jnp.exp(jnp.tanh({z}))",
    "softplus": lambda k, z: f"jax.nn.softplus({z})",
    "silu": lambda k, z: f"jax.nn.silu({z})",
    "gelu": lambda k, z: f"jax.nn.gelu({z})",
    "sin": lambda k, z: f"jnp.sin({z})",
    "z / (1 + z²)": lambda k, z: "{0} / (1.0 + {0} ** 2)".format(k.let(z)),
    "where": lambda k, z: "jnp.where({0} > 0, {0}, jnp.expm1(jnp.minimum({0}, 0.0)))".format(k.let(z)),
    "minimum": lambda k, z: f"jnp.minimum({z}, {k.param(1)})",
    "clip": lambda k, z: f"jnp.clip({z}, -0.9, 0.9)",
    "custom_jvp": lambda k, z: f"half_slope({z})",
    "custom_vjp": lambda k, z: f"straight_through({z})",
    "stop_gradient": lambda k, z: "jnp.tanh({0}) * lax.stop_gradient(jax.nn.sigmoid({0}))".format(k.let(z)),
    "linear": lambda k, z: f"0.7 * {z}",
}

INPUTS: dict[str, Callable[..., str | None]] = {
    "x @ w + b": lambda k, n: f"x @ {k.param(k.x.width, n)} + {k.param(n)}",
    "x @ w": lambda k, n: f"x @ {k.weight(k.x.width, n)}",
    "w @ x": lambda k, n: f'jnp.einsum("ij,...j->...i", {k.weight(n, k.x.width)}, x)',
    "layers of x": lambda k, n: f"jnp.tanh(x @ {k.param(k.x.width, 2)} + {k.param(2)}) @ {k.param(2, n)}",
    "one feature": lambda k, n: f"x[..., :1] * {k.param(n)}",
    "embedding of x": lambda k, n: f"{k.param(2, n)}[(x[..., 0] > 0).astype(int)]",
    "one-hot of x": lambda k, n: f'jax.nn.one_hot((x[..., 0] > 0).astype(int), 2, dtype="float64") @ {k.param(2, n)}',
    "stop_gradient of x": lambda k, n: f"lax.stop_gradient(x) @ {k.param(k.x.width, n)}",
    "custom rule of x": lambda k, n: f"half_slope(x @ {k.param(k.x.width, n)})",
    "closed bias": lambda k, n: f"x[..., :1] + {k.close_over(n)}",
}


def _layer_norm(writer: Writer, v: Vector) -> str:
    z = writer.let(f"{v.text} - {v.text}.mean(-1, keepdims=True)")
    z = writer.let(f"{z} * lax.rsqrt(({z} * {z}).mean(-1, keepdims=True) + 0.1)")
    return f"{z} * {writer.param(v.width)} + {writer.param(v.width)}"


def _permuted(writer: Writer, v: Vector) -> str:
    return f"{v.text}[..., {writer.constant(writer.rng.permutation(v.width))}]"


def _cond_on_carry(writer: Writer, v: Vector) -> str | None:
    if writer.batch_ndim:
        return None
    w = writer.param(v.width, v.width)
    return f"lax.cond({v.text}.sum() > 0, lambda a: a @ {w}, lambda a: jnp.sin(a), {v.text})"


def _cond_on_params(writer: Writer, v: Vector) -> str:
    w = writer.param(v.width, v.width)
    return f"lax.cond({writer.param()} > 0, lambda a: jnp.tanh(a @ {w}), lambda a: a * a / (1.0 + a * a), {v.text})"


def _inner_scan(writer: Writer, v: Vector) -> str:
    w = writer.param(2, v.width, v.width, scale=0.5)
    return f"lax.scan(lambda a, w: (jnp.tanh(a @ w), None), {v.text}, {w})[0]"


def _fori_loop(writer: Writer, v: Vector) -> str:
    w = writer.param(v.width, v.width)
    return f"lax.fori_loop(0, 2, lambda i, a: jnp.tanh(a @ {w} + {v.text}), {v.text})"


BEYOND_POINTWISE: dict[str, Callable[..., str | None]] = {
    "jit inside": lambda k, v: f"jax.jit(lambda a, b: jnp.tanh(a) * a + b)({v.text}, {k.param(v.width)})",
    "named_call inside": lambda k, v: f'jax.named_call(lambda a: a * jax.nn.sigmoid(a), name="gate")({v.text})',
    "checkpoint inside": lambda k, v: f"jax.checkpoint(lambda a: jnp.sin(a) * jnp.exp(-a * a))({v.text})",
    "layer norm": _layer_norm,
    "softmax": lambda k, v: f"jax.nn.softmax({v.text}, axis=-1)",
    "normalised by a sum": lambda k, v: f"{v.text} / (1.0 + ({v.text} ** 2).sum(-1, keepdims=True))",
    "permutation": _permuted,
    "roll": lambda k, v: f"jnp.roll({v.text}, 1, axis=-1)",
    "turned round": lambda k, v: f"{v.text}[..., ::-1]",
    "cumsum": lambda k, v: f"0.5 * jnp.cumsum({v.text}, axis=-1)",
    "mean of units": lambda k, v: f"{v.text} + {v.text}.mean(-1, keepdims=True)",
    "argmax one-hot": lambda k, v: (
        f'jax.nn.one_hot(jnp.argmax({v.text}, -1), {v.width}, dtype="float64") @ {k.param(v.width, v.width)} * {v.text}'
    ),
    "gather by argmax": lambda k, v: f"{k.param(v.width, v.width)}[jnp.argmax({v.text}, -1)] + {v.text}",
    "cond on the carry": _cond_on_carry,
    "cond on parameters": _cond_on_params,
    "inner scan": _inner_scan,
    "fori_loop": _fori_loop,
}

RARE = {"custom_vjp", "bilinear in h and h"}
"""Used only if wanted: no forward mode, or values that grow."""

MADE_HERE = (
    "dead input", "no batch axis", "two batch axes", "vmapped step", "step under jit", "step under checkpoint",
    "step under named_call", "own class", "bias before the product", "a weight also elsewhere", "diagonal",
    "three stages", "scalar leaf", "counter leaf", "complex leaf", "matrix leaf", "dead leaf", "leaf of x alone",
    "uneven widths", "learned start", "initial carry", "reverse", "resets", "lengths", "mask", "y in a dict",
    "y in a tuple", "y projected", "y of x alone", "y a scalar", "y an integer", "y twice the leaf",
)  # fmt: skip

FEATURES = (*PRODUCTS, *WEIGHTS, *POINTWISE, *INPUTS, *BEYOND_POINTWISE, *MADE_HERE)
"""The names of all features."""


def write(seed: int, attempt: int = 0) -> Written:
    """The step of a seed; another attempt gives another step with the same wanted features."""
    order = np.random.default_rng(7).permutation(len(FEATURES))
    rng = np.random.default_rng([seed, attempt, 1])
    wanted = {FEATURES[order[seed % len(FEATURES)]], *(str(f) for f in rng.choice(FEATURES, 2))}
    return Step(Writer(rng, wanted), wanted).written(seed)


class Step:
    """From the carry's leaves to the returned pair."""

    def __init__(self, writer: Writer, wanted: set[str]) -> None:
        self.k, self.wanted = writer, wanted
        self.leaves = self._leaves()

    def _leaves(self) -> tuple[Leaf, ...]:
        k = self.k
        widths = [int(k.rng.integers(1, 5))]
        if k.asked("uneven widths", 0.25):
            widths.append(int(k.pick([w for w in (1, 2, 3, 4) if w != widths[0]])))
        elif k.chance(0.35):
            widths.append(widths[0])
        leaves = [Leaf("hc"[i], "vector", width) for i, width in enumerate(widths)]
        if k.asked("scalar leaf", 0.08):
            leaves.append(Leaf("s", "scalar", 1))
        if k.asked("counter leaf", 0.08):
            leaves.append(Leaf("n", "counter", 1))
        if k.asked("complex leaf", 0.06):
            leaves.append(Leaf("q", "complex", 2))
        if k.asked("matrix leaf", 0.05):
            leaves.append(Leaf("m", "matrix", 2))
        if k.asked("dead leaf", 0.05):
            leaves.append(Leaf("d", "vector", 2))
        if k.asked("leaf of x alone", 0.05):
            leaves.append(Leaf("e", "vector", 2))
        return tuple(leaves)

    def _main(self) -> list[Vector]:
        return [Vector(leaf.name, leaf.width) for leaf in self.leaves if leaf.name in ("h", "c")]

    def _read(self) -> list[str]:
        """Terms of width 1 from leaves that are not vectors, which can be added to any vector."""
        k, terms = self.k, []
        for leaf in self.leaves:
            if leaf.kind == "scalar":
                terms.append("jnp.tanh(s)[..., None]")
            if leaf.kind == "counter":
                ways = (
                    '1.0 / (1.0 + n[..., None].astype("float64"))',
                    f"jnp.where(n[..., None] % 2 == 0, {k.param(1)}, 0.1)",
                    f"{k.param(3, 1)}[n % 3]",
                    f'jax.nn.one_hot(n % 3, 3, dtype="float64") @ {k.param(3, 1)}',
                )
                terms.append(k.let(k.pick(ways)))
            if leaf.kind == "complex":
                terms.append(
                    k.pick(("q.real[..., :1]", "(q * jnp.conj(q)).real[..., 1:]", "q.imag.sum(-1)[..., None]"))
                )
            if leaf.kind == "matrix":
                terms.append("jnp.tanh(m)[..., 0, :1]")
        return terms

    def _stages(self) -> list[Vector]:
        """One to three products, each of an earlier value."""
        k = self.k
        found: list[Vector] = []
        stages = 3 if k.asked("three stages", 0.1) else int(k.pick([1, 1, 2]))
        for _ in range(stages):
            v = found[-1] if found and k.chance(0.5) else k.pick(self._main())
            gates = [f for f in found if f.width == v.width and f.text != v.text]
            if gates and k.chance(0.6):
                v = Vector(k.let(f"{k.pick(gates).text} * {v.text}"), v.width)
            elif k.chance(0.2):
                v = Vector(k.let(k.pointwise(v.text)), v.width)
            columns = self._main()[0].width if k.chance(0.6) else int(k.rng.integers(1, 5))
            found.append(k.stage(v, columns))
        return found

    def _update(self, leaf: Leaf, found: list[Vector], extra: list[str]) -> str:
        """An expression for the leaf after the step."""
        k = self.k
        old, width = leaf.name, leaf.width
        if leaf.kind == "scalar":
            return f"0.5 * s + jnp.tanh({k.pick(found).text}).sum(-1)"
        if leaf.kind == "counter":
            return "n + 1"
        if leaf.kind == "complex":
            lam = f"jnp.exp(lax.complex(-jnp.exp({k.param(2)}), {k.param(2)}))"
            drive = f'({k.pick(found).text}[..., :1] * {k.param(2)}).astype("complex128")'
            mixed = f" + 0.2 * (q @ {k.param(2, 2, dtype='complex128')})" if k.chance(0.5) else ""
            return f"{lam} * q + {drive}{mixed}"
        if leaf.kind == "matrix":
            a, b = (f"jnp.tanh({k.product(k.pick(found), 2).text})" for _ in range(2))
            return f"0.6 * m + {a}[..., :, None] * {b}[..., None, :]"
        if leaf.name == "d":
            return "d"
        if leaf.name == "e":
            return f"jnp.tanh({k.from_input(2)}) + jnp.zeros_like(e)"
        fitting = [f for f in found if f.width == width]
        if fitting and k.chance(0.8):
            new = k.pick(fitting).text
        else:
            v = k.pick(found)
            new = k.let(k.pointwise(f"({k.product(v, width).text} + {k.from_input(width)})"))
        for term in extra:
            new = f"({new} + 0.3 * {term})"
        gates = [f.text for f in fitting if f.text != new]
        rate = f"jax.nn.sigmoid({k.param(width)})"
        gate = k.pick(gates) if gates else f"jax.nn.sigmoid({k.from_input(width)})"
        ways = (
            new,
            f"{rate} * {old} + {new}",
            "{2} * {0} + (1.0 - {2}) * {1}".format(old, new, k.let(f"jax.nn.sigmoid({gate})")),
            f"jnp.tanh({new} + 0.5 * {old})",
            f"{old} + 0.3 * {new}",
        )
        return k.pick(ways)

    def _outputs(self, named: list[str], found: list[Vector]) -> tuple[str, tuple[int | None, ...]]:
        """The source of y, and the leaf of the carry that each of its leaves equals."""
        k = self.k
        home = k.pick([i for i, leaf in enumerate(self.leaves) if leaf.name in ("h", "c")])
        width = self.leaves[home].width
        leaves: list[tuple[str, int | None]] = []
        if k.asked("y projected", 0.2):
            leaves.append((f"{named[home]} @ {k.weight(width, k.pick([1, 2, 3]))}", None))
        if k.asked("y of x alone", 0.05):
            leaves.append((f"jnp.sin({k.from_input(2)}) + jnp.zeros_like({found[0].text}[..., :1])", None))
        if k.asked("y a scalar", 0.05):
            leaves.append((f"({named[home]} ** 2).sum(-1)", None))
        if k.asked("y an integer", 0.04):
            leaves.append((f"({named[home]} > 0).astype(int)", None))
        if k.asked("y twice the leaf", 0.06):
            leaves += [(named[home], home), (named[home], home)]
        if not leaves or not any("astype(int)" not in text for text, _ in leaves) or k.chance(0.3):
            v = k.pick(found)
            ways = [(named[home], home), (named[home], home), (f"{v.text} * jnp.tanh({named[home]}[..., :1])", None)]
            leaves.append(k.pick(ways))
        if len(leaves) == 1 and not {"y in a dict", "y in a tuple"} & k.wanted:
            return leaves[0][0], (leaves[0][1],)
        if k.asked("y in a tuple", 0.5):
            return f"({', '.join(text for text, _ in leaves)},)", tuple(own for _, own in leaves)
        k.asked("y in a dict", 1.0)
        inside = ", ".join(f'"{"abcdefg"[i]}": {text}' for i, (text, _) in enumerate(leaves))
        return f"{{{inside}}}", tuple(own for _, own in leaves)

    def written(self, seed: int) -> Written:
        k = self.k
        extra = self._read()
        if k.asked("diagonal", 0.06):
            found = []
            for v in self._main():
                z = f"{k.param(v.width, scale=0.6)} * {v.text} + {k.from_input(v.width)}"
                found.append(k.changed(Vector(k.let(k.pointwise(f"({z})")), v.width)))
        else:
            found = self._stages()
        named = []
        for leaf in self.leaves:
            update = self._update(leaf, found, extra if leaf.name == "h" else [])
            k.lines.append(f"new_{leaf.name} = {update}")
            named.append("d" if leaf.name == "d" else f"new_{leaf.name}")
        y, homes = self._outputs(named, found)
        form = "dict" if len(self.leaves) > 1 else "bare"
        if form == "dict" and k.chance(0.5):
            form = "tuple"
        names = [leaf.name for leaf in self.leaves]
        unpack = {
            "bare": f"{names[0]} = carry",
            "tuple": f"{', '.join(names)} = carry",
            "dict": "; ".join(f'{name} = carry["{name}"]' for name in names),
        }[form]
        inside = {
            "bare": named[0],
            "tuple": f"({', '.join(named)})",
            "dict": "{" + ", ".join(f'"{n}": {new}' for n, new in zip(names, named, strict=True)) + "}",
        }[form]
        body = [unpack, *k.lines, f"return {inside}, {y}"]
        returned = "step"
        for feature, text in (
            ("vmapped step", "jax.vmap(step, in_axes=(None, 0, 0))"),
            ("step under jit", "jax.jit(step)"),
            ("step under checkpoint", "jax.checkpoint(step)"),
            ("step under named_call", 'jax.named_call(step, name="my_step")'),
        ):
            fits = k.batch_ndim == 1 and "product under vmap" not in k.features
            if (feature != "vmapped step" or fits) and k.asked(feature, 0.03):
                returned = text
                break
        source = ["def make_step(closed):", "    def step(params, carry, x):", *(f"        {line}" for line in body)]
        return self._with_arguments(seed, "\n".join([*source, f"    return {returned}"]), form, homes)

    def _with_arguments(self, seed: int, source: str, form: str, homes: tuple[int | None, ...]) -> Written:
        k, rng = self.k, self.k.rng
        steps = int(k.pick([4, 5]))
        batch_shape = {0: (), 1: (int(k.pick([2, 3])),), 2: (2, 2)}[k.batch_ndim]
        learned = k.asked("learned start", 0.2)
        given = not k.asked("initial carry", 0.25)
        if learned:
            for leaf in self.leaves:
                if leaf.kind == "vector":
                    k.params[f"start_{leaf.name}"] = ((leaf.width,), FLOAT, 0.7)
        times = {}
        if k.asked("lengths", 0.35):
            times["lengths"] = rng.integers(1, steps + 1, batch_shape)
        if k.asked("mask", 0.35):
            times["mask"] = rng.random((steps, *batch_shape)) < 0.7
        if k.asked("resets", 0.25):
            times["resets"] = rng.random((steps, *batch_shape)) < 0.3
        carry = {
            leaf.name: ((*batch_shape, *leaf.own_shape), leaf.dtype, 0.8)
            for leaf in self.leaves
            if given and leaf.kind != "counter"
        }
        counters = {
            leaf.name: rng.integers(0, 3, batch_shape).astype("int32")
            for leaf in self.leaves
            if given and leaf.kind == "counter"
        }
        reverse, own_class = k.asked("reverse", 0.25), k.asked("own class", 0.1)
        return Written(
            seed=seed,
            source=source,
            features=frozenset(k.features),
            constants=k.constants,
            leaves=self.leaves,
            form=form,
            homes=self._home_order(source, homes),
            batch_shape=batch_shape,
            times=times,
            reverse=reverse,
            given_carry=given,
            learned_start=learned,
            own_class=own_class,
            counters=counters,
            shapes={"params": k.params, "carry": carry, "closed": k.closed},
            sizes=(steps, k.x.width),
        )

    def _home_order(self, source: str, homes: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Homes count the leaves as JAX flattens them: a dict by its keys in order."""
        if "carry[" not in source:
            return homes
        order = sorted(range(len(self.leaves)), key=lambda i: self.leaves[i].name)
        return tuple(None if home is None else order.index(home) for home in homes)
