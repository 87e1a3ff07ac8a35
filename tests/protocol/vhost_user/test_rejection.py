"""Invariant: a rejected message changes nothing, closes its fds, and raises RemoteProtocolError.

A rule-based machine drives a back-end's connection with legal messages, mutated ones and noise,
and compares a snapshot of everything that can change before and after each rejection. Every fd is
closed exactly once or handed over exactly once.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures
from vhostuser.testing import CountingFd

ROWS = list(v.CURRENT.rows(v.Channel.FRONT_END))
WORDS = st.sampled_from(
    [0, 1, 2, 3, 8, 255, 256, 4096, 32768, 32769, 0xFFFF_FFFF, (1 << 64) - 1, (1 << 64) - 4096]
)


@st.composite
def plausible_payloads(draw: st.DrawFn, row: v.MessageRow) -> bytes:
    """Return a payload of a legal size with values from the interesting ones, or noise."""
    size = row.payload.min_size
    if row.payload.max_size != size:
        size = draw(st.sampled_from([size, size + 1, size + 32, row.payload.max_size]))
    if draw(st.booleans()):
        return draw(st.binary(min_size=size, max_size=size))
    width = draw(st.sampled_from([4, 8]))
    words = b"".join(
        (draw(WORDS) % (1 << (8 * width))).to_bytes(width, "little")
        for _ in range(min(size // width + 1, 8))
    )
    return (words + bytes(size))[:size]


def is_open(machine: Rejections) -> bool:
    """Return whether anything can be sent."""
    return machine.connection.state is not v.ConnectionState.CLOSED


class Rejections(RuleBasedStateMachine):
    """A back-end's connection and the fds that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = v.Connection(v.Role.BACK_END)
        self.protocol_features = v.ProtocolFeatures(0)
        self.kept: list[CountingFd] = []
        self.dropped: list[CountingFd] = []

    @initialize(features=st.booleans(), reply_ack=st.booleans())
    def negotiate(self, features: bool, reply_ack: bool) -> None:
        everything = (1 << 64) - 1
        chosen = everything if features else 0
        mask = int(v.ProtocolFeatures.REPLY_ACK)
        chosen = chosen | mask if reply_ack else chosen & ~mask
        self.protocol_features = v.ProtocolFeatures(chosen)
        self.reconnect()

    def reconnect(self) -> None:
        """Begin anew, with as many features as the first time."""
        self.connection = v.Connection(
            v.Role.BACK_END,
            limits=v.Limits(queues=4),
            negotiated=v.Negotiated(VirtioFeatures((1 << 64) - 1), self.protocol_features),
        )

    def snapshot(self) -> tuple[Any, ...]:
        connection = self.connection
        return (
            connection.negotiated.features,
            connection.negotiated.protocol_features,
            [connection.ring(index) for index in range(5)],
            connection.run,
            connection.postcopy,
            connection.pending,
        )

    def send(self, data: bytes, count: int, accept: bool) -> None:
        """Feed one message with its fds, as far as it is wanted."""
        connection = self.connection
        before = self.snapshot()
        fds = tuple(CountingFd() for _ in range(count))
        try:
            received = connection.receive(data[:12], fds)
            if received is None:
                rest = data[12 : 12 + connection.wanted]
                received = connection.receive(rest.ljust(connection.wanted, b"\0"))
        except v.RemoteProtocolError as error:
            self.rejected(error, before, fds)
            return
        assert isinstance(received, v.Request)
        assert set(received.fds) <= set(fds)
        self.kept += [fd for fd in fds if fd in received.fds]
        self.dropped += [fd for fd in fds if fd not in received.fds]
        assert connection.wanted == 0
        assert self.snapshot() == before
        self.answer(received, before, accept=accept)

    def rejected(
        self, error: v.RemoteProtocolError, before: tuple[Any, ...], fds: tuple[CountingFd, ...]
    ) -> None:
        self.dropped += fds
        assert self.snapshot() == before
        assert error.rule
        assert error.field
        assert error.section
        if error.answer is None:
            assert self.connection.state is v.ConnectionState.CLOSED
            assert self.connection.wanted == 0
        else:
            assert v.Header.parse(error.answer.data[:12]).flags == 5
            assert self.connection.wanted == v.HEADER_SIZE

    def answer(self, request: v.Request, before: tuple[Any, ...], *, accept: bool) -> None:
        connection = self.connection
        has_own = request.row.reply.kind not in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY)
        if has_own or connection.postcopy is v.Postcopy.LISTENING or not accept:
            outgoing = connection.refuse(request, "chosen by the test")
            assert self.snapshot() == before
            assert (outgoing is None) is (connection.state is v.ConnectionState.CLOSED)
            return
        outgoing = connection.accept(request)
        assert (outgoing is not None) is request.ack
        assert connection.wanted == v.HEADER_SIZE

    @precondition(is_open)
    @rule(
        row=st.sampled_from(ROWS),
        data=st.data(),
        flags=st.sampled_from([1, 9]),
        fds=st.integers(0, 3),
        accept=st.booleans(),
    )
    def plausible(
        self, row: v.MessageRow, data: st.DataObject, flags: int, fds: int, accept: bool
    ) -> None:
        payload = data.draw(plausible_payloads(row))
        header = v.Header(number=row.number, flags=flags, size=len(payload)).build()
        self.send(header + payload, fds, accept)

    @precondition(is_open)
    @rule(index=st.integers(0, 4), number=st.sampled_from([12, 18, 11, 8, 10]))
    def legal_ring_message(self, index: int, number: int) -> None:
        low = index | (0x100 if number == 12 else 0)
        payload = low.to_bytes(4, "little") + (0 if number in (11, 12) else 1).to_bytes(4, "little")
        self.send(v.Header(number=number, flags=9, size=8).build() + payload, 0, accept=True)

    @rule(index=st.integers(0, 3))
    def fault(self, index: int) -> None:
        self.connection.ring_broken(index)

    @precondition(is_open)
    @rule(header=st.binary(min_size=12, max_size=12), fds=st.integers(0, 2))
    def noise(self, header: bytes, fds: int) -> None:
        self.send(header, fds, accept=True)

    @precondition(lambda self: self.connection.state is v.ConnectionState.CLOSED)
    @rule()
    def begin_anew(self) -> None:
        self.reconnect()

    @invariant()
    def each_fd_is_closed_once_or_handed_over(self) -> None:
        assert all(fd.closes == 0 for fd in self.kept)
        assert all(fd.closes == 1 for fd in self.dropped)

    @invariant()
    def what_is_wanted_is_bounded(self) -> None:
        assert self.connection.wanted in (0, v.HEADER_SIZE)


Rejections.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRejections = Rejections.TestCase
