"""What libvfio-user's server answers, and what ours does: cases that need no device.

Each case names the reference server's answer (observed) and ours; where they differ, it says why.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from protocol import vfio_user as v
from vhostuser.testing import CountingFd


class Answer(enum.Enum):
    ACCEPTED = "accepted"
    REFUSED = "EINVAL, and the connection lives"
    CLOSED = "EINVAL, and the connection is closed"
    OUT_OF_STEP = "EINVAL, and the body is read as a header"


@dataclass(frozen=True)
class Case:
    what: str
    data: bytes
    reference: Answer
    ours: Answer
    why: str = ""
    fds: int = 0
    first: bool = False


def raw(command: int, layout: str, *values: Any, flags: int = 0, more: bytes = b"") -> bytes:
    payload = struct.pack("=" + layout, *values) + more
    return struct.pack("=HHIII", 7, command, 16 + len(payload), flags, 0) + payload


def version(text: bytes, major: int = 0, minor: int = 0) -> bytes:
    return raw(1, "HH", major, minor, more=text)


def sized(size: int) -> bytes:
    return struct.pack("=HHIII", 7, 9, size, 0, 0)


A = Answer
IN_STEP = "what a peer means by such a size cannot be known: the stream makes no sense any more"
CASES = (
    Case("VERSION without JSON", version(b""), A.ACCEPTED, A.ACCEPTED, first=True),
    Case(
        "JSON that is no object",
        version(b"[]\0"),
        A.ACCEPTED,
        A.CLOSED,
        "the specification has an object",
        first=True,
    ),
    Case("minor 9", version(b"", minor=9), A.ACCEPTED, A.ACCEPTED, first=True),
    Case("major 1", version(b"", major=1), A.CLOSED, A.CLOSED, first=True),
    Case("JSON without NUL", version(b"{}"), A.CLOSED, A.CLOSED, first=True),
    Case(
        "capabilities that are no object",
        version(b'{"capabilities": []}\0'),
        A.CLOSED,
        A.CLOSED,
        first=True,
    ),
    Case(
        "max_msg_fds that is a string",
        version(b'{"capabilities": {"max_msg_fds": "8"}}\0'),
        A.CLOSED,
        A.CLOSED,
        first=True,
    ),
    Case(
        "max_msg_fds above 1024",
        version(b'{"capabilities": {"max_msg_fds": 1025}}\0'),
        A.CLOSED,
        A.CLOSED,
        first=True,
    ),
    Case("VERSION with an fd", version(b""), A.CLOSED, A.CLOSED, fds=1, first=True),
    Case("a second VERSION", version(b""), A.REFUSED, A.REFUSED),
    Case("command 0", raw(0, "Q", 0), A.REFUSED, A.REFUSED),
    Case("command 14, removed", raw(14, "Q", 0), A.REFUSED, A.REFUSED),
    Case(
        "command 15, many writes",
        raw(15, "QQII8s", 1, 0, 0, 1, b"a"),
        A.REFUSED,
        A.ACCEPTED,
        "implemented here, where it was agreed on",
    ),
    Case("command 19", raw(19, "Q", 0), A.REFUSED, A.REFUSED),
    Case("command 99", raw(99, "Q", 0), A.REFUSED, A.REFUSED),
    Case("no payload", raw(9, ""), A.REFUSED, A.REFUSED),
    Case("size below 16", sized(15), A.REFUSED, A.CLOSED, IN_STEP),
    Case("size above 1 MiB and its heads", sized((1 << 20) + 49), A.REFUSED, A.CLOSED, IN_STEP),
    Case(
        "a reply to nothing",
        raw(9, "QII", 0, 0, 4, flags=1),
        A.OUT_OF_STEP,
        A.CLOSED,
        "a peer that answers what was not asked is not to be trusted; no reply is answered",
    ),
    Case("GET_INFO with argsz 8", raw(4, "IIII", 8, 0, 0, 0), A.REFUSED, A.REFUSED),
    Case("GET_INFO that is too short", raw(4, "II", 16, 0), A.REFUSED, A.REFUSED),
    Case("GET_INFO with argsz 64", raw(4, "IIII", 64, 0, 0, 0), A.ACCEPTED, A.ACCEPTED),
    Case("REGION_INFO with argsz 16", raw(5, "IIIIQQ", 16, 0, 0, 0, 0, 0), A.REFUSED, A.REFUSED),
    Case("READ that wraps", raw(9, "QII", (1 << 64) - 1, 0, 4), A.REFUSED, A.REFUSED),
    Case("WRITE whose count is not its data's", raw(10, "QIIH", 0, 0, 4, 0), A.REFUSED, A.REFUSED),
    Case("READ of nothing", raw(9, "QII", 0, 0, 0), A.ACCEPTED, A.ACCEPTED),
    Case("DMA_MAP of nothing", raw(2, "IIQQQ", 32, 3, 0, 0, 0), A.REFUSED, A.REFUSED),
    Case("DMA_MAP that wraps", raw(2, "IIQQQ", 32, 3, 0, (1 << 64) - 1, 2), A.REFUSED, A.REFUSED),
    Case("DMA_MAP with an unknown flag", raw(2, "IIQQQ", 32, 16, 0, 0, 1), A.REFUSED, A.REFUSED),
    Case(
        "DMA_MAP with two fds",
        raw(2, "IIQQQ", 32, 3, 0, 0, 1),
        A.ACCEPTED,
        A.REFUSED,
        "the specification has one",
        fds=2,
    ),
    Case("DMA_UNMAP of all, with a size", raw(3, "IIQQ", 24, 2, 0, 1), A.REFUSED, A.REFUSED),
    Case(
        "SET_IRQS with two kinds of data", raw(8, "IIIII", 20, 0x23, 2, 0, 1), A.REFUSED, A.REFUSED
    ),
)


def test_where_we_differ_from_the_reference_it_says_why() -> None:
    assert all(bool(case.why) == (case.ours is not case.reference) for case in CASES)
    assert sum(case.ours is not case.reference for case in CASES) == 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_case_is_answered_as_it_says(case: Case, agreed: v.Negotiated) -> None:
    server = v.Connection(v.Role.SERVER, negotiated=None if case.first else agreed)
    fds = [CountingFd() for _ in range(case.fds)]
    (event,) = server.receive(case.data, fds)
    assert server.closed == (case.ours is A.CLOSED)
    if case.ours is A.ACCEPTED:
        assert isinstance(event, v.Request)
        return
    assert isinstance(event, v.Rejected)
    assert event.fatal == (case.ours is A.CLOSED)
    assert all(fd.closes == 1 for fd in fds)
    answers = not case.data[8] & 1
    assert (event.answer is not None) == answers
    if event.answer is not None:
        assert v.Header.parse(event.answer.data).error == 22
