"""The watch, over real sockets: a closed connection means a dead process, unless it said goodbye."""

import socket
import threading
import time

import pytest

from rnnjax.processes.watch import Watch, _line

TOKEN, COUNT = "token", 3


class Noted(Watch):
    """Records the loss instead of ending the test process."""

    noted: int | None = None

    def _end(self, lost):
        self.noted = lost


@pytest.fixture
def team():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    watches = [Noted(i, COUNT, "again") for i in range(COUNT)]
    leading = threading.Thread(target=watches[0].lead, args=(server, TOKEN, 10.0))
    leading.start()
    stray = socket.create_connection(("127.0.0.1", port))  # of another program
    stray.sendall(b"GET / HTTP/1.1\n")
    for watch in watches[1:]:
        watch.follow("127.0.0.1", port, TOKEN, 10.0)
    leading.join(10)
    stray.close()
    yield watches
    for watch in watches:
        watch.close()


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
    for watch in team:
        watch.say_bye()
    time.sleep(0.05)
    for watch in team:
        watch.close()
    time.sleep(0.1)
    assert [watch.noted for watch in team] == [None] * COUNT


def test_process_0_names_the_lost_one_to_the_others():
    """Otherwise survivors would report process 0, which exits right after."""
    ours, theirs = socket.socketpair()
    watch = Watch(0, 3, "again", {1: ours})
    watch._leaving = True  # it exits with its own error, so the watch does not end the process
    watch._end(2)
    assert _line(theirs) == "lost 2\n"
    follower = Noted(1, 3, "again", {0: theirs})
    ours2, theirs2 = socket.socketpair()
    follower._links = {0: theirs2}
    follower._start()
    ours2.sendall(b"los")
    ours2.sendall(b"t 2\n")  # in two pieces, as may happen on a network
    assert eventually(lambda: follower.noted == 2)
    for link in (ours, theirs, ours2):
        link.close()
