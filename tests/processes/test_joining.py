"""Errors before anything starts, and a single process. For two processes see tests/training."""

import socket

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
    assert processes.from_coordinator(b"") == b"" and processes.from_all(b"a") == [b"a"] and processes.largest(15) == 15
    processes.assert_equal({"seed": 1})
