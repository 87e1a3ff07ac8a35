"""Frames: the header, hostile headers, and messages that arrive in pieces."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures
from vhostuser.testing import CountingFd


def header(number: int, size: int = 0, flags: int = 1) -> bytes:
    return b"".join(part.to_bytes(4, sys.byteorder) for part in (number, flags, size))


def back_end(**features: v.ProtocolFeatures) -> v.Connection:
    negotiated = v.Negotiated(VirtioFeatures.VERSION_1, **features)
    return v.Connection(v.Role.BACK_END, negotiated=negotiated)


ACKS = {"protocol_features": v.ProtocolFeatures.REPLY_ACK}


@given(
    number=st.integers(0, 0xFFFF_FFFF),
    size=st.integers(0, 0xFFFF_FFFF),
    flags=st.sampled_from([1, 5, 9, 13]),
)
def test_a_header_survives_the_wire(number: int, size: int, flags: int) -> None:
    parsed = v.Header(number=number, flags=flags, size=size)
    assert v.Header.parse(parsed.build()) == parsed
    assert parsed.build() == header(number, size, flags)
    assert parsed.is_reply is bool(flags & 4)
    assert parsed.need_reply is bool(flags & 8)


FATAL: list[tuple[str, bytes, str, int, str]] = [
    ("version-0", header(1, flags=8), "flags", 8, "version"),
    ("version-2", header(1, flags=2 | 8), "flags", 10, "version"),
    ("version-3", header(1, flags=3 | 8), "flags", 11, "version"),
    ("reply-bit", header(1, flags=5 | 8), "flags", 13, "reply bit"),
    ("reserved-bit-4", header(1, flags=0x11 | 8), "flags", 0x19, "reserved"),
    ("reserved-bit-31", header(1, flags=0x8000_0009), "flags", 0x8000_0009, "reserved"),
    ("size-4097", header(3, 4097, 9), "size", 4097, "at most 4096"),
    ("size-max", header(3, 0xFFFF_FFFF, 9), "size", 0xFFFF_FFFF, "at most 4096"),
]


@pytest.mark.parametrize(
    ("data", "field", "value", "rule"), [case[1:] for case in FATAL], ids=[c[0] for c in FATAL]
)
def test_a_frame_that_cannot_be_trusted_closes_the_connection(
    data: bytes, field: str, value: int, rule: str
) -> None:
    connection = back_end(**ACKS)
    fd = CountingFd()
    with pytest.raises(v.RemoteProtocolError, match=rule) as caught:
        connection.receive(data, (fd,))
    assert (caught.value.field, caught.value.value) == (field, value)
    assert caught.value.message in ("header", "GET_FEATURES", "SET_OWNER")
    assert caught.value.section
    assert caught.value.answer is None
    assert connection.state is v.ConnectionState.CLOSED
    assert connection.wanted == 0
    assert fd.closes == 1


@pytest.mark.parametrize("number", [0, 46, 255, 65535, 0xFFFF_FFFF])
def test_an_unknown_number_is_consumed_and_nacked_if_asked(number: int) -> None:
    connection = back_end(**ACKS)
    fd = CountingFd()
    assert connection.receive(header(number, 8, flags=9), (fd,)) is None
    assert connection.wanted == 8
    with pytest.raises(v.RemoteProtocolError, match="current message table") as caught:
        connection.receive(bytes(8))
    assert caught.value.message == f"number-{number}"
    assert caught.value.answer is not None
    assert caught.value.answer.data == header(number, 8, flags=5) + (1).to_bytes(8, sys.byteorder)
    assert connection.wanted == v.HEADER_SIZE
    assert fd.closes == 1


def test_an_unknown_number_without_payload_is_nacked_at_once() -> None:
    connection = back_end(**ACKS)
    with pytest.raises(v.RemoteProtocolError, match="field=request value=46") as caught:
        connection.receive(header(46, flags=9))
    assert caught.value.answer is not None


@pytest.mark.parametrize("features", [{}, ACKS], ids=["no-reply-ack", "not-asked"])
def test_an_unknown_number_closes_the_connection_if_no_answer_is_possible(
    features: dict[str, Any],
) -> None:
    connection = back_end(**features)
    flags = 1 if features else 9
    with pytest.raises(v.RemoteProtocolError) as caught:
        connection.receive(header(46, 8, flags=flags))
    assert caught.value.answer is None
    assert connection.state is v.ConnectionState.CLOSED


def test_fds_with_the_payload_close_the_connection() -> None:
    connection = back_end(**ACKS)
    first, second = CountingFd(), CountingFd()
    assert connection.receive(header(12, 8, flags=9), (first,)) is None
    with pytest.raises(v.RemoteProtocolError, match="come with the header") as caught:
        connection.receive(bytes(8), (second,))
    assert caught.value.answer is None
    assert caught.value.message == "SET_VRING_KICK"
    assert (first.closes, second.closes) == (1, 1)
    assert connection.state is v.ConnectionState.CLOSED


@pytest.mark.parametrize("size", [0, 1, 11, 13, 24])
def test_feeding_another_number_of_bytes_is_our_own_mistake(size: int) -> None:
    connection = back_end()
    fd = CountingFd()
    with pytest.raises(v.LocalProtocolError, match="exactly the 12 bytes wanted"):
        connection.receive(bytes(size), (fd,))
    assert connection.wanted == v.HEADER_SIZE
    assert fd.closes == 0


def test_nothing_can_be_fed_while_a_request_is_carried_out_or_after_the_end() -> None:
    connection = back_end()
    request = connection.receive(header(3))
    assert isinstance(request, v.Request)
    with pytest.raises(v.LocalProtocolError, match="state busy"):
        connection.receive(b"")
    connection.accept(request)
    connection.close()
    with pytest.raises(v.LocalProtocolError, match="state closed"):
        connection.receive(header(3))


@pytest.mark.parametrize("held", range(1, 12))
def test_an_end_in_the_middle_of_a_header_is_an_error(held: int) -> None:
    connection = back_end()
    with pytest.raises(v.RemoteProtocolError, match="12 bytes wanted") as caught:
        connection.receive_eof(held)
    assert caught.value.value == held
    assert connection.state is v.ConnectionState.CLOSED


@pytest.mark.parametrize("held", [0, 7])
def test_an_end_in_the_middle_of_a_payload_is_an_error_and_closes_the_fds(held: int) -> None:
    connection = back_end()
    fd = CountingFd()
    connection.receive(header(12, 8), (fd,))
    with pytest.raises(v.RemoteProtocolError, match="8 bytes wanted") as caught:
        connection.receive_eof(held)
    assert caught.value.message == "SET_VRING_KICK"
    assert caught.value.answer is None
    assert fd.closes == 1
    assert connection.wanted == 0


def test_an_end_between_two_messages_is_none() -> None:
    connection = back_end()
    connection.receive_eof()
    connection.receive_eof()
    assert connection.state is v.ConnectionState.CLOSED


def test_an_end_while_a_request_is_carried_out_leaves_nothing_to_send() -> None:
    connection = back_end()
    request = connection.receive(header(1))
    assert isinstance(request, v.Request)
    connection.receive_eof()
    assert connection.accept(request, v.U64(value=1)) is None
    assert connection.wanted == 0
    with pytest.raises(v.LocalProtocolError, match="answer each request once"):
        connection.refuse(request, "too late")


def test_a_refusal_after_the_end_sends_nothing() -> None:
    connection = back_end(**ACKS)
    request = connection.receive(header(3, flags=9))
    assert isinstance(request, v.Request)
    connection.close()
    assert connection.refuse(request, "gone") is None


MESSAGES = [
    (header(3), 0),
    (header(2, 8) + (0x1_4000_0000).to_bytes(8, sys.byteorder), 0),
    (header(13, 8) + (3).to_bytes(8, sys.byteorder), 1),
    (header(13, 8) + (0x103).to_bytes(8, sys.byteorder), 0),
    (header(8, 8) + (1).to_bytes(4, sys.byteorder) + (64).to_bytes(4, sys.byteorder), 0),
    (header(12, 8) + (1).to_bytes(8, sys.byteorder), 1),
    (header(18, 8) + (1).to_bytes(4, sys.byteorder) + (1).to_bytes(4, sys.byteorder), 0),
    (header(8, 8) + (2).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder), 0),
]


class Shell:
    """Reads exactly what is wanted, from pieces, as the real ones do from a socket."""

    def __init__(self) -> None:
        self.connection = back_end()
        self.held = b""
        self.fds: list[CountingFd] = []
        self.log: list[str] = []

    def feed(self, piece: bytes, fds: list[CountingFd]) -> None:
        self.fds += fds
        while piece and self.connection.wanted:
            take = self.connection.wanted - len(self.held)
            self.held, piece = self.held + piece[:take], piece[take:]
            if len(self.held) == self.connection.wanted:
                self.step()

    def step(self) -> None:
        data, self.held = self.held, b""
        fds, self.fds = tuple(self.fds), []
        try:
            received = self.connection.receive(data, fds)
        except v.RemoteProtocolError as error:
            self.log.append(str(error))
            return
        if isinstance(received, v.Request):
            self.log.append(f"{v.describe(received.message)} fds={len(received.fds)}")
            self.connection.accept(received)


def run(pieces: list[tuple[bytes, int]]) -> tuple[list[str], list[CountingFd]]:
    shell = Shell()
    made: list[CountingFd] = []
    for piece, count in pieces:
        fds = [CountingFd() for _ in range(count)]
        made += fds
        shell.feed(piece, fds)
    return shell.log, made


WHOLE = [
    "SET_OWNER fds=0",
    "SET_FEATURES features=PROTOCOL_FEATURES|VERSION_1 fds=0",
    "SET_VRING_CALL index=3 no_fd=false fds=1",
    "SET_VRING_CALL index=3 no_fd=true fds=0",
    "SET_VRING_NUM index=1 num=64 fds=0",
    "SET_VRING_KICK index=1 no_fd=false fds=1",
    "SET_VRING_ENABLE index=1 enable=1 fds=0",
    (
        'message=SET_VRING_NUM field=num value=0 rule="a ring has 1 to 32768 entries" '
        'section="Front-end message types, VHOST_USER_SET_VRING_NUM"'
    ),
]


def test_whole_messages_are_taken_in_order() -> None:
    assert run(MESSAGES)[0] == WHOLE


def test_every_byte_alone_gives_the_same() -> None:
    pieces = [
        (data[at : at + 1], fds if at == 0 else 0)
        for data, fds in MESSAGES
        for at in range(len(data))
    ]
    assert run(pieces)[0] == WHOLE


@given(cuts=st.lists(st.integers(1, 19), max_size=len(MESSAGES)))
def test_every_split_gives_the_same(cuts: list[int]) -> None:
    pieces = []
    for at, (data, fds) in enumerate(MESSAGES):
        cut = cuts[at] if at < len(cuts) else 0
        pieces += [(data[:cut], fds), (data[cut:], 0)] if cut else [(data, fds)]
    log, made = run(pieces)
    assert log == WHOLE
    assert not any(fd.closes for fd in made)
