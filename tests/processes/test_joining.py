"""Errors before anything starts, and a single process. For two processes see tests/training."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from rnnjax import processes


@pytest.mark.parametrize("coordinator", ["localhost", ":9911", "host:0", "host:65536", "host:port", ""])
def test_an_address_is_a_host_and_a_port(coordinator):
    with pytest.raises(ValueError, match="host:port of process 0"), processes.initialize(coordinator, 2, 0):
        pass


@pytest.mark.parametrize("index", [-1, 2])
def test_a_number_is_below_the_count(index):
    with pytest.raises(ValueError, match="from 0 to 1"), processes.initialize("127.0.0.1:9911", 2, index):
        pass


def test_a_port_in_use_is_told_before_jax_starts():
    with socket.create_server(("", 0)) as server:
        joined = processes.initialize(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(OSError, match="in use"), joined:
            pass


def test_one_process_alone_agrees_with_itself():
    assert processes.is_coordinator()
    assert processes.from_coordinator(b"") == b"" and processes.from_coordinator(b"a") == b"a"
    assert processes.largest(15) == 15
    processes.assert_equal({"seed": 1})


def test_a_failed_collective_waits_for_the_verdict_and_an_error_of_our_own_does_not():
    """jaxlib raised both of these errors when a peer was killed."""
    message = "UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: Connection reset by peer"
    assert all(processes._may_be_of_a_peer(kind(message)) for kind in (ValueError, jax.errors.JaxRuntimeError))
    assert not processes._may_be_of_a_peer(ValueError("process 1 has other options than process 0"))
    assert not processes._may_be_of_a_peer(KeyboardInterrupt())


def test_one_process_of_one_runs_its_block():
    with processes.initialize("127.0.0.1:9911", 1, 0):
        assert not processes.several()


@pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="two processes: set RNNJAX_SLOW=1")
def test_slurm_is_discovered():
    code = "from rnnjax import processes\nwith processes.initialize(): print(processes.largest(7))"
    env = os.environ | {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": os.uname().nodename}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env | {"SLURM_PROCID": i, "SLURM_LOCALID": i}, stdout=subprocess.PIPE
        )
        for i in "01"
    ]
    assert [process.communicate(timeout=120)[0] for process in both] == [b"7\n", b"7\n"]
