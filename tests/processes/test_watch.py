"""The watch, over real sockets: a closed connection means a dead process, unless it said goodbye."""

import socket
import threading
import time

import pytest

from rnnjax import processes
from rnnjax.processes import Watch

COUNT = 3


class Noted(Watch):
    """Records the loss instead of ending the test process."""

    noted: int | None = None

    def _lost(self, lost):
        self.noted = lost


@pytest.fixture
def team():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    watches = [Noted(i, COUNT, "again") for i in range(COUNT)]
    leading = threading.Thread(target=watches[0].lead, args=(server,))
    leading.start()
    stray = socket.create_connection(("127.0.0.1", port))  # of another program
    stray.sendall(b"GET / HTTP/1.1\n")
    for each in watches[1:]:
        each.follow("127.0.0.1", str(port))
    leading.join(10)
    stray.close()
    yield watches
    for each in watches:
        each.close()


def eventually(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_peer_that_dies_is_noticed_by_process_0(team):
    team[2].close()
    assert eventually(lambda: team[0].noted == 2)
    assert team[1].noted is None  # it has no connection to 2; process 0 reports the loss


def test_process_0_that_dies_is_noticed_by_all(team):
    team[0].close()
    assert eventually(lambda: team[1].noted == 0 and team[2].noted == 0)


def test_who_says_goodbye_is_not_lost(team):
    for each in team:
        each.tell("bye\n")
    time.sleep(0.05)
    for each in team:
        each.close()
    time.sleep(0.1)
    assert [each.noted for each in team] == [None] * COUNT


def test_process_0_names_the_lost_one_to_the_others(monkeypatch):
    """Otherwise survivors would report process 0, which exits right after."""
    ended = []
    monkeypatch.setattr(processes, "end_process", ended.append)
    (ours, theirs), (lost, _) = socket.socketpair(), socket.socketpair()
    leader = Watch(0, 3, "again")
    leader._links = {1: ours, 2: lost}
    leader._lost(2)
    assert theirs.recv(99) == b"2\n" and "process 2 of 3 is gone" in ended[0]


def test_a_line_in_pieces_is_one_line():
    """As may happen on a network."""
    ours, theirs = socket.socketpair()
    follower = Noted(1, 30, "again")
    follower.listen(0, theirs, theirs.makefile())
    ours.sendall(b"1")
    ours.sendall(b"2\n")
    assert eventually(lambda: follower.noted == 12)
    for link in (ours, theirs):
        link.close()
