"""Real peers' recorded traffic decodes, re-encodes byte for byte, and is legal in both roles.

One very long message is kept in the recordings without its end: zeros stand for it.
"""

from __future__ import annotations

import random
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest
from fuzzing.vfio_user_traffic import CAPTURES, Wire, Write, messages_of, payload_of

from protocol import vfio_user as v
from vhostuser.testing import CountingFd

if TYPE_CHECKING:
    from pathlib import Path

every_file = pytest.mark.parametrize("file", CAPTURES, ids=lambda file: file.stem)
every_cut = pytest.mark.parametrize("seed", range(3))


def test_all_captures_are_here() -> None:
    assert [len(list(messages_of(file))) for file in CAPTURES] == [608, 1114, 206]


@every_file
def test_every_recorded_message_decodes_and_re_encodes_byte_for_byte(file: Path) -> None:
    seen = set()
    for _, write in messages_of(file):
        header, row, message = payload_of(write)
        part = row.reply if header.is_reply else row.request
        assert header.size == len(write.data)
        assert header.build() + part.build(message) == write.data
        seen.add(row.name)
    assert len(seen) >= 10


def test_the_recordings_have_nearly_all_commands() -> None:
    seen = {
        v.Header.parse(write.data).command for file in CAPTURES for _, write in messages_of(file)
    }
    assert seen == set(v.COMMANDS) - {6, 15, 18}


class End:
    """One end of a recorded conversation, played by a connection.

    Args:
        role: Which end.
        seed: Of how what the other end wrote is cut into reads.
    """

    def __init__(self, role: v.Role, seed: int) -> None:
        self.connection = v.Connection(role)
        self.cuts = random.Random(seed)  # noqa: S311 - no secret
        self.open: list[v.Request] = []
        self.given: list[CountingFd] = []

    def take(self, writes: list[Write]) -> None:
        """Take what the other end wrote; each message comes out as it was recorded."""
        wire = Wire(writes)
        events: list[v.Event] = []
        while (read := wire.read(self.cuts)) is not None:
            data, count = read
            fds = [CountingFd() for _ in range(count)]
            self.given += fds
            events += self.connection.receive(data, fds)
        for event, write in zip(events, writes, strict=True):
            header, _, message = payload_of(write)
            assert not isinstance(event, v.Rejected)
            assert (event.id, event.message) == (header.id, message)
            assert len(event.fds) == write.fds
            if isinstance(event, v.Request):
                assert event.no_reply == header.no_reply
                self.open.append(event)
            else:
                assert event.error == (header.error if header.is_error else None)

    def say(self, write: Write) -> None:
        """Say what this end said in the recording."""
        header, row, message = payload_of(write)
        fds = [CountingFd() for _ in range(write.fds)]
        outgoing: Any
        if not header.is_reply:
            assert message is not None
            # Ids are the sender's to choose, and not all count from 0.
            self.connection._outstanding._next = header.id
            outgoing = self.connection.request(message, fds=fds, no_reply=header.no_reply)
        else:
            request = next(each for each in self.open if (each.id, each.row) == (header.id, row))
            self.open.remove(request)
            if header.is_error:
                outgoing = self.connection.refuse(request, header.error)
            else:
                outgoing = self.connection.reply(request, message, fds=fds)
        assert outgoing.data == write.data
        assert outgoing.fds == tuple(fds)
        assert outgoing.id == header.id


@every_file
@every_cut
@pytest.mark.parametrize("way", ["c2s", "s2c"], ids=["client", "server"])
def test_each_end_takes_the_other_in_any_pieces_and_says_what_was_recorded(
    file: Path, seed: int, way: str
) -> None:
    end = End(v.Role.CLIENT if way == "c2s" else v.Role.SERVER, seed)
    for sender, turn in groupby(messages_of(file), key=lambda each: each[0]):
        writes = [write for _, write in turn]
        if sender == way:
            for write in writes:
                end.say(write)
        else:
            end.take(writes)
    assert not any(fd.closes for fd in end.given)
    assert end.connection.pending == 0
    assert end.connection.receive_eof() is None
    assert all(request.no_reply for request in end.open)


LOGS = v.MigrationCapability(pgsize=4096)


@pytest.mark.parametrize(
    ("name", "of_client", "of_server"),
    [
        (
            "vfio-user-qemu11-gpio-memfd",
            v.Negotiated(minor=0, max_msg_fds=8, migration=LOGS),
            v.Negotiated(minor=0, max_msg_fds=16, migration=LOGS),
        ),
        (
            "vfio-user-qemu11-pyserver-virtio-rng-memfd",
            v.Negotiated(minor=0, max_msg_fds=8),
            v.Negotiated(minor=0, max_msg_fds=16),
        ),
        (
            "vfio-user-sample-client-server-src",
            v.Negotiated(minor=2, max_msg_fds=8, migration=LOGS),
            v.Negotiated(minor=2, max_msg_fds=32, max_data_xfer_size=1024, migration=LOGS),
        ),
    ],
)
def test_what_the_recorded_peers_agreed_on(
    name: str, of_client: v.Negotiated, of_server: v.Negotiated
) -> None:
    (file,) = (file for file in CAPTURES if file.stem == name)
    (_, proposal), (_, answer), *_ = messages_of(file)
    client, server = v.Connection(v.Role.CLIENT), v.Connection(v.Role.SERVER)
    client._outstanding._next = v.Header.parse(proposal.data).id
    client.request(payload_of(proposal)[2] or v.Version())
    client.receive(answer.data)
    (request,) = server.receive(proposal.data)
    assert isinstance(request, v.Request)
    server.reply(request, payload_of(answer)[2])
    assert (client.negotiated, server.negotiated) == (of_client, of_server)
