"""Every task, recomputed in NumPy from its random inputs; its signature, its baseline, and its errors."""

import functools
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import tasks

KEY = jax.random.key(0)
SERIES = np.cumsum(np.random.default_rng(0).normal(size=60)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (30, 4, 3)).astype(np.uint8)
LABELS = np.arange(30)
B = 64

CALLS: dict[str, Any] = {
    "adding": lambda key, shape=(): tasks.adding(key, 11, shape, low=-1.0, high=1.0),
    "copy_memory": lambda key, shape=(): tasks.copy_memory(key, 7, shape, symbols=4, memory=3),
    "temporal_order": lambda key, shape=(): tasks.temporal_order(key, 20, shape),
    "temporal_order_3": lambda key, shape=(): tasks.temporal_order(key, 20, shape, symbols=3),
    "delayed_xor": lambda key, shape=(): tasks.delayed_xor(key, 12, shape, delay=5),
    "parity": lambda key, shape=(): tasks.parity(key, 9, shape, shortest=3),
    "parity_last": lambda key, shape=(): tasks.parity(key, 9, shape, shortest=3, last_only=True),
    "latch": lambda key, shape=(): tasks.latch(key, 8, shape, signal_steps=2, noise=0.0),
    "statland": tasks.statland,
    "windows": lambda key, shape=(): tasks.windows(key, SERIES, 10, shape, horizon=2),
    "flip_flop": lambda key, shape=(): tasks.flip_flop(key, 9, shape, bits=2, probability=0.3),
    "perceptual_decision": lambda key, shape=(): tasks.perceptual_decision(key, 9, shape, coherence=1.0, noise=0.5),
    "context_integration": lambda key, shape=(): tasks.context_integration(key, 9, shape, coherence=1.0, noise=0.5),
    "delayed_match": lambda key, shape=(): tasks.delayed_match(key, 6, shape, stimuli=3, noise=0.0),
    "pixels": lambda key, shape=(): tasks.pixels(key, IMAGES, LABELS, shape),
    "reber": lambda key, shape=(): tasks.reber(key, 60, shape),
    "reber_last": lambda key, shape=(): tasks.reber(key, 60, shape, continual=False, outer_only=True),
    "lorenz": lambda key, shape=(): tasks.lorenz(key, 4, shape, washout=2),
    "mackey_glass": lambda key, shape=(): tasks.mackey_glass(key, 4, shape, washout=2),
}
every_task = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(scope="module")
def drawn():
    """Each task once, in one program, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(lambda key: {name: call(key, (B,)) for name, call in CALLS.items()})(KEY))


@pytest.fixture(scope="module")
def mapped():
    """The same with vmap over two keys, the second of which is that of `drawn`."""
    keys = jnp.stack([jax.random.key(1), KEY])
    made = jax.jit(jax.vmap(lambda key: {name: call(key, (B,)) for name, call in CALLS.items()}))(keys)
    return jax.tree.map(np.asarray, made)


@every_task
def test_shapes_and_dtypes(name, drawn):
    xs, targets, weights, lengths = drawn[name]
    steps = xs.shape[0]
    assert xs.shape[:2] == targets.shape[:2] == weights.shape == (steps, B) and lengths.shape == (B,)
    assert xs.dtype == weights.dtype == np.float64 and lengths.dtype == np.int32
    assert targets.dtype == np.int32 if targets.ndim == 2 else targets.dtype == xs.dtype
    assert (weights >= 0).all() and (weights.sum(axis=0) > 0).all() and lengths.max() <= steps
    assert not weights[np.arange(steps)[:, None] >= lengths].any()  # no targets after the end


@every_task
def test_pure_and_vmappable(name, mapped, drawn):
    """Equal keys give equal batches, also under vmap."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), mapped[name], drawn[name])
    assert (mapped[name].xs[0] != mapped[name].xs[1]).any()


def test_every_task_takes_a_key_first_and_a_dtype():
    for name in {name.removesuffix("_3").removesuffix("_last") for name in CALLS}:
        parameters = inspect.signature(getattr(tasks, name)).parameters
        assert next(iter(parameters)) == "key" and parameters["dtype"].default is None and "batch_shape" in parameters
        assert hasattr(tasks, f"{name}_baseline")
    assert tasks.statland(KEY, (2,), dtype=jnp.bfloat16).xs.dtype == jnp.bfloat16


def test_adding(drawn):
    xs, targets, weights, _ = drawn["adding"]
    values, marks = xs[..., 0], xs[..., 1]
    assert set(np.unique(marks)) == {0, 1} and (np.abs(values) <= 1).all()
    assert (marks[:5].sum(axis=0) == 1).all() and (marks[5:].sum(axis=0) == 1).all()
    np.testing.assert_allclose(targets[-1, :, 0], (values * marks).sum(axis=0), rtol=1e-14)
    assert (weights[-1] == 1).all() and not weights[:-1].any()
    assert {int(np.argmax(marks[:5, b])) for b in range(B)} == set(range(5))  # every position occurs


def test_copy_memory(drawn):
    xs, targets, weights, _ = drawn["copy_memory"]
    tokens = xs.argmax(axis=-1)
    assert xs.shape == (13, B, 6) and (xs.sum(axis=-1) == 1).all() and (weights == 1).all()
    assert (tokens[:3] < 4).all() and (tokens[9] == 5).all() and (np.delete(tokens[3:], 6, axis=0) == 4).all()
    assert (targets[:10] == 4).all() and (targets[10:] == tokens[:3]).all()


@pytest.mark.parametrize(
    ("name", "places"), [("temporal_order", [(2, 4), (10, 12)]), ("temporal_order_3", [(2, 4), (6, 8), (12, 14)])]
)
def test_temporal_order(drawn, name, places):
    xs, targets, _, _ = drawn[name]
    tokens = xs.argmax(axis=-1)
    order = np.zeros(B, int)
    for low, high in places:
        inside = tokens[low:high] < 2
        assert (inside.sum(axis=0) == 1).all()
        order = 2 * order + np.where(inside, tokens[low:high], 0).sum(axis=0)
    assert ((tokens < 2).sum(axis=0) == len(places)).all() and (targets[-1] == order).all()
    assert set(targets[-1]) == set(range(2 ** len(places))) and set(tokens.ravel()) == set(range(6))


def test_delayed_xor(drawn):
    xs, targets, weights, _ = drawn["delayed_xor"]
    bits = xs[..., 0].astype(int)
    for t in range(12):
        assert (weights[t] == (t >= 5)).all()
        if t >= 5:
            assert (targets[t] == bits[t - 5] ^ bits[t - 2]).all()
    assert 0.3 < targets[5:].mean() < 0.7


def test_parity(drawn):
    for name in ("parity", "parity_last"):
        xs, targets, weights, lengths = drawn[name]
        assert (targets == xs[..., 0].cumsum(axis=0) % 2).all()
        assert set(lengths) == set(range(3, 10))
        expected = [[t == n - 1 if name == "parity_last" else t < n for n in lengths] for t in range(9)]
        assert (weights == np.array(expected)).all()


def test_latch(drawn):
    xs, targets, _, _ = drawn["latch"]
    sign = 2 * targets[-1] - 1
    assert (xs[:2, :, 0] == sign).all() and not xs[2:].any() and set(sign) == {-1, 1}
    noisy = tasks.latch(KEY, 50, (B,), noise=0.5)
    assert abs(float(noisy.xs[1:].std()) - 0.5) < 0.02


def test_statland(drawn):
    xs, targets, _, _ = drawn["statland"]
    tomorrow = {(0.0, 0.0): 0.0, (0.0, 0.5): 1.0, (1.0, 0.5): 0.0, (1.0, 1.0): 1.0}
    seen = {(float(a), float(b)): float(y) for a, b, y in zip(xs[0, :, 0], xs[1, :, 0], targets[1, :, 0], strict=True)}
    assert seen == tomorrow
    rules = tasks.statland_rules()
    assert {
        (float(a), float(b)): float(y) for a, b, y in zip(*rules.xs[..., 0], rules.targets[1, :, 0], strict=True)
    } == tomorrow


def test_windows(drawn):
    xs, targets, weights, _ = drawn["windows"]
    starts = [int(np.argmin(np.abs(SERIES - xs[0, b, 0]))) for b in range(B)]
    for b, start in enumerate(starts):
        np.testing.assert_array_equal(xs[:, b, 0], SERIES[start : start + 10])
        np.testing.assert_array_equal(targets[:, b, 0], SERIES[start + 2 : start + 12])
    assert (weights == 1).all() and min(starts) >= 0 and max(starts) <= 48
    many = tasks.windows(KEY, SERIES, 10, (2000,), horizon=2)
    assert {float(SERIES[0]), float(SERIES[48])} <= set(np.asarray(many.xs[0, :, 0]).tolist())  # both ends are drawn
    only = tasks.windows(KEY, np.stack([SERIES, -SERIES], axis=1), 58, horizon=2)
    np.testing.assert_array_equal(only.targets, np.stack([SERIES[2:], -SERIES[2:]], axis=1))


def test_baselines_are_what_a_memoryless_predictor_gets():
    """Each baseline against the score of that predictor on a batch."""
    many = (4000,)

    @jax.jit
    def draw(key):
        orders = {symbols: tasks.temporal_order(key, 10, many, symbols=symbols) for symbols in (2, 3)}
        return tasks.adding(key, 4, many, low=-1.0, high=1.0), tasks.copy_memory(key, 5, many), orders

    batch, copied, orders = draw(jax.random.key(3))
    assert (
        abs(float(tasks.squared_error(jnp.zeros_like(batch.targets), batch)) - tasks.adding_baseline(-1.0, 1.0).loss)
        < 0.04
    )
    quiet = jnp.log(
        jnp.where(jnp.arange(25)[:, None, None] < 15, jax.nn.one_hot(8, 9), jnp.append(jnp.ones(8) / 8, 0.0))
    )
    found = tasks.cross_entropy(jnp.broadcast_to(quiet, (25, *many, 9)), copied)
    np.testing.assert_allclose(found, tasks.copy_memory_baseline(5).loss, rtol=1e-12)
    for symbols, batch in orders.items():
        baseline: Any = tasks.temporal_order_baseline(symbols)
        np.testing.assert_allclose(
            tasks.cross_entropy(jnp.zeros((10, *many, 2**symbols)), batch), baseline.loss, rtol=1e-12
        )
        assert abs(float(tasks.accuracy(jnp.zeros((10, *many, 2**symbols)), batch)) - baseline.accuracy) < 0.03
    assert tasks.statland_baseline().loss == float(np.var([0, 1, 0, 1]))
    baseline = tasks.windows_baseline(SERIES, horizon=2)
    values = SERIES.astype(np.float64)
    np.testing.assert_allclose(baseline, [np.var(values[2:]), np.mean((values[2:] - values[:-2]) ** 2)], rtol=1e-12)
    for name in ("delayed_xor", "parity", "latch"):
        assert getattr(tasks, f"{name}_baseline")() == (np.log(2), 0.5)


@pytest.mark.parametrize(
    ("series", "error", "says"),
    [
        ([], ValueError, "is empty"),
        ([[1.0, 2.0], [3.0]], TypeError, "ragged"),
        ([1.0, np.nan, 3.0, np.inf], ValueError, "2 of 4 time steps, first at 1"),
        (jnp.array([1.0, jnp.nan, 3.0]), ValueError, "1 of 3 time steps, first at 1"),
        (np.ones(5), ValueError, "has 5 points.* needs 11; pass a longer series or fewer steps"),
        (np.ones((20, 2, 2)), ValueError, r"\[20, 2, 2\]; it must be \[N\] or \[N, D\]"),
        (["a", "b"], TypeError, "real numbers"),
        (np.ones(20) * 1j, TypeError, "real numbers"),
        ([None, 1.0], TypeError, "real numbers"),
    ],
)
def test_a_bad_series_never_reaches_a_network(series, error, says):
    for jit in (False, True):
        draw = functools.partial(tasks.windows, series=series, steps=10)
        with pytest.raises(error, match=says):
            (jax.jit(draw) if jit else draw)(KEY)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tasks.adding(KEY, 1), "steps is 1"),
        (lambda: tasks.adding(KEY, 5, low=1.0, high=1.0), "low must be below high"),
        (lambda: tasks.copy_memory(KEY, 0), "delay is 0"),
        (lambda: tasks.temporal_order(KEY, 9), "at least 10"),
        (lambda: tasks.temporal_order(KEY, 50, symbols=4), "symbols is 4"),
        (lambda: tasks.delayed_xor(KEY, 10, delay=10), "at least 11"),
        (lambda: tasks.delayed_xor(KEY, 10, delay=1), "delay is 1"),
        (lambda: tasks.parity(KEY, 5, shortest=6), "shortest is 6"),
        (lambda: tasks.latch(KEY, 1), "at least 2"),
        (lambda: tasks.latch(KEY, 5, noise=-1.0), "noise is -1"),
        (lambda: tasks.latch(KEY, 5, noise=float("nan")), "noise is nan"),
        (lambda: tasks.split_series(SERIES, 1.0), "share between 0 and 1"),
        (lambda: tasks.split_series(SERIES[:2], 0.1), "one part empty"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_split_series_shares_no_point():
    train, test = tasks.split_series(SERIES, 0.25)
    assert np.concatenate([train, test]).tolist() == SERIES.tolist() and len(test) == 15


def test_scores_by_hand_and_what_is_not_asked_costs_nothing():
    """NaN at steps of weight zero has no effect, weights are used, and a batch without targets has loss 0."""
    batch = tasks.Batch(
        xs=jnp.zeros((3, 1, 1)),
        targets=jnp.array([[0], [1], [1]]),
        weights=jnp.array([[0.0], [1.0], [3.0]]),
        lengths=jnp.array([3]),
    )
    logits = jnp.array([[[jnp.nan, 0.0]], [[0.0, 2.0]], [[1.0, -1.0]]])
    losses = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))]
    value, gradient = jax.value_and_grad(tasks.cross_entropy)(logits, batch)
    np.testing.assert_allclose(value, (losses[0] + 3 * losses[1]) / 4, rtol=1e-12)
    assert not gradient[0].any() and np.isfinite(gradient).all()
    assert float(tasks.accuracy(logits, batch)) == 0.25
    nothing = batch._replace(weights=jnp.zeros((3, 1)))
    assert float(tasks.cross_entropy(logits, nothing)) == 0
    regression = batch._replace(targets=jnp.zeros((3, 1, 2)))
    value, gradient = jax.value_and_grad(tasks.squared_error)(logits, regression)
    np.testing.assert_allclose(value, (4 / 2 + 3 * 2 / 2) / 4, rtol=1e-12)
    assert not gradient[0].any()


def test_scores_refuse_shapes_that_would_broadcast():
    batch = tasks.adding(KEY, 5, (2,))
    with pytest.raises(ValueError, match="one number for each target"):
        tasks.squared_error(batch.targets[..., 0], batch)
    with pytest.raises(TypeError, match="class indices are integers"):
        tasks.cross_entropy(batch.targets, batch)
    classes = tasks.latch(KEY, 5, (2,))
    with pytest.raises(ValueError, match="one row of logits for each target"):
        tasks.accuracy(jnp.zeros((5, 1, 2)), classes)


def test_flip_flop(drawn):
    xs, targets, weights, _ = drawn["flip_flop"]
    state = np.zeros((B, 2))
    for x, target in zip(xs, targets, strict=True):
        state = np.where(x != 0, x, state)
        np.testing.assert_array_equal(target, state)
    assert set(np.unique(xs)) == {-1, 0, 1} and (weights == 1).all()
    expected = tasks.flip_flop_baseline(steps=9, probability=0.3).loss
    assert abs((targets**2).mean() - expected) < 0.05


def test_decisions(drawn):
    xs, targets, _, _ = drawn["perceptual_decision"]
    assert (((xs.sum(axis=0)[:, 0] > 0) == targets[-1]).mean()) > 0.95 and 0.2 < targets[-1].mean() < 0.8
    xs, targets, _, _ = drawn["context_integration"]
    context = xs[0, :, 2:].argmax(axis=-1)
    assert (xs[..., 2:] == xs[0, :, 2:]).all() and (xs[0, :, 2:].sum(axis=-1) == 1).all() and set(context) == {0, 1}
    shown = xs[:, np.arange(B), context].sum(axis=0) > 0
    assert (shown == targets[-1]).mean() > 0.95
    ignored = xs[:, np.arange(B), 1 - context].sum(axis=0) > 0
    assert 0.2 < (ignored == targets[-1]).mean() < 0.8


def test_delayed_match(drawn):
    xs, targets, _, _ = drawn["delayed_match"]
    assert (xs[[0, -1]].sum(axis=-1) == 1).all() and not xs[1:-1].any()
    assert ((xs[0].argmax(-1) == xs[-1].argmax(-1)) == targets[-1]).all() and 0.2 < targets[-1].mean() < 0.8


def test_bad_arguments_of_cognitive_tasks():
    for wrong in (
        lambda: tasks.flip_flop(KEY, 5, probability=0.0),
        lambda: tasks.perceptual_decision(KEY, 5, noise=-1.0),
        lambda: tasks.context_integration(KEY, 5, noise=np.inf),
        lambda: tasks.delayed_match(KEY, 1),
        lambda: tasks.delayed_match(KEY, 5, stimuli=1),
    ):
        with pytest.raises(ValueError, match=r"(probability|noise|steps|stimuli) is"):
            wrong()


def test_pixels(drawn):
    xs, targets, weights, _ = drawn["pixels"]
    index = {image.tobytes(): n for n, image in enumerate(IMAGES.reshape(30, 12))}
    chosen = np.array([index[row.tobytes()] for row in np.rint(255 * xs[..., 0]).astype(np.uint8).T])
    np.testing.assert_allclose(xs[..., 0], IMAGES.reshape(30, 12)[chosen].T / 255, rtol=1e-15)
    assert (targets[-1] == LABELS[chosen]).all() and len(set(chosen)) > 20 and (weights[-1] == 1).all()
    order = jax.random.permutation(jax.random.key(5), 12)
    for key in (KEY, jax.random.key(1)):  # the same order in every batch
        plain, permuted = (
            tasks.pixels(key, IMAGES, LABELS, (B,), permutation_key=k) for k in (None, jax.random.key(5))
        )
        np.testing.assert_allclose(permuted.xs, plain.xs[order], rtol=1e-15)
        np.testing.assert_array_equal(permuted.targets, plain.targets)
    colours = IMAGES.reshape(15, 2, 4, 3) / np.float32(2)
    batch = jax.jit(tasks.pixels)(KEY, colours, LABELS[:15])  # floats are not scaled, channels are features
    np.testing.assert_array_equal(batch.xs, colours[int(batch.targets[-1])].reshape(8, 3))
    assert tasks.pixels_baseline(4) == (np.log(4), 0.25)


ENDED = "(?:PXT*V)*(?:PS|V)E"
INNER = f"B(?:TS*X(?:SE|XT*V{ENDED})|PT*V{ENDED})"
STRINGS = {False: INNER, True: f"B(?:T{INNER}T|P{INNER}P)E"}
ENDS = {string[i:] for string in ("BTXSE", "BTXXVVE", "BPVPSE", "BPVVE") for i in range(len(string) + 1)}
"""A shortest way from every node of Reber's graph to its end."""


@functools.cache
def follow(string, embedded):
    """The symbols after which `string` can still become one of the language, given by a regular expression."""
    ends = {end + outer for end in ENDS for outer in ("TE", "PE")} | {"E", ""} if embedded else ENDS
    ends |= {symbol + end for symbol in "TP" for end in ends} | {"TBTXSETE", "PBTXSEPE"} if embedded else set()
    possible = [any(re.fullmatch(STRINGS[embedded], string + s + end) for end in ends) for s in "BTPSXVE"]
    return np.array(possible)


@pytest.mark.parametrize("embedded", [True, False])
def test_reber(embedded):
    """Each symbol may follow what was read, and the targets are all that may; two are equally frequent."""
    draw = functools.partial(tasks.reber, KEY, 60, (12,), embedded=embedded)
    drawn = draw(), draw(continual=False), draw(outer_only=embedded)
    stream, single, outer = jax.tree.map(np.asarray, drawn)
    np.testing.assert_array_equal(single.xs, stream.xs)
    assert (stream.xs.sum(-1) == 1).all() and (stream.weights == 1).all() and (stream.lengths == 60).all()
    firsts = []
    for row in range(12):
        string, length, possible = "", 60, follow("", embedded)
        for t, symbol in enumerate(stream.xs[:, row].argmax(-1)):
            assert possible[symbol]
            if possible.sum() == 2:
                firsts.append(possible.argmax() == symbol)
            string += "BTPSXVE"[symbol]
            if re.fullmatch(STRINGS[embedded], string):
                string, length = "", min(length, t)
            possible = follow(string, embedded)
            np.testing.assert_array_equal(stream.targets[t, row], possible)
            before_outer = embedded and re.fullmatch(f"B[TP]{INNER}", string)
            assert outer.weights[t, row] == (1 if not embedded or before_outer else 0)
        assert single.lengths[row] == length
        np.testing.assert_array_equal(single.weights[:, row], np.arange(60) < length)
    assert abs(np.mean(firsts) - 0.5) < 2.5 / np.sqrt(len(firsts))


@pytest.mark.parametrize(
    "options", [{}, {"embedded": False, "continual": False}, {"outer_only": True, "continual": False}], ids=str
)
def test_the_baseline_of_reber(options):
    """The score of the best constant on a large batch."""
    batch = jax.jit(lambda key: tasks.reber(key, 20, (4000,), **options))(KEY)
    mean = jnp.broadcast_to(batch.targets[batch.weights > 0].mean(0), batch.targets.shape)
    np.testing.assert_allclose(tasks.squared_error(mean, batch), tasks.reber_baseline(20, **options).loss, rtol=0.01)


def test_what_does_not_fit_the_new_tasks():
    for error, says, wrong in (
        (TypeError, "`images` is int64; pass uint8", lambda: tasks.pixels(KEY, IMAGES.astype("int64"), LABELS)),
        (TypeError, "`labels` is float64", lambda: tasks.pixels(KEY, IMAGES, LABELS / 2)),
        (ValueError, r"`images` is \[12\]", lambda: tasks.pixels(KEY, IMAGES[0].ravel(), LABELS)),
        (ValueError, "pass one label per image", lambda: tasks.pixels(KEY, IMAGES, LABELS[:3])),
        (ValueError, "steps is 0", lambda: tasks.reber(KEY, 0)),
        (ValueError, "pass embedded=True", lambda: tasks.reber(KEY, 9, embedded=False, outer_only=True)),
        (ValueError, "one number for each target", lambda: tasks.set_accuracy(jnp.zeros((9, 6)), tasks.reber(KEY, 9))),
    ):
        with pytest.raises(error, match=says):
            wrong()


def test_set_accuracy_by_hand():
    """Of four steps, one with weight 0: a right set (3), a symbol too many (1), NaN (2)."""
    targets = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    batch = tasks.Batch(jnp.zeros((4, 1)), targets, jnp.array([3.0, 1.0, 2.0, 0.0]), jnp.array(4))
    outputs = jnp.array([[0.9, 0.1], [0.6, 0.8], [jnp.nan, 0.9], [0.9, 0.1]])
    assert float(tasks.set_accuracy(outputs, batch)) == 0.5
