"""Pascanu's Ω against NumPy: explicit Jacobians for its value, finite differences at fixed states for its gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.measured import QUICKLY, weigh, weights
from tests.registry import ALL_COUNT, CELLS, COMBINED, PLAIN, B, Sample, T, normal, sample
from tests.unroll.textbook_cells import HOISTED

# a carry of two leaves; a gate that does more with r than add it; y outside the carry; [x, h] times one matrix
NAMES = ["lstm", "gru", "custom", "step_cell"]

omega: Any = gradients.omega
quick = functools.partial(jax.jit, compiler_options=QUICKLY)


@functools.cache
def program(name: str, through: Any) -> Any:
    """`(ratios, omega, mean omega, gradients of omega for params, carry and xs)`, compiled once a cell."""
    cell: Any = CELLS[name]

    def run(drawn: Sample, times: Any, loss_weights: Any):
        loss = functools.partial(weigh, loss_weights)

        def price(average: bool, params: Any, carry: Any, xs: Any):
            options = {"through": through, "average": average, **times._asdict()}
            return omega(cell, params, xs, loss, carry=carry, **options)

        ratios = gradients.norm_ratios(cell, **drawn._asdict(), loss=loss, through=through, **times._asdict())
        value, pulled = jax.value_and_grad(functools.partial(price, False), argnums=(0, 1, 2))(*drawn)
        return ratios, value, price(True, *drawn), Sample(*pulled)

    return quick(run)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


class Frozen:
    """Everything that is constant in the immediate derivative: states, inputs and adjoints of each row."""

    def __init__(self, name: str, times: Any):
        cell = self.cell = CELLS[name]
        drawn = sample(name)
        self.params = drawn.params
        within = np.arange(T)[:, None] < times.lengths
        counts, resets = within & times.mask, within & times.resets
        adjoints = jax.tree.map(np.asarray, _perturbed(name)(drawn, times, weights(name)))
        step = quick(cell.step)
        start, carry = cell.initial_carry(drawn.params, (B,)), drawn.carry
        self.rows = []
        for t in range(T):
            carry = _choose(resets[t], start, carry)
            for b in np.flatnonzero(counts[t] & ~resets[t]):
                a = flat(jax.tree.map(lambda leaf, b=b, t=t: leaf[t + 1, b], adjoints))
                if a.any():
                    self.rows.append((t, int(b), jax.tree.map(lambda leaf, b=b: leaf[b], carry), drawn.xs[t, b], a))
            carry = _choose(counts[t], step(drawn.params, carry, drawn.xs[t])[0], carry)

    def ratios(self, through: str, params: Any) -> dict[tuple[int, int], float]:
        """‖J^T a‖ / ‖a‖ from Jacobian matrices, as a function of the parameters that are not constant."""
        carries = jax.tree.map(lambda *leaves: np.stack(leaves), *(row[2] for row in self.rows))
        xs = np.stack([row[3] for row in self.rows])
        jacobians = _matrices(self.cell, through)(params, self.params, carries, xs)
        found = {}
        for (t, b, _, _, a), jacobian in zip(self.rows, np.asarray(jacobians), strict=True):
            found[t, b] = np.linalg.norm(jacobian.T @ a) / np.linalg.norm(a)
        return found

    def omega(self, through: str, params: Any) -> float:
        return sum((q - 1) ** 2 for q in self.ratios(through, params).values()) / B


def _choose(flags: np.ndarray, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: np.where(flags.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b), one, other)


@functools.cache
def _perturbed(name: str) -> Any:
    def run(drawn: Sample, times: Any, loss_weights: Any):
        loss = functools.partial(weigh, loss_weights)
        return gradients.adjoint_by_perturbation(CELLS[name], **drawn._asdict(), loss=loss, **times._asdict())

    return quick(run)


def recurrent(params: Any) -> Any:
    """W, which multiplies h, the first leaf of the carry: r = h W."""
    return params["w"][2:] if isinstance(params, dict) else params.w_h


def with_more(params: Any, x: Any, dr: Any) -> Any:
    """Parameters with which a step on this x finds r + dr where it found r: x (W_x + x^T dr / ‖x‖²) = x W_x + dr."""
    if isinstance(params, rnnjax.GRUParams):
        return params._replace(b=params.b.at[:6].add(dr[:6]), b_hn=params.b_hn + dr[6:])
    more = x[:, None] * dr / (x @ x)
    if isinstance(params, dict):
        return params | {"w": params["w"].at[:2].add(more)}
    return params._replace(w_x=params.w_x + more)


@functools.cache
def _matrices(cell: Any, through: str) -> Any:
    """∂carry_t/∂carry_{t-1} as matrices, one per row: of the step, or with everything but W constant."""

    def vector(carry):
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(carry)])

    def of_step(params, carry, x):
        found = jax.jacfwd(lambda c: vector(cell.step(params, c, x)[0]))(carry)
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(found)], axis=1)

    def one(params, held, carry, x):
        if through == "step":
            return of_step(params, carry, x)
        h, w = jax.tree.leaves(carry)[0], recurrent(held)
        by_r = jax.jacfwd(lambda dr: vector(cell.step(with_more(held, x, dr), carry, x)[0]))(jnp.zeros(w.shape[1]))
        return of_step(held, carry, x).at[:, : h.size].add(by_r @ (recurrent(params) - w).T)

    return quick(jax.vmap(one, in_axes=(None, None, 0, 0)))


@functools.cache
def frozen(name: str, condition: str) -> Frozen:
    return Frozen(name, {"plain": ALL_COUNT, "together": COMBINED}[condition])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("condition", ["plain", "together"])
def test_the_value_is_that_of_explicit_jacobians(name, condition):
    """Only unmasked steps count; masked steps, resets and empty rows cost nothing."""
    held = frozen(name, condition)
    times = {"plain": ALL_COUNT, "together": COMBINED}[condition]
    (ratio, counts), value, mean, _ = program(name, "mix")(sample(name), times, weights(name))
    expected = held.ratios("mix", held.params)
    assert {(t, b) for t, b in np.argwhere(counts).tolist()} == set(expected)
    for (t, b), q in expected.items():
        np.testing.assert_allclose(ratio[t, b], q, rtol=1e-12)
    assert (np.asarray(ratio)[~np.asarray(counts)] == 1).all()
    np.testing.assert_allclose(value, held.omega("mix", held.params), rtol=1e-12)
    np.testing.assert_allclose(mean, held.omega("mix", held.params) * B / len(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "through"), [("lstm", "mix"), ("gru", "mix"), ("step_cell", "mix"), ("custom", "step")]
)
def test_the_gradient_is_the_immediate_one(name, through):
    """Derivatives along random directions against central differences of Ω with the rest constant; else zero."""
    held = frozen(name, "together")
    _, _, _, found = program(name, through)(sample(name), COMBINED, weights(name))
    for seed in range(2):
        d = normal(held.params, f"direction {seed}")
        ahead, behind = (
            held.omega(through, jax.tree.map(lambda p, d, h=h: p + h * d, held.params, d)) for h in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(flat(found.params) @ flat(d), (ahead - behind) / 2e-5, rtol=1e-6)
    assert not flat(found.carry).any() and not flat(found.xs).any()
    if through == "mix":
        w = recurrent(found.params)
        assert np.count_nonzero(flat(found.params)) == np.count_nonzero(w) > 0


def test_products_in_stages_have_a_gradient_each():
    """A reset-before GRU in NumPy: J^T a with constant slopes, as a function of three weights."""
    name = "reset_before"
    held = frozen(name, "together")
    _, _, _, found = program(name, "mix")(sample(name), COMBINED, weights(name))

    def slopes(params, h, x):
        r, z = (jax.nn.sigmoid(x @ params[f"w_{k}"] + h @ params[f"u_{k}"] + params[f"b_{k}"]) for k in "rz")
        n = jnp.tanh(x @ params["w_n"] + (r * h) @ params["u_n"] + params["b_n"])
        return r, z, n, r * (1 - r), z * (1 - z), 1 - n**2

    def price(u_r, u_z, u_n):
        total = 0.0
        for _, _, h, x, a in held.rows:
            r, z, n, dr, dz, dn = jax.tree.map(np.asarray, slopes(held.params, h, x))
            by_n = (a * z * dn) @ u_n.T  # for r h, which the product multiplies
            back = a * (1 - z) + by_n * r + (by_n * h * dr) @ u_r.T + (a * (n - h) * dz) @ u_z.T
            total = total + (jnp.linalg.norm(back) / np.linalg.norm(a) - 1) ** 2
        return total / B

    of = [held.params[f"u_{k}"] for k in "rzn"]
    value, right = jax.value_and_grad(price, argnums=(0, 1, 2))(*of)
    np.testing.assert_allclose(value, held.omega("step", held.params), rtol=1e-12)
    for k, gradient in zip("rzn", right, strict=True):
        np.testing.assert_allclose(found.params[f"u_{k}"], gradient, rtol=1e-10, atol=1e-14)
    others = {key: leaf for key, leaf in found.params.items() if not key.startswith("u_")}
    assert not flat(others).any()


def test_equation_10_for_an_elman_cell():
    """q = ‖(a (1 - h²)) W^T‖ / ‖a‖ and its gradient for W in NumPy, with h and a from the run."""
    drawn = sample("elman_tanh")
    _, value, _, found = program("elman_tanh", "mix")(drawn, ALL_COUNT, weights("elman_tanh"))
    a = np.asarray(_perturbed("elman_tanh")(drawn, ALL_COUNT, weights("elman_tanh")))[1:]
    _, h = rnnjax.unroll(CELLS["elman_tanh"], **drawn._asdict(), engine="loop")
    w = np.asarray(drawn.params.w_h)
    back = a * (1 - np.asarray(h) ** 2)
    lengths, norms = np.linalg.norm(back @ w.T, axis=-1), np.linalg.norm(a, axis=-1)
    np.testing.assert_allclose(value, ((lengths / norms - 1) ** 2).sum() / B, rtol=1e-12)
    scale = 2 * (lengths / norms - 1) / (lengths * norms) / B
    by_w = np.einsum("tb,tbi,tbj->ij", scale, back @ w.T, back)
    np.testing.assert_allclose(found.params.w_h, by_w, rtol=1e-11)


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_an_orthogonal_linear_network_is_free_at_any_depth(floor):
    """Scaled by s it costs (s - 1)² per step, even where the adjoint, 0.5^2000, underflows."""
    cell = rnnjax.Elman(3, "linear")
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])

    @quick
    def price(w_h):
        params = rnnjax.ElmanParams(w_x=jnp.ones((1, 3)), w_h=w_h, b=jnp.zeros(3))
        return gradients.omega(cell, params, jnp.ones((2000, 1)), lambda ys: ys[-1].sum(), floor=floor)

    for scale, tolerance in ((1.0, 1e-20), (0.5, 1e-10)):
        counted = sum(floor == 0 or np.sqrt(3) * scale**k > floor for k in range(2000))
        np.testing.assert_allclose(price(scale * turn), counted * (scale - 1) ** 2, rtol=1e-12, atol=tolerance)


def test_a_dead_relu_has_a_finite_gradient():
    """q = 0 if all units are inactive: the penalty is 1 and its gradient is zero, not NaN."""
    params = rnnjax.ElmanParams(w_x=jnp.ones((1, 2)), w_h=jnp.eye(2), b=jnp.full(2, -9.0))

    def price(params):
        return gradients.omega(rnnjax.Elman(2, "relu"), params, jnp.ones((3, 1)), lambda ys: ys.sum())

    value, found = quick(jax.value_and_grad(price))(params)
    assert float(value) == 3.0
    assert not flat(found).any()


def test_rows_and_directions_stand_alone():
    """vmap over rows equals a batch; `reverse` equals a reversed sequence."""
    drawn = sample("elman_tanh")
    cell: Any = CELLS["elman_tanh"]

    def price(carry, xs, **options):
        return gradients.omega(cell, drawn.params, xs, lambda ys: (ys**2).sum(), carry=carry, **options)

    rows, batch, turned = quick(
        lambda: (
            jax.vmap(price, in_axes=(0, 1))(drawn.carry, drawn.xs),
            price(drawn.carry, drawn.xs),
            price(drawn.carry, drawn.xs[::-1], reverse=True),
        )
    )()
    np.testing.assert_allclose([batch, turned], rows.mean(), rtol=1e-12)


def test_a_stack_has_a_price_through_the_step():
    """A stack's layers multiply each other's carries, so "mix" needs one layer at a time."""
    drawn, loss = sample("stack"), functools.partial(weigh, weights("stack"))
    with pytest.raises(ValueError, match="use through='step'"):
        gradients.omega(CELLS["stack"], **drawn._asdict(), loss=loss)
    value, found = quick(
        jax.value_and_grad(
            lambda p: gradients.omega(CELLS["stack"], p, drawn.xs, loss, carry=drawn.carry, through="step")
        )
    )(drawn.params)
    assert value > 0 and np.isfinite(flat(found)).all() and flat(found).any()


def test_a_cell_without_a_product_has_a_price_through_the_step():
    """A network of independent units, whose recurrent weight is a vector."""
    cell = HOISTED["independent"]
    params, xs = cell.init(jax.random.key(0), 2), jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"no matmul with the carry.*use through='step'"):
        gradients.omega(cell, params, xs, lambda ys: ys.sum())
    assert omega(cell, params, xs, lambda ys: ys.sum(), through="step").shape == ()


def test_bad_input_is_refused():
    drawn = sample("gru")
    arguments: Any = {**drawn._asdict(), "loss": lambda ys: ys.sum()}
    with pytest.raises(ValueError, match="through is 'gate'; choose one of 'mix', 'step'"):
        gradients.omega(CELLS["gru"], **arguments, through="gate")  # pyright: ignore[reportArgumentType]
    for floor in (-1.0, float("nan"), "0"):
        with pytest.raises(ValueError, match="floor is"):
            gradients.omega(CELLS["gru"], **arguments, floor=floor)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="clips its adjoint"):
        gradients.omega(gradients.ClippedAdjoint(rnnjax.GRU(3)), **arguments)


def test_every_plain_cell_says_what_it_has():
    """All cells are accepted that multiply their carry by a matrix; the others are refused."""
    for name in PLAIN:
        cell: Any = CELLS[name]
        drawn = sample(name)
        price = functools.partial(gradients.omega, cell, through="mix", loss=lambda ys: jax.tree.leaves(ys)[0].sum())
        run = functools.partial(jax.eval_shape, lambda d, price=price: price(params=d[0], carry=d[1], xs=d[2]), drawn)
        if name in WITHOUT_MATRIX:
            with pytest.raises(ValueError, match="has no matmul with the carry"):
                run()
        else:
            assert run().shape == ()


WITHOUT_MATRIX = ("brc", "indrnn", "unicornn", "t_rnn", "min_gru", "min_lstm", "rg_lru", "mlstm")


def test_float32_stays_float32():
    drawn = sample("lstm", "float32")
    value = jax.eval_shape(lambda d: omega(CELLS["lstm"], **d._asdict(), loss=lambda ys: ys.sum()), drawn)
    assert value.dtype == jnp.float32
