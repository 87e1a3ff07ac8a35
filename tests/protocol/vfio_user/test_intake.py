"""Cutting a stream: any pieces give the same messages, and fds stay with theirs."""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fuzzing.vfio_user_traffic import Wire, Write
from hypothesis import given
from hypothesis import strategies as st

from protocol.vfio_user.intake import Intake
from vhostuser.testing import CountingFd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vfio_user.intake import Arrived

MAX_SIZE = 200
HEADER = struct.Struct("=HHIII")


def message(number: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(number, 9, 16 + len(payload), 0, 0) + payload


def shown(arrived: Sequence[Arrived]) -> list[tuple[int, bytes, int]]:
    return [(each.id, each.payload, len(each.fds)) for each in arrived]


def fds(count: int) -> list[CountingFd]:
    return [CountingFd() for _ in range(count)]


messages = st.lists(
    st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=MAX_SIZE - 16), st.integers(0, 3)),
    max_size=8,
)


@given(messages, st.integers())
def test_any_pieces_give_the_same_messages_with_their_fds(
    sent: list[tuple[int, bytes, int]], seed: int
) -> None:
    wire = Wire([Write(message(number, payload), count) for number, payload, count in sent])
    cuts = random.Random(seed)  # noqa: S311 - no secret
    intake, found = Intake(MAX_SIZE), []
    while (read := wire.read(cuts)) is not None:
        data, count = read
        found += intake.feed(data, fds(count))
        assert intake.unfinished <= MAX_SIZE
    assert shown(found) == sent
    assert not any(each.stray for each in found)
    assert intake.unfinished == 0


@given(messages, st.integers(1, 64))
def test_what_the_system_makes_of_writes_is_understood(
    sent: list[tuple[int, bytes, int]], room: int
) -> None:
    """The model of the wire is held to the real thing."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open("rb") as null:
        for number, payload, count in sent:
            socket.send_fds(theirs, [message(number, payload)], [null.fileno()] * count)
        theirs.shutdown(socket.SHUT_WR)
        intake, found = Intake(MAX_SIZE), []
        while True:
            data, received, _, _ = socket.recv_fds(ours, room, 16)
            for number in received:
                os.close(number)
            if not data:
                break
            found += intake.feed(data, fds(len(received)))
    assert shown(found) == sent


def test_fds_that_come_behind_a_messages_first_byte_are_closed_and_told() -> None:
    intake, late = Intake(MAX_SIZE), fds(2)
    whole = message(1, b"payload")
    assert intake.feed(whole[:5], fds(1)) == []
    assert intake.feed(whole[5:10], late[:1]) == []
    (arrived,) = intake.feed(whole[10:], late[1:])
    assert (len(arrived.fds), arrived.stray) == (1, 2)
    assert all(fd.closes == 1 for fd in late)
    assert not any(fd.closes for fd in arrived.fds)
    (following,) = intake.feed(message(2), ())
    assert (following.fds, following.stray) == ((), 0)


def test_fds_belong_to_the_last_message_that_begins_in_their_read() -> None:
    intake, own = Intake(MAX_SIZE), fds(1)
    first, second = intake.feed(message(1) + message(2, b"abc"), own)
    assert (first.fds, second.fds) == ((), tuple(own))
    other = fds(1)
    (third,) = intake.feed(message(3) + message(4)[:1], other)
    assert third.fds == ()
    (fourth,) = intake.feed(message(4)[1:], ())
    assert fourth.fds == tuple(other)


@pytest.mark.parametrize("size", [0, 15, MAX_SIZE + 1, (1 << 32) - 1])
@pytest.mark.parametrize("behind", [b"", b"more"])
def test_a_stream_ends_at_a_size_without_sense(size: int, behind: bytes) -> None:
    intake, own = Intake(MAX_SIZE), fds(1)
    bad = HEADER.pack(7, 9, size, 0, 0) + behind
    (good,) = intake.feed(message(1) + bad, own)
    broken = intake.take_broken()
    assert good.id == 1
    assert broken is not None
    arrived, error = broken
    assert (arrived.id, arrived.fds, error.value) == (7, tuple(own), size)
    assert intake.take_broken() is None


def test_no_more_is_held_than_one_message_and_one_read() -> None:
    intake = Intake(1 << 20)
    size = (1 << 20) - 16
    intake.feed(HEADER.pack(1, 9, 1 << 20, 0, 0), ())
    for _ in range(size // 4096 - 1):
        assert intake.feed(bytes(4096), ()) == []
    assert intake.unfinished < 1 << 20


def test_closing_drops_an_unfinished_message_with_its_fds() -> None:
    intake, own = Intake(MAX_SIZE), fds(2)
    intake.feed(message(1, b"payload")[:18], own)
    intake.close()
    assert [fd.closes for fd in own] == [1, 1]
    assert intake.unfinished == 0


def test_fds_without_a_byte_are_closed() -> None:
    own = fds(1)
    assert Intake(MAX_SIZE).feed(b"", own) == []
    assert own[0].closes == 1


def test_byte_by_byte_costs_no_more_than_the_bytes() -> None:
    intake = Intake(1 << 16)
    whole = message(1, bytes(60_000))
    copied = 0
    before = sys.getsizeof(intake._held)
    for at in range(len(whole) - 1):
        assert intake.feed(whole[at : at + 1], ()) == []
        now = sys.getsizeof(intake._held)
        copied += now != before  # the buffer moved: seldom, for it grows ahead
        before = now
    assert copied < 100
    assert len(intake.feed(whole[-1:], ())) == 1
