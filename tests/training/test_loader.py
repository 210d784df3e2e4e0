"""`fit` on iterators and loaders: as with the data function, resumed at the right batch, losing nothing on errors."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training.steps import data_key
from tests.training import toy


def batch(t):
    """The batch that `toy.data` gives at step t."""
    return jax.tree.map(np.asarray, toy.data(data_key(jax.random.key(7), t), t))


BATCHES = [batch(t) for t in range(40)]


class Grain:
    """An iterator with the state of grain's iterators; `faults` maps the number of a batch to what comes instead."""

    def __init__(self, faults=()):
        self.at, self.drawn, self.faults = 0, [], dict(faults)

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        self.drawn.append(self.at - 1)
        found = self.faults.get(self.at - 1, BATCHES[self.at - 1] if self.at <= 40 else StopIteration())
        if isinstance(found, BaseException):
            raise found
        return found

    def get_state(self):
        return {"next": self.at}

    def set_state(self, state):
        self.at = state["next"]


class Torch:
    """A loader of epochs of eight batches with a state of bytes, which applies to the next iterator."""

    def __init__(self):
        self.at, self.drawn = 0, []

    def __iter__(self):
        while self.at < 40:
            self.at += 1
            self.drawn.append(self.at - 1)
            yield list(BATCHES[self.at - 1])
            if self.at % 8 == 0:
                return

    def state_dict(self):
        return {"at": np.int64(self.at)}

    def load_state_dict(self, state):
        self.at = int(state["at"])


def run(data, options=toy.OPTIONS, loss=toy.loss, **more):
    return training.fit(loss, toy.start(), toy.RULE, data, options, **more)


def of_list():
    return list(BATCHES)


def generator():
    return (each for each in BATCHES)


MAKE = {"list": of_list, "generator": generator, "grain": Grain, "torch": Torch}


@pytest.mark.parametrize("name", MAKE)
def test_trains_as_the_function_does_and_resumes_to_the_bit(tmp_path, name):
    """One batch per update, none too many; a run in two parts from the checkpoint equals one that was never stopped."""
    make = MAKE[name]
    data = make()
    whole = run(data)
    np.testing.assert_allclose(whole.state.params["w"], toy.uninterrupted().state.params["w"], rtol=1e-5)
    for line, other in zip(whole.history, toy.uninterrupted().history, strict=True):
        assert line.keys() == other.keys() and line["step"] == other["step"]
        np.testing.assert_allclose(line["loss"], other["loss"], rtol=1e-4)
    if hasattr(data, "drawn"):
        assert data.drawn == list(range(40))
    kept = training.Checkpoints(folder=tmp_path, every=5)
    run(make(), toy.steps(25), checkpoints=kept)
    rest = make()
    resumed = run(rest, checkpoints=kept)
    toy.same_bits(resumed.state, whole.state)
    if hasattr(rest, "drawn"):
        assert rest.drawn == list(range(25, 40))  # restored, not drawn and dropped


def test_an_iterator_goes_on_where_a_state_of_fit_does():
    data = generator()
    first = run(data, toy.steps(20))
    second = training.fit(toy.loss, first.state, toy.RULE, data, toy.OPTIONS)
    toy.same_bits(second.state, run(generator()).state)


def test_epochs_and_other_shapes():
    """A list starts again; short batches train if their shapes are allowed, as in a loop by hand."""
    short = [jax.tree.map(lambda leaf: leaf[:2], BATCHES[1])]
    data = [BATCHES[0], *short, BATCHES[2]]
    fitted = run(data, training.FitOptions(steps=7, chunk=7, shapes=2))
    params: Any
    params, state = toy.start().params, toy.RULE.init(toy.start().params)
    for each in itertools.islice(itertools.cycle(data), 7):
        change, state = toy.RULE.update(jax.grad(toy.loss)(params, each), state, params)
        params = optax.apply_updates(params, change)
    np.testing.assert_allclose(fitted.state.params["w"], params["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (StopIteration(), r"step 13: the data ended before batch 13, .* lower `steps`; then go on from error\.state"),
        (OSError("gone"), r"step 13: the data raised OSError\('gone'\) instead of batch 13: repair it, and go on"),
        (jax.tree.map(lambda a: a[:3], BATCHES[0]), r"batch 13\[0\] is \[3, 3\] float32, but was \[4, 3\].*drop_last"),
        ((BATCHES[0][0],), r"batch 13\[1\] is absent, but was \[4\] float32"),
        ((np.array([None]), BATCHES[0][1]), r"batch 13\[0\] is no array of numbers; pad rows"),
    ],
)
def test_a_loader_that_fails_loses_nothing(tmp_path, fault, says):
    """The error has the state of the last update; the same call with a good loader goes on from the checkpoint."""
    kept = training.Checkpoints(folder=tmp_path, every=100)
    with pytest.raises(training.DataError, match=says) as e:
        run(Grain({13: fault}), checkpoints=kept)
    assert int(e.value.state.step) == 13 and [line["step"] for line in e.value.history] == [5, 10, 13]
    good = Grain()
    toy.same_bits(run(good, checkpoints=kept).state, run(Grain()).state)
    assert good.drawn == list(range(13, 40))


def test_a_fault_of_the_numbers_keeps_the_position(tmp_path):
    """NaN in batch 13: the checkpoint's position is before that batch, although later ones had been drawn."""
    kept = training.Checkpoints(folder=tmp_path, every=100)
    options = training.FitOptions(steps=40, chunk=20)
    with pytest.raises(training.NonFiniteError, match="step 13"):
        run(Grain({13: jax.tree.map(lambda a: a * np.float32(np.nan), BATCHES[0])}), options, checkpoints=kept)
    good = Grain()
    toy.same_bits(run(good, options, checkpoints=kept).state, run(Grain(), options).state)
    assert good.drawn == list(range(13, 40))


def test_nothing_to_train_on():
    with pytest.raises(training.DataError, match="ended before batch 0") as e:
        run([])
    assert int(e.value.state.step) == 0


def test_an_impure_data_function_is_refused():
    """`lambda key, step: next(it)` would train on one batch for ever; a constant full batch is pure."""
    for batches in (generator(), iter(BATCHES[:1])):
        with pytest.raises(ValueError, match=r"two different batches .* pass the iterator itself"):
            run(lambda key, step, batches=batches: next(batches))
        with pytest.raises(ValueError, match="pass the iterator itself"):
            training.fit_many(
                toy.loss, lambda key, setting: toy.start().params, toy.RULE,
                lambda key, step, batches=batches: next(batches), jnp.zeros(2), toy.OPTIONS, key=jax.random.key(0),
            )  # fmt: skip
    full = lambda key, step: BATCHES[0]  # noqa: E731
    assert np.isfinite(run(full, toy.steps(10)).history[-1]["loss"])


class Rows:
    """The batches as a data set with random access."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return BATCHES[i]


def of_grain():
    grain: Any = pytest.importorskip("grain")
    return grain.MapDataset.source(Rows()).shuffle(seed=3).repeat().to_iter_dataset()


def of_grain_loader():
    grain: Any = pytest.importorskip("grain")
    return grain.DataLoader(data_source=Rows(), sampler=grain.samplers.IndexSampler(40, shuffle=True, seed=3))


def of_torch():
    torch: Any = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(Rows(), batch_size=None)


@pytest.mark.parametrize("make", [of_grain, of_grain_loader, of_torch])
def test_the_libraries_own(tmp_path, make):
    """The run in two parts has the bits of the whole, in a shuffled order if the library has a state for it."""
    whole, kept = run(make()), training.Checkpoints(folder=tmp_path, every=5)
    run(make(), toy.steps(25), checkpoints=kept)
    toy.same_bits(run(make(), checkpoints=kept).state, whole.state)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"] / 10
