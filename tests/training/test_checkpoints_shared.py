"""Checkpoints of several processes.

Process 0 is real; communication and the state of the others are mocked. `peers_killed` uses real processes.
"""

import dataclasses
import os
import signal
import types

import optax
import pytest

from rnnjax import processes, training
from tests.training import peers_killed, sharded_peers, toy
from tests.training.toy import steps_in


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    played = types.SimpleNamespace(other=lambda mine: mine, said=[])
    monkeypatch.setattr(processes, "process_allgather", lambda mine: [mine, played.other(mine)])
    monkeypatch.setattr(processes, "from_coordinator", lambda data: played.said.append(data) or data)
    monkeypatch.setattr(processes, "largest", lambda number: number)
    return played


def test_process_0_writes_and_the_others_get_the_same_bits(two, tmp_path, monkeypatch):
    kept = training.Checkpoints(folder=tmp_path / "run", every=10)
    fitted = toy.run(checkpoints=kept)
    toy.same_bits(fitted.state, toy.uninterrupted().state)
    two.said.clear()
    with kept.opened() as store:
        toy.same_bits(store.load(toy.start())[0], fitted.state)
    heard = iter(list(two.said))
    monkeypatch.setattr(processes, "is_coordinator", lambda: False)
    monkeypatch.setattr(processes, "from_coordinator", lambda data: next(heard))
    elsewhere = dataclasses.replace(kept, folder=tmp_path / "no disk is shared")
    with elsewhere.opened() as store:
        toy.same_bits(store.load(toy.start())[0], fitted.state)
    assert not (tmp_path / "no disk is shared").exists()


def test_states_that_differ_are_not_written(two, tmp_path):
    two.other = lambda mine: 1  # it says that it differs
    refused = pytest.raises(ValueError, match="process 1 has other state at step 0 than process 0")
    with training.Checkpoints(folder=tmp_path, every=10).opened() as store, refused:
        store.save(toy.start())
    assert steps_in(tmp_path) == []


def test_what_stops_process_0_stops_all(two, tmp_path):
    kept = training.Checkpoints(folder=tmp_path, every=10)
    with kept.opened(), pytest.raises(training.CheckpointError, match="in use by another run"), kept.opened():
        pass
    assert len(two.said) == 2  # the error was broadcast too


def test_any_error_of_process_0_is_raised_in_all(two, tmp_path, monkeypatch):
    """If process 0 cannot read, the others must get the error, or they would wait forever."""
    with training.Checkpoints(folder=tmp_path, every=10).opened() as store:
        store.save(toy.start())
        with pytest.raises(training.CheckpointError, match="another architecture"):
            store.load(toy.start(optax.sgd(0.1)))
        said = two.said[-1]
        monkeypatch.setattr(processes, "is_coordinator", lambda: False)
        monkeypatch.setattr(processes, "from_coordinator", lambda data: said)
        with pytest.raises(training.CheckpointError, match="another architecture"):
            store.load(toy.start())


def test_all_leave_when_one_is_asked_to(two, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "largest", lambda number: signal.SIGTERM)  # the other process received it
    with pytest.raises(SystemExit) as left:
        toy.run(checkpoints=training.Checkpoints(folder=tmp_path, every=1000))
    assert left.value.code == 128 + signal.SIGTERM and steps_in(tmp_path) == [10]


@pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="ten processes that compile: set RNNJAX_SLOW=1")
@pytest.mark.parametrize("batches", ["", "loader"])
def test_a_killed_peer_ends_the_run_which_then_goes_on(batches):
    assert peers_killed.main(batches) == 0


@pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="two processes: set RNNJAX_SLOW=1")
def test_a_state_sharded_over_processes_returns_to_its_devices():
    assert sharded_peers.main() == 0
