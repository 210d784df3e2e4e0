"""Subclasses that override the step run their own step in every engine, in `rnnjax.gradients` and in experiments.

Each is a subclass of a built-in cell whose results differ from its parent's. Results are compared with `jax.lax.scan`
and `jax.jacfwd` of the step. A class that defines `gate`, `mix` or `project` instead of a step raises an error.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import rnnjax
from experiments import gradient_decay
from rnnjax import LSTMCarry, gradients
from tests.registry import assert_close, normal
from tests.unroll.random_steps import growth_of_rows, quickly

T, B, D, H = 6, 2, 2, 3

SIGNS = np.array([[1.0], [-1.0], [1.0], [1.0]])
MASK = np.array([[1.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]])


def constant(values: np.ndarray, like: Any) -> jax.Array:
    return jnp.asarray(values[: like.shape[0], : like.shape[1]], like.dtype)


class HalfLSTM(rnnjax.LSTM):
    """Both states halved after every step."""

    def step(self, params, carry, x):
        after, _ = super().step(params, carry, x)
        h = after.h / 2
        return LSTMCarry(h=h, c=after.c / 2), h


class LeakyElman(rnnjax.Elman):
    """A leak, and a sparse W2."""

    def step(self, params, carry, x):
        masked = params.w_h * constant(MASK, params.w_h)
        h = 0.8 * carry + 0.2 * jnp.tanh(x @ params.w_x + carry @ masked + params.b)
        return h, h


class DaleElman(rnnjax.Elman):
    """Dale's law: a unit excites all others or inhibits all others, whatever the signs in W2."""

    def step(self, params, carry, x):
        signed = jnp.abs(params.w_h) * constant(SIGNS, params.w_h)
        return super().step(params._replace(w_h=signed), carry, x)


class ResetBeforeGRU(rnnjax.GRU):
    """The reset gate acts before the product with the carry, not after it."""

    def step(self, params, carry, x):
        (a_r, a_z, a_n), (u_r, u_z, u_n) = (jnp.split(a, 3, axis=-1) for a in (x @ params.w_x + params.b, params.w_h))
        r, z = jax.nn.sigmoid(a_r + carry @ u_r), jax.nn.sigmoid(a_z + carry @ u_z)
        h = (1 - z) * jnp.tanh(a_n + (r * carry) @ u_n) + z * carry
        return h, h


class HalfGRU(rnnjax.GRU):
    """Its state halved after every step."""

    def step(self, params, carry, x):
        h = super().step(params, carry, x)[0] / 2
        return h, h


@dataclasses.dataclass(frozen=True)
class SlowLSTM(rnnjax.LSTM):
    """An additional field."""

    rate: float = 0.25

    def step(self, params, carry, x):
        after, _ = super().step(params, carry, x)
        h, c = (self.rate * new + (1 - self.rate) * old for new, old in zip(after, carry, strict=True))
        return LSTMCarry(h=h, c=c), h


CELLS: dict[str, tuple[Any, Any]] = {
    "HalfLSTM": (HalfLSTM(H), rnnjax.LSTM(H)),
    "SlowLSTM": (SlowLSTM(H, rate=0.5), rnnjax.LSTM(H)),
    "LeakyElman": (LeakyElman(H), rnnjax.Elman(H)),
    "DaleElman": (DaleElman(H), rnnjax.Elman(H)),
    "ResetBeforeGRU": (ResetBeforeGRU(H), rnnjax.GRU(H)),
    "HalfGRU": (HalfGRU(H), rnnjax.GRU(H)),
    "stack": (rnnjax.Stack((LeakyElman(H), HalfLSTM(2))), rnnjax.Stack((rnnjax.Elman(H), rnnjax.LSTM(2)))),
    "stack of one": (rnnjax.Stack((rnnjax.GRU(H), HalfGRU(2))), rnnjax.Stack((rnnjax.GRU(H), rnnjax.GRU(2)))),
    "stack of stacks": (
        rnnjax.Stack((rnnjax.Stack((HalfGRU(2), DaleElman(2))), rnnjax.LSTM(2))),
        rnnjax.Stack((rnnjax.Stack((rnnjax.GRU(2), rnnjax.Elman(2))), rnnjax.LSTM(2))),
    ),
}
"""A custom cell, and its parent, which has the same parameters."""

every_cell = pytest.mark.parametrize("own", CELLS)


def step_of(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    """The step for the reference: that of the class, or those of a stack's layers in order."""
    if not isinstance(cell, rnnjax.Stack):
        return type(cell).step(cell, params, carry, x)
    carries = []
    for layer, p, c in zip(cell.cells, params, carry, strict=True):
        c, x = step_of(layer, p, c, x)
        carries.append(c)
    return tuple(carries), x


def scan(cell: Any, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    return lax.scan(functools.partial(step_of, cell, params), carry, xs)


@functools.cache
def given(own: str) -> dict[str, Any]:
    """Random parameters, a random carry and random inputs, for a cell and its parent."""
    parent = CELLS[own][1]
    params = jax.eval_shape(lambda key: parent.init(key, D), jax.random.key(0))
    carry = jax.eval_shape(lambda p: parent.initial_carry(p, (B,)), params)
    xs = jax.ShapeDtypeStruct((T, B, D), "float64")
    return {
        "params": normal(params, own, "float64", scale=0.7),
        "carry": normal(carry, f"{own} carry", "float64"),
        "xs": normal(xs, f"{own} xs"),
    }


def compiled(function: Any, *of: Any) -> Any:
    return jax.jit(function, compiler_options=quickly())(*of)


def with_gradients(run: Any, params: Any, carry: Any, xs: Any) -> Any:
    """Outputs, and the gradient of a scalar that depends on all of them."""

    def loss(params: Any, carry: Any, xs: Any):
        outputs = run(params=params, carry=carry, xs=xs)
        return sum(jnp.sin(leaf + i).sum() for i, leaf in enumerate(jax.tree.leaves(outputs))), outputs

    (_, outputs), gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)
    return outputs, gradient


def assert_apart(a: Any, b: Any) -> None:
    """Every floating leaf differs somewhere by more than rounding."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(np.asarray(x) - np.asarray(y)).max() > 1e-3


@functools.cache
def expected(own: str) -> Any:
    cell, _ = CELLS[own]
    return compiled(functools.partial(with_gradients, functools.partial(scan, cell)), *given(own).values())


@every_cell
def test_it_is_not_its_parent(own):
    """Otherwise the tests would not notice which of the two runs."""
    parent = compiled(functools.partial(scan, CELLS[own][1]), *given(own).values())
    assert_apart(expected(own)[0][1], parent[1])


@every_cell
@pytest.mark.parametrize("engine", ["auto", "hoisted", "scan", "loop"])
def test_unroll_runs_its_step(own, engine):
    """Values and gradients, on every engine."""
    run = functools.partial(rnnjax.unroll, CELLS[own][0], engine=engine)
    assert_close(compiled(functools.partial(with_gradients, run), *given(own).values()), expected(own), 1e-10)


@every_cell
def test_explain_and_unroll_speak_of_the_same(own):
    """A subclass is hoisted like any cell."""
    layers = rnnjax.explain(cell=CELLS[own][0], **given(own)).layers
    assert [layer.engine for layer in layers] == ["hoisted"] * len(layers)


@every_cell
def test_training_trains_it(own):
    """Two steps of gradient descent on the mean square of the outputs, with rows of different length."""
    cell, lengths = CELLS[own][0], jnp.array([T, 4])
    params, carry, xs = given(own).values()
    counts = (jnp.arange(T)[:, None] < lengths)[..., None].astype(xs.dtype)

    def by_unroll(params: Any):
        return (rnnjax.unroll(cell=cell, params=params, carry=carry, xs=xs, lengths=lengths)[1] ** 2).mean()

    def by_scan(params: Any):
        return ((scan(cell, params, carry, xs)[1] * counts) ** 2).mean()

    def trained(loss: Any, params: Any):
        for _ in range(2):
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
        return params

    ours, right = (compiled(functools.partial(trained, loss), params) for loss in (by_unroll, by_scan))
    assert_close(ours, right, 1e-10)


@every_cell
def test_the_adjoint_is_its_own(own):
    """dL/d(carry_t) at every boundary, by differences that are added to the carry in a scan of the step."""
    cell = CELLS[own][0]
    params, carry, xs = given(own).values()
    nothing = jax.tree.map(lambda leaf: jnp.zeros((T + 1, *leaf.shape)), carry)

    def loss(ys: Any):
        return jnp.sin(ys + jnp.arange(T)[:, None, None].astype(ys.dtype)).sum()

    def perturbed(params: Any, delta: Any):
        def body(carry: Any, at_t: Any):
            x, delta = at_t
            carry, _ = step_of(cell, params, carry, x)
            carry = jax.tree.map(jnp.add, carry, delta)
            top = carry
            while isinstance(top, tuple) and not isinstance(top, LSTMCarry):
                top = top[-1]
            return carry, top.h if isinstance(top, LSTMCarry) else top  # the output is the top layer's hidden state

        start = jax.tree.map(lambda leaf, d: leaf + d[0], carry, delta)
        return loss(lax.scan(body, start, (xs, jax.tree.map(lambda d: d[1:], delta)))[1])

    def measured(params: Any):
        found = gradients.adjoint(cell=cell, params=params, xs=xs, loss=loss, carry=carry)
        factor = jnp.exp(found.log_norm)[..., None]
        return jax.tree.map(lambda leaf: leaf * factor, found.direction)

    assert_close(compiled(measured, params), compiled(jax.grad(perturbed, argnums=1), params, nothing), 1e-10)


@every_cell
def test_jacobians_and_exponents_are_its_own(own):
    """Against `jax.jacfwd` of the step and Gram-Schmidt in NumPy; and different from its parent's."""
    cell, parent = CELLS[own]
    arguments, key = given(own), jax.random.key(0)

    def explicit(params: Any, carry: Any, xs: Any):
        def flat(tree: Any):
            return jnp.concatenate(jax.tree.leaves(tree), axis=-1)

        def one_row(carry: Any, x: Any):
            columns = jax.tree.leaves(jax.jacfwd(lambda c: flat(step_of(cell, params, c, x)[0]))(carry))
            return jnp.concatenate(columns, axis=-1)

        def body(carry: Any, x: Any):
            return step_of(cell, params, carry, x)[0], jax.vmap(one_row)(carry, x)

        return lax.scan(body, carry, xs)[1]

    def instruments(cell: Any, params: Any, carry: Any, xs: Any):
        of: dict[str, Any] = {"cell": cell, "params": params, "carry": carry, "xs": xs}
        return (
            gradients.jacobians(**of),
            gradients.leading_exponent(**of, key=key).finite_time[..., None],
            gradients.lyapunov_spectrum(**of, key=key).finite_time,
        )

    own_numbers, parents = (compiled(functools.partial(instruments, c), *arguments.values()) for c in (cell, parent))
    right = np.asarray(compiled(explicit, *arguments.values()))
    np.testing.assert_allclose(own_numbers[0], right, rtol=1e-10, atol=1e-12)
    size = right.shape[-1]
    for k, growth in zip((1, size), own_numbers[1:], strict=True):
        rates, known = growth_of_rows(right, np.asarray(jax.random.normal(key, (B, k, size), jnp.float64)))
        assert known[..., 0].all()
        np.testing.assert_allclose(np.where(known, growth, 0), np.where(known, rates, 0), atol=1e-8)
    assert_apart(own_numbers, parents)


@dataclasses.dataclass(frozen=True)
class PlainLeaky:
    """`LeakyElman` without a parent class."""

    hidden_size: int

    def init(self, key, input_size, dtype=None):
        return rnnjax.elman_init(key, input_size, self.hidden_size, dtype=dtype)

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params.b.dtype)

    def step(self, params, carry, x):
        return LeakyElman.step(LeakyElman(self.hidden_size), params, carry, x)


def gradient_decay_rows(tmp_path, *arguments: str) -> list[dict[str, Any]]:
    """Rows of the experiment from its command line."""
    more = ["--kinds", "gain", "--scales", "2", "--lengths", "5", "40", "--seeds", "2", "--hidden-size", "4"]
    assert gradient_decay.experiment.launch([*arguments, *more, "--quick", "--out", str(tmp_path)]) == 0
    return json.loads((tmp_path / "summary.json").read_text())["rows"]


def test_gradient_decay_measures_a_users_cell(tmp_path):
    """`--cell module:LeakyElman` gives the rows of an equal class without a parent, not those of tanh."""
    rows = gradient_decay_rows(tmp_path / "sub", "--cells", "tanh", "--cell", f"{__name__}:LeakyElman")
    plain = gradient_decay_rows(tmp_path / "plain", "--cells", "--cell", f"{__name__}:PlainLeaky")
    numbers = {
        name: [row["log10_gradient_mean"] for row in some if row["cell"].endswith(name)]
        for some, name in ((rows, "tanh"), (rows, "LeakyElman"), (plain, "PlainLeaky"))
    }
    np.testing.assert_allclose(numbers["LeakyElman"], numbers["PlainLeaky"], rtol=0, atol=1e-10)
    assert len(numbers["tanh"]) == 2 and min(np.abs(np.subtract(numbers["tanh"], numbers["LeakyElman"]))) > 0.05


class GateOnly(rnnjax.Elman):
    """A leak in the gate, as the README once taught."""

    def gate(self, params, h, u, r):
        h = 0.8 * h + 0.2 * jnp.tanh(u + r)
        return h, h


class MixOnly(rnnjax.Elman):
    """A sparse W2, only in the product."""

    def mix(self, params, carry):
        return carry @ (params.w_h * constant(MASK, params.w_h))


class ProjectOnly(rnnjax.LSTM):
    """Inputs squashed before their product."""

    def project(self, params, xs):
        return jnp.tanh(xs) @ params.w_x + params.b


class GateOfGRU(rnnjax.GRU):
    """Its state halved in the gate."""

    def gate(self, params, carry, u, r):
        h = jnp.tanh(u + r)[..., : self.hidden_size] / 2
        return h, h


@dataclasses.dataclass(frozen=True)
class ThreeParts:
    """A cell of the old protocol, without a step."""

    hidden_size: int

    def init(self, key, input_size, dtype=None):
        return rnnjax.elman_init(key, input_size, self.hidden_size, dtype=dtype)

    def initial_carry(self, params, batch_shape=()):
        return rnnjax.elman_initial_carry(params, batch_shape)

    def project(self, params, xs):
        return xs @ params.w_x + params.b

    def mix(self, params, carry):
        return carry @ params.w_h

    def gate(self, params, h, u, r):
        h = jnp.tanh(u + r) / 2
        return h, h


class OfTheProtocol(ThreeParts, rnnjax.Cell):
    """The same, derived from `rnnjax.Cell`."""


FORMER: tuple[type, ...] = (GateOnly, MixOnly, ProjectOnly, GateOfGRU, ThreeParts, OfTheProtocol)

ASKED = {
    "unroll": rnnjax.unroll,
    "unroll on scan": functools.partial(rnnjax.unroll, engine="scan"),
    "explain": rnnjax.explain,
    "adjoint": functools.partial(gradients.adjoint, loss=lambda ys: ys.sum()),
    "jacobians": gradients.jacobians,
    "lyapunov_spectrum": gradients.lyapunov_spectrum,
    "leading_exponent": gradients.leading_exponent,
}


@pytest.mark.parametrize("former", FORMER, ids=lambda former: former.__name__)
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "in a stack"])
def test_a_gate_without_a_step_is_refused(former, stacked):
    """Its gate would be ignored, so every function raises an error that says to write a step, and in which class."""
    cell: Any = former(H)
    params, carry = cell.init(jax.random.key(0), D), jnp.zeros((B, H))
    if isinstance(cell, rnnjax.LSTM):
        carry = LSTMCarry(carry, carry)
    if stacked:
        cell, params, carry = rnnjax.Stack((cell,)), (params,), (carry,)
    went_through = []
    for name, asked in ASKED.items():
        try:
            asked(cell=cell, params=params, carry=carry, xs=jnp.ones((T, B, D)))
        except TypeError as error:
            named = [each for each in former.__mro__ if each.__name__ in str(error) and "gate" in vars(each)]
            assert "step" in str(error) and (named or former.__name__ in str(error)), (name, str(error))
        else:
            went_through.append(name)
    assert not went_through


def test_gradient_decay_refuses_a_gate_without_a_step(tmp_path, capsys):
    """Raises before any work, with the error's message."""
    arguments = ["--cells", "tanh", "--cell", f"{__name__}:GateOnly", "--quick", "--out", str(tmp_path / "new")]
    assert gradient_decay.experiment.launch(arguments) == 2
    said = capsys.readouterr()
    assert "step" in said.err + said.out and "GateOnly" in said.err + said.out


class GateBesideItsStep(rnnjax.Elman):
    """A `gate` that the step calls is an ordinary method."""

    def gate(self, params, h, u, r):
        return jnp.tanh(u + r) / 2

    def step(self, params, carry, x):
        h = self.gate(params, carry, x @ params.w_x + params.b, carry @ params.w_h)
        return h, h


def test_a_gate_beside_its_step_is_served():
    cell = GateBesideItsStep(H)
    arguments = given("LeakyElman").values()
    ours = compiled(lambda params, carry, xs: rnnjax.unroll(cell=cell, params=params, carry=carry, xs=xs), *arguments)
    assert_close(ours, compiled(functools.partial(scan, cell), *arguments))
