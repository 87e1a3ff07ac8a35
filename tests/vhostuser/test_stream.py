"""Messages cut short on a socket: whatever came with them is closed at once, by whoever owns it."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.vhost_user import RemoteProtocolError
from vhostuser.fds import OwnedFd
from vhostuser.stream import MessageStream, connect_unix
from vhostuser.testing import open_fds


@pytest.fixture
async def ends():
    """A stream that waits next to no time, and its peer's socket."""
    ours, peer = socket.socketpair()
    stream = MessageStream(trio.socket.from_stdlib_socket(ours), seconds=0.01)
    with peer:
        yield stream, peer
    stream.close()


def send_with_fds(peer, data, count):
    for _ in range(count):
        with OwnedFd(os.eventfd(0)) as fd:
            socket.send_fds(peer, [data], [fd.fileno()])


@pytest.mark.parametrize("begun", [False, True])
async def test_fds_of_a_message_that_stalls_are_closed(ends, begun):
    stream, peer = ends
    before = open_fds()
    send_with_fds(peer, b"abc", 1)
    with pytest.raises(RemoteProtocolError, match="all 8 bytes must follow") as caught:
        await stream.receive(8, begun=begun)
    assert caught.value.value == 3
    assert open_fds() == before


@pytest.mark.parametrize("begun", [False, True])
async def test_fds_of_a_message_whose_reader_is_cancelled_are_closed(ends, begun):
    stream, peer = ends
    stream._seconds = float("inf")
    before = open_fds()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: stream.receive(8, begun=begun))
        send_with_fds(peer, b"abc", 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert open_fds() == before


@pytest.mark.parametrize("begun", [False, True])
async def test_fds_in_the_middle_are_refused_and_all_are_closed(ends, begun):
    stream, peer = ends
    before = open_fds()
    send_with_fds(peer, b"abc", 2)
    with pytest.raises(RemoteProtocolError, match="first byte of a message"):
        await stream.receive(8, begun=begun)
    assert open_fds() == before


async def test_fds_of_a_message_cut_off_by_the_end_are_the_callers(ends):
    stream, peer = ends
    send_with_fds(peer, b"abc", 1)
    peer.close()
    data, fds = await stream.receive(8, begun=False)
    assert (data, len(fds)) == (b"abc", 1)
    fds[0].close()


async def test_a_place_in_a_full_backlog_is_waited_for(tmp_path, autojump_clock):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(0)
        with await connect_unix(path):  # takes the only place
            async with trio.open_nursery() as nursery:
                connected = trio.Event()

                async def connect():
                    with await connect_unix(path) as sock:
                        await sock.send(b"hello")
                        connected.set()

                nursery.start_soon(connect)
                await trio.sleep(1)
                assert not connected.is_set()
                listener.accept()[0].close()
                await connected.wait()
            with listener.accept()[0] as other:
                assert other.recv(5) == b"hello"


async def test_where_nobody_listens_nothing_is_left(tmp_path):
    before = open_fds()
    with pytest.raises(FileNotFoundError):
        await connect_unix(tmp_path / "socket")
    assert open_fds() == before
