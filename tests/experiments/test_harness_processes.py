"""The four flags of processes: what they refuse, and that process 0 alone writes, while the others hold its rows."""

import dataclasses

import numpy as np
import pytest

from experiments import harness
from experiments.harness import processes as flags
from experiments.harness.errors import UsageError
from rnnjax import processes
from tests.experiments.launched import refused


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.ProcessOptions):
    """Options of the toy."""


def measure(run: harness.Run[Options]) -> harness.Outcome:
    assert run.leads and run.mesh is None
    return harness.Outcome({}, [])


TOY = harness.Experiment("toy", "A toy.", Options, measure, code=("rnnjax.cell",))
TWO = ("--num-processes", "2")
AT = ("--coordinator", "127.0.0.1:9911")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--devices", "0"), "--devices is 0; give 1 or more"),
        (("--num-processes", "0"), "--num-processes is 0"),
        ((*TWO, "--process-id", "0"), "--coordinator is missing with --num-processes 2"),
        ((*TWO, *AT), "--process-id is missing"),
        (AT, "--coordinator is 127.0.0.1:9911 with --num-processes 1"),
        (("--process-id", "0"), "--process-id is 0 with --num-processes 1"),
        ((*TWO, *AT, "--process-id", "2"), "--process-id is 2; give 0 to 1"),
        ((*TWO, "--coordinator", "nowhere", "--process-id", "0"), "give HOST:PORT of process 0"),
    ],
)
def test_flags_that_make_no_sense(arguments, said, tmp_path, capsys):
    assert said in refused(TOY, tmp_path, capsys, *arguments)


def test_devices_cannot_be_counted_anew_once_jax_is_in_use(tmp_path, capsys):
    assert harness.launch(TOY, ["--devices", "3", "--out", str(tmp_path)]) == 2
    assert "--devices" in capsys.readouterr().err


def test_more_devices_than_there_are():
    with pytest.raises(UsageError, match="--devices is 999, but there are"):
        flags.mesh_of(Options(devices=999))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    assert harness.launch(TOY, ["--out", str(tmp_path)]) == 0
    assert "devices" not in (tmp_path / "config.json").read_text().split('"device"')[0]


def test_who_leads_and_who_is_one_of_several():
    follower = Options(num_processes=2, process_id=1, coordinator="h:1")
    assert flags.leads(Options()) and flags.leads(dataclasses.replace(follower, process_id=0))
    assert not flags.leads(follower) and flags.several(follower) and not flags.several(Options())
    assert flags.leads(harness.CommonOptions()) and flags.mesh_of(harness.CommonOptions()) is None


class Wire:
    """What process 0 says, for a follower to hear in the same order."""

    def __init__(self, monkeypatch):
        self.said = []
        self.patch = monkeypatch

    def as_leader(self):
        self.patch.setattr(processes, "leads", lambda: True)
        self.patch.setattr(processes, "from_leader", lambda data: self.said.append(data) or data)

    def as_follower(self):
        heard = iter(self.said)
        self.patch.setattr(processes, "leads", lambda: False)
        self.patch.setattr(processes, "from_leader", lambda data: next(heard))


def test_followers_hold_the_rows_of_process_0_and_write_nothing(tmp_path, monkeypatch):
    wire, identity = Wire(monkeypatch), {"experiment": "toy"}
    (tmp_path / "zero").mkdir()
    (tmp_path / "one").mkdir()
    flags.SharedRows.__mro__[1](tmp_path / "zero", identity).put({"n": 1}, {"old": 1}, {"a": np.arange(3)})
    wire.as_leader()
    leader = flags.SharedRows(tmp_path / "zero", identity)
    leader.put({"n": 2}, {"new": 0.5}, {"b": np.ones(2)})
    wire.as_follower()
    follower = flags.SharedRows(tmp_path / "one", identity)
    row = follower.put({"n": 2}, {"new": 0.75})  # rounded otherwise there: process 0's is what counts
    assert row.values == {"new": 0.5}
    for options in ({"n": 1}, {"n": 2}):
        ours, theirs = leader.get(options), follower.get(options)
        assert ours is not None and theirs is not None and ours == theirs
        for name in ours.arrays:
            np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name])
    assert follower.computed == 1 and follower.reused == leader.reused == 1
    assert list((tmp_path / "one").iterdir()) == []


def test_processes_that_computed_different_rows_are_stopped(tmp_path, monkeypatch):
    wire = Wire(monkeypatch)
    wire.as_leader()
    flags.SharedRows(tmp_path, {}).put({"n": 1}, {})
    wire.as_follower()
    with pytest.raises(RuntimeError, match="this process"):
        flags.SharedRows(tmp_path / "one", {}).put({"n": 2}, {})
