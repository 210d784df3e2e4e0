"""Checkpoints: bitwise resumption, detection of damage, and error messages."""

import os
import random
import resource
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training import checkpoints
from tests.training import damage, kills, toy
from tests.training.toy import steps_in


def kept(folder, **more):
    return training.Checkpoints(folder=folder, every=10, **more)


def test_resumes_to_the_same_bits(tmp_path):
    """Half of the run, then all of it by the same call; the metrics equal those of an uninterrupted run."""
    for count in (20, 40):
        fitted = toy.run(toy.steps(count), checkpoints=kept(tmp_path))
    toy.same_bits(fitted.state, toy.uninterrupted().state)
    assert fitted.history == toy.uninterrupted().history
    again = toy.run(checkpoints=kept(tmp_path))  # nothing is left to do
    assert again.history == fitted.history
    toy.same_bits(again.state, toy.uninterrupted().state)


def test_retention_and_nothing_left_over(tmp_path):
    toy.run(checkpoints=kept(tmp_path, keep=2))
    assert steps_in(tmp_path) == [30, 40]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step_000000030", "step_000000040"]


def test_what_a_killed_run_left_is_swept(tmp_path):
    (tmp_path / "step_000000050.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    toy.run(toy.steps(10), checkpoints=kept(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step_000000010"]


def test_every_kind_of_leaf(tmp_path):
    """Half precision, empty arrays, integers, booleans, both kinds of keys and None are restored bit for bit."""
    for impl in ("threefry2x32", "rbg"):
        params = {
            "half": jnp.arange(3, dtype=jnp.bfloat16),
            "empty": jnp.zeros((0, 2)),
            "nan": jnp.array([jnp.nan, -0.0, 1e-310]),
            "tuple": (jnp.int8(3), jnp.array([True, False])),
            "none": None,
        }
        state = training.init_state(params, optax.identity(), jax.random.key(3, impl=impl))
        with kept(tmp_path / impl).opened() as store:
            store.save(state)
            blank = training.init_state(
                jax.tree.map(jnp.zeros_like, params), optax.identity(), jax.random.key(0, impl=impl)
            )
            toy.same_bits(store.load(blank)[0], state)


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_noticed_and_the_step_before_used(tmp_path, seed):
    """A small version of `python -m tests.training.damage 200`."""
    assert damage.trials(8, seed, tmp_path) == []


def test_fit_tells_and_repairs(tmp_path):
    """Training resumes from the previous step, ends with the same bits, and rewrites the corrupt step."""
    toy.run(toy.steps(20), checkpoints=kept(tmp_path))
    damage.damage(tmp_path / "step_000000020", random.Random(0))
    with pytest.warns(training.CheckpointWarning, match=r"step_000000020 is damaged: .* resumes from step 10"):
        fitted = toy.run(checkpoints=kept(tmp_path, keep=4))
    toy.same_bits(fitted.state, toy.uninterrupted().state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.run(toy.steps(20), checkpoints=kept(tmp_path))
    assert steps_in(tmp_path) == [10, 20, 30, 40]


def test_lost_and_added_files_are_noticed(tmp_path):
    for name in ("lost", "added", "manifest"):
        toy.run(toy.steps(20), checkpoints=kept(tmp_path / name))
        newest = tmp_path / name / "step_000000020"
        if name == "added":
            (newest / "arrays" / "stranger").touch()
        else:
            (newest / ("manifest.json" if name == "manifest" else "arrays/_METADATA")).unlink()
        with pytest.warns(training.CheckpointWarning, match={"lost": "is missing", "added": "was not there"}.get(name)):
            loaded = toy.loaded(tmp_path / name, toy.start())
        assert loaded is not None and int(loaded.step) == 10


def test_a_run_killed_between_the_arrays_and_the_manifest_goes_on(tmp_path):
    """Even in the first save: a lone step without a manifest is reported, and written again."""
    for count in (10, 20):
        toy.run(toy.steps(count), checkpoints=kept(tmp_path))
        for name in ("manifest.json", "manifest.json.sha256"):
            (tmp_path / f"step_{count:09d}" / name).unlink()
        told = "resumes from step 10" if count == 20 else "was not finished; training starts anew"
        with pytest.warns(training.CheckpointWarning, match=told):
            fitted = toy.run(toy.steps(count), checkpoints=kept(tmp_path))
        toy.same_bits(toy.loaded(tmp_path, toy.start()), fitted.state)


def test_a_later_version_is_refused(tmp_path, monkeypatch):
    """Not skipped as if it were damaged, which would lose its progress."""
    with monkeypatch.context() as later:
        later.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
        for count in (10, 20):
            toy.run(toy.steps(count), checkpoints=kept(tmp_path))
    with pytest.raises(training.CheckpointError, match=r"step_000000020 was written by a later rnnjax; use that"):
        toy.run(checkpoints=kept(tmp_path))
    assert steps_in(tmp_path) == [10, 20]


def test_what_is_committed_to_devices_returns_to_them(tmp_path):
    state, device = toy.start(), jax.devices()[0]
    with kept(tmp_path).opened() as store:
        store.save(state)
        placed, *_ = store.load(state._replace(params=jax.device_put(state.params, device)))
    assert placed is not None and placed.params["w"].committed and not placed.key.committed
    toy.same_bits(placed, state)


def test_nothing_whole_is_an_error_not_a_fresh_start(tmp_path):
    toy.run(toy.steps(20), checkpoints=kept(tmp_path))
    for step in (10, 20):
        damage.damage(tmp_path / f"step_{step:09d}", random.Random(1))
    with pytest.raises(
        training.CheckpointError, match=r"no checkpoint in .* is intact: .*000020.*000010.*another folder"
    ):
        toy.run(checkpoints=kept(tmp_path))


def test_another_architecture_names_leaf_and_both_shapes(tmp_path):
    toy.run(toy.steps(10), checkpoints=kept(tmp_path))
    other = training.init_state({"w": jnp.zeros(5), "v": jnp.zeros(2)}, toy.RULE, jax.random.key(0))
    with pytest.raises(training.CheckpointError) as caught:
        toy.loaded(tmp_path, other)
    message = str(caught.value)
    assert "params/w: [3] float32 in the checkpoint, [5] float64 in this run" in message
    assert "params/v: absent in the checkpoint, [2] float64 in this run" in message
    assert "params/b: [] float32 in the checkpoint, absent in this run" in message


def test_another_optimizer_and_another_config_are_refused(tmp_path):
    toy.run(toy.steps(10), checkpoints=kept(tmp_path, config={"rate": 0.1, "sizes": (1, 2)}))
    with pytest.raises(training.CheckpointError, match=r"opt_state/0/clipped: \[\] int32 in the checkpoint, absent"):
        toy.loaded(tmp_path, toy.start(optax.sgd(0.1)))
    with pytest.raises(training.CheckpointError, match=r"rate: 0\.1 in the checkpoint, 0\.2 in this run\. Use"):
        toy.run(checkpoints=kept(tmp_path, config={"rate": 0.2, "sizes": (1, 2)}))
    toy.run(toy.steps(10), checkpoints=kept(tmp_path, config={"rate": 0.1, "sizes": (1, 2)}))


def test_two_runs_into_one_folder(tmp_path):
    refused = pytest.raises(training.CheckpointError, match=rf"in use by another run \(process {os.getpid()}\)")
    with kept(tmp_path).opened(), refused:
        toy.run(checkpoints=kept(tmp_path))
    toy.run(toy.steps(10), checkpoints=kept(tmp_path))  # the lock is released


@pytest.mark.parametrize("place", ["beneath_a_file", "read_only"])
def test_a_folder_that_cannot_be_written(tmp_path, place):
    """Before the first update, not after the last."""
    if place == "beneath_a_file":
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "run"
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
    told = []
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)  # root could write anywhere
    try:
        with pytest.raises(training.CheckpointError, match=r"cannot keep checkpoints in .*: \w+"):
            toy.run(checkpoints=kept(folder), report=told.append)
    finally:
        if privileged:
            os.seteuid(0)
    assert not told


class Full:
    """Limits files to 64 bytes within the block."""

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, self._before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own, after a save that failed
@pytest.mark.filterwarnings("ignore:step 50")
def test_a_full_disk_loses_no_work(tmp_path):
    """If an intermediate save fails, training continues with a warning; the last one raises, with the state."""
    full = Full()
    hooks = {10: full.__enter__, 20: full.__exit__}
    checkpoints = kept(tmp_path, keep=4)
    hook = lambda line: hooks.get(line["step"], lambda: None)()  # noqa: E731
    with pytest.warns(training.CheckpointWarning, match=r"step 10 could not be saved.*on the disk: none.*try again"):
        fitted = toy.run(checkpoints=checkpoints, report=hook)
    toy.same_bits(fitted.state, toy.uninterrupted().state)
    assert steps_in(tmp_path) == [20, 30, 40]
    hooks = {45: full.__enter__}
    try:
        with pytest.raises(
            training.CheckpointError, match=r"step 50 could not be saved.*steps on the disk: 20, 30, 40"
        ) as e:
            toy.run(toy.steps(50), checkpoints=checkpoints, report=hook)
    finally:
        full.__exit__()
    assert int(e.value.state.step) == 50 and e.value.history[-1]["step"] == 50
    assert steps_in(tmp_path) == [20, 30, 40] and not list(tmp_path.glob("*tmp*"))


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_saves_and_leaves(tmp_path, number, error):
    """Saves after the current dispatch, restores the signal handlers, and the run resumes to the same bits."""
    before = signal.getsignal(number)
    ask = lambda line: os.kill(os.getpid(), number) if line["step"] == 15 else None  # noqa: E731
    with pytest.raises(error) as caught:
        toy.run(checkpoints=training.Checkpoints(folder=tmp_path, every=1000), report=ask)
    assert error is KeyboardInterrupt or caught.value.code == 128 + number
    assert signal.getsignal(number) is before and steps_in(tmp_path) == [20]
    toy.same_bits(toy.run(checkpoints=kept(tmp_path)).state, toy.uninterrupted().state)


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    def ask(line):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        toy.run(checkpoints=kept(tmp_path), report=ask)
    assert steps_in(tmp_path) == []
    toy.run(toy.steps(10), checkpoints=kept(tmp_path))  # the folder is free


def test_a_fault_is_saved_before_it_is_raised(tmp_path):
    """Progress before the error is on disk."""

    def data(key, step):
        xs, targets = toy.data(key, step)
        return xs, jnp.where(step == 13, np.float32(np.nan), targets)

    with pytest.raises(training.NonFiniteError):
        training.fit(toy.loss, toy.start(), toy.RULE, data, toy.OPTIONS, checkpoints=kept(tmp_path))
    assert steps_in(tmp_path) == [10, 13]


@pytest.mark.parametrize(("more", "says"), [({"keep": 1}, "keep is 1"), ({"every": 0}, "every is 0")])
def test_options_that_do_not_fit(more, says):
    with pytest.raises(ValueError, match=says):
        training.Checkpoints(**{"folder": "x", "every": 1, **more})


def test_a_killed_run_goes_on(tmp_path):
    """One kill during the saves; `python -m tests.training.kills 50` kills at many moments."""
    _, killed = kills.session(tmp_path / "run", 25, 0.03)
    assert killed and steps_in(tmp_path / "run")
    done = toy.run(toy.steps(kills.STEPS), checkpoints=kept(tmp_path / "run", config={"steps": kills.STEPS}))
    toy.same_bits(done.state, toy.run(toy.steps(kills.STEPS)).state)
