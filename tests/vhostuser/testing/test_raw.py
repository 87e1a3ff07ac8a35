"""The raw front-end: it sends what it is told, byte for byte, and says what came back."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from vhostuser.fds import OwnedFd
from vhostuser.testing import NEED_REPLY, VERSION, RawFrontend, RawReply, held, raw_message

if TYPE_CHECKING:
    from pathlib import Path


def test_a_raw_message_may_lie_about_its_size() -> None:
    honest = raw_message(7, b"abc", flags=VERSION | NEED_REPLY)
    assert honest == bytes([7, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0]) + b"abc"
    assert raw_message(7, b"abc", flags=0, size=0x1000)[8:12] == bytes([0, 0x10, 0, 0])


async def test_bytes_fds_and_answers_pass_unjudged() -> None:
    before = held()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, trio.socket.from_stdlib_socket(ours) as sock:
        front_end = RawFrontend(sock)
        with OwnedFd(os.eventfd(0)) as fd:
            await front_end.send(b"garbage", [fd, fd])
            socket.send_fds(theirs, [raw_message(99, b"\x05", flags=0xFF)], [fd.fileno()])
        data, fds, _, _ = socket.recv_fds(theirs, 100, 10)
        for number in fds:
            os.close(number)
        assert (data, len(fds)) == (b"garbage", 2)
        reply = await front_end.reply()
        assert reply == RawReply(99, 0xFF, b"\x05", 1)
        assert reply.value == 5
        theirs.close()
        await front_end.wait_closed()
        assert await front_end.reply() is None
        assert await front_end.ask(1) is None
    assert not held().more_than(before)


async def test_nobody_listening_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with RawFrontend.connect(tmp_path / "nobody"):
            pass
