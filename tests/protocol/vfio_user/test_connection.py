"""Two ends talking: requests cross, answers find them, fds change hands once."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.addresses import Iova
from vhostuser.testing import CountingFd

READ = v.RegionRead(offset=0, region=0, count=4)
DATA = v.RegionReadReply(offset=0, region=0, data=b"data")


def only(events: list[v.Event]) -> Any:
    (event,) = events
    return event


def handshake(
    proposal: v.Version, answer: v.VersionReply, fds: tuple[CountingFd, ...] = ()
) -> tuple[v.Connection, v.Connection, v.Reply]:
    client, server = v.Connection(v.Role.CLIENT), v.Connection(v.Role.SERVER)
    request = only(server.receive(client.request(proposal).data))
    outgoing = server.reply(request, answer, fds=fds)
    assert outgoing is not None
    reply = only(client.receive(outgoing.data, fds))
    assert isinstance(reply, v.Reply)
    return client, server, reply


def test_the_two_ends_agree_on_a_version() -> None:
    proposal = v.Version.offering(v.Capabilities(max_msg_fds=4, write_multiple=True), minor=2)
    answer = v.VersionReply.offering(
        v.Capabilities(max_msg_fds=8, max_data_xfer_size=4096, max_dma_maps=16, pgsizes=1 << 16),
        minor=1,
    )
    client, server, reply = handshake(proposal, answer)
    assert reply.message == answer
    assert client.negotiated == v.Negotiated(
        minor=1, max_msg_fds=8, max_data_xfer_size=4096, max_dma_maps=16, pgsizes=1 << 16
    )
    assert server.negotiated == v.Negotiated(
        minor=1, max_msg_fds=4, max_dma_maps=16, pgsizes=1 << 16
    )
    assert repr(client) == "<Connection client, agreed>"


def test_without_capabilities_the_defaults_hold() -> None:
    client, server, _ = handshake(v.Version(minor=0), v.VersionReply(minor=0))
    assert client.negotiated == server.negotiated == v.Negotiated(minor=0)
    assert client.negotiated is not None
    assert client.negotiated.max_msg_fds == 1
    assert client.negotiated.max_data_xfer_size == 1 << 20
    assert client.negotiated.max_dma_maps == 65535
    assert client.negotiated.pgsizes == 4096


def test_our_own_limit_holds_whatever_the_peer_takes() -> None:
    client = v.Connection(v.Role.CLIENT, limits=v.Limits(max_data_xfer_size=512))
    server = v.Connection(v.Role.SERVER)
    answer = server.reply(only(server.receive(client.request(v.Version()).data)), v.VersionReply())
    client.receive(answer.data)
    assert client.negotiated.max_data_xfer_size == 512
    with pytest.raises(v.LocalProtocolError, match="at most 512 bytes"):
        client.request(v.RegionRead(offset=0, region=0, count=513))


WANTS_TWIN = v.Version.offering(v.Capabilities(twin_socket=v.TwinSocket(supported=True)))
GIVES_TWIN = v.VersionReply.offering(
    v.Capabilities(twin_socket=v.TwinSocket(supported=True, fd_index=0))
)


def test_a_twin_socket_is_given_to_a_client_that_asks() -> None:
    fd = CountingFd()
    client, server, reply = handshake(WANTS_TWIN, GIVES_TWIN, (fd,))
    assert client.negotiated is not None
    assert server.negotiated is not None
    assert client.negotiated.twin_socket == server.negotiated.twin_socket == 0
    assert reply.fds == (fd,)
    assert fd.closes == 0
    # The connection on the twin socket goes on from there.
    twin = v.Connection(v.Role.SERVER, negotiated=server.negotiated)
    other = v.Connection(v.Role.CLIENT, negotiated=client.negotiated)
    asked = twin.request(v.DmaRead(address=Iova(0), count=4))
    assert isinstance(only(other.receive(asked.data)), v.Request)


@pytest.mark.parametrize(
    ("proposal", "answer", "fds", "field"),
    [
        (v.Version(minor=0), v.VersionReply(minor=1), 0, "minor"),
        (v.Version(), GIVES_TWIN, 1, "twin_socket"),
        (WANTS_TWIN, GIVES_TWIN, 0, "fds"),
        (WANTS_TWIN, v.VersionReply(), 1, "fds"),
        (
            WANTS_TWIN,
            v.VersionReply.offering(
                v.Capabilities(twin_socket=v.TwinSocket(supported=True, fd_index=1))
            ),
            1,
            "fd_index",
        ),
    ],
)
def test_an_answer_that_does_not_fit_the_proposal_is_neither_sent_nor_taken(
    proposal: v.Version, answer: v.VersionReply, fds: int, field: str
) -> None:
    client, server = v.Connection(v.Role.CLIENT), v.Connection(v.Role.SERVER)
    request = only(server.receive(client.request(proposal).data))
    own = tuple(CountingFd() for _ in range(fds))
    with pytest.raises(v.LocalProtocolError) as caught:
        server.reply(request, answer, fds=own)
    assert caught.value.field == field
    assert server.negotiated is None
    assert not any(fd.closes for fd in own)
    part = v.COMMANDS[1].reply
    payload = part.build(answer)
    header = v.Header(id=0, command=1, size=16 + len(payload), flags=1)
    rejected = only(client.receive(header.build() + payload, own))
    assert isinstance(rejected, v.Rejected)
    assert (rejected.fatal, rejected.answer, rejected.error.field) == (True, None, field)
    assert client.closed
    assert [fd.closes for fd in own] == [1] * fds
    # Nothing has changed on our side: another answer can be given.
    assert server.reply(request, v.VersionReply(minor=0)) is not None


def test_each_command_and_its_answer_reach_the_other_end(row: v.CommandRow, goldens: Any) -> None:
    if row.name == "VERSION":
        return
    agreed = v.Negotiated(minor=0, max_msg_fds=16, write_multiple=True)
    asker = v.Connection(row.sender, negotiated=agreed)
    other = v.Connection(row.sender.other, negotiated=agreed)
    case = goldens[row.request.message][0]
    fds = tuple(CountingFd() for _ in range(case.fds))
    sent = asker.request(case.message, fds=fds)
    assert sent.data[16:] == case.payload
    assert sent.fds == fds
    assert asker.pending == 1
    request = only(other.receive(sent.data, fds))
    assert (request.message, request.fds, request.row) == (case.message, fds, row)
    assert request.size == len(sent.data)
    answer, reply_fds = answer_for(row, case.message, goldens)
    back = other.reply(request, answer, fds=reply_fds)
    assert back is not None
    assert back.fds == reply_fds
    reply = only(asker.receive(back.data, back.fds))
    assert (reply.id, reply.request_message) == (sent.id, case.message)
    assert (reply.message, reply.error, reply.fds) == (answer, None, reply_fds)
    assert asker.pending == 0
    assert not any(fd.closes for fd in (*fds, *reply_fds))


def answer_for(
    row: v.CommandRow, request: v.Message, goldens: Any
) -> tuple[v.Message | None, tuple[CountingFd, ...]]:
    if row.reply.message is None:
        return None, ()
    agree = {
        v.DmaReadReply: lambda: v.DmaReadReply(address=request.address, data=bytes(request.count)),
        v.RegionInfo: lambda: v.RegionInfo(index=request.index, size=1),
    }
    if row.reply.message in agree:
        return agree[row.reply.message](), ()
    case = goldens[row.reply.message][0]
    return case.message, tuple(CountingFd() for _ in range(case.fds))


def test_a_command_can_fail(client: v.Connection, server: v.Connection) -> None:
    request = only(server.receive(client.request(READ).data))
    outgoing = server.refuse(request, errno.ENOENT)
    assert outgoing is not None
    assert outgoing.data.hex() == "00000900100000002100000002000000"
    reply = only(client.receive(outgoing.data))
    assert (reply.error, reply.message, reply.request_message) == (errno.ENOENT, None, READ)
    assert client.pending == 0


def test_an_error_may_come_without_its_type_with_a_body_or_without_a_number(
    client: v.Connection,
) -> None:
    for flags, error, body in ((0x20, 5, b""), (0x21, 22, b"nothing"), (0x21, 0, b"")):
        sent = client.request(READ)
        header = v.Header(id=sent.id, command=9, size=16 + len(body), flags=flags, error=error)
        reply = only(client.receive(header.build() + body))
        assert (reply.id, reply.error, reply.message) == (sent.id, error, None)


def test_a_posted_request_gets_no_answer(client: v.Connection, server: v.Connection) -> None:
    write = v.RegionWrite(offset=0, region=0, data=b"\1")
    sent = client.request(write, no_reply=True)
    assert v.Header.parse(sent.data).flags == 0x10
    assert client.pending == 0
    request = only(server.receive(sent.data))
    assert request.no_reply
    assert server.reply(request, v.RegionWriteReply(offset=0, region=0, count=1)) is None
    assert server.refuse(request, errno.EIO) is None


def test_answers_to_posted_requests_are_dropped(client: v.Connection) -> None:
    """Some servers answer all the same."""
    write = v.RegionWrite(offset=0, region=0, data=b"\1")
    posted = [client.request(write, no_reply=True).id for _ in range(3)]
    for number in posted:
        header = v.Header(id=number, command=10, size=32, flags=1)
        assert client.receive(header.build() + bytes(16)) == []
    assert not client.closed
    rejected = only(client.receive(v.Header(id=posted[0], command=10, size=16, flags=1).build()))
    assert rejected.fatal


def test_a_late_answer_is_dropped_with_its_body_and_its_fds(
    client: v.Connection, server: v.Connection
) -> None:
    info = v.DeviceGetRegionInfo(index=0, argsz=4096)
    slow, quick = client.request(info), client.request(READ)
    client.forget(slow.id)
    assert client.pending == 1
    first, second = server.receive(slow.data + quick.data)
    assert isinstance(first, v.Request)
    assert isinstance(second, v.Request)
    fd = CountingFd()
    late = server.reply(first, v.RegionInfo(index=0, size=1, flags=7), fds=(fd,))
    fine = server.reply(second, DATA)
    assert late is not None
    assert fine is not None
    assert client.receive(late.data, (fd,)) == []
    assert fd.closes == 1
    assert only(client.receive(fine.data)).message == DATA
    client.forget(12345)
    assert not client.closed


def test_an_id_is_not_given_out_while_its_answer_may_come(client: v.Connection) -> None:
    forgotten = client.request(READ)
    client.forget(forgotten.id)
    kept = client.request(READ)
    write = v.RegionWrite(offset=0, region=0, data=b"\1")
    ids = {client.request(write, no_reply=True).id for _ in range(1 << 16)}
    assert len(ids) == (1 << 16) - 2
    assert not ids & {forgotten.id, kept.id}
    answer = v.Header(id=kept.id, command=9, size=36, flags=1).build()
    reply = only(client.receive(answer + v.COMMANDS[9].reply.build(DATA)))
    assert reply.id == kept.id


def test_the_number_of_requests_under_way_is_bounded() -> None:
    limits = v.Limits(max_pending=3)
    client = v.Connection(v.Role.CLIENT, limits=limits, negotiated=v.Negotiated(minor=0))
    client.forget(client.request(READ).id)
    client.request(READ)
    client.request(READ)
    with pytest.raises(v.LocalProtocolError, match="at most 3 requests wait"):
        client.request(READ)
    client.request(v.RegionWrite(offset=0, region=0, data=b"\1"), no_reply=True)


def test_requests_of_both_sides_cross(client: v.Connection, server: v.Connection) -> None:
    """The server asks for memory in the middle of an access, and goes on answering."""
    access = only(server.receive(client.request(READ).data))
    dma = server.request(v.DmaRead(address=Iova(0x1000), count=4))
    other = only(server.receive(client.request(v.DeviceGetIrqInfo(index=2)).data))
    answered = server.reply(other, v.IrqInfo(index=2, count=1))
    assert only(client.receive(answered.data)).message.count == 1
    asked = only(client.receive(dma.data))
    back = client.reply(asked, v.DmaReadReply(address=Iova(0x1000), data=b"data"))
    assert only(server.receive(back.data)).message.data == b"data"
    assert only(client.receive(server.reply(access, DATA).data)).message == DATA


def test_many_messages_at_once_come_out_in_order(
    client: v.Connection, server: v.Connection
) -> None:
    writes = [v.RegionWrite(offset=4 * at, region=0, data=b"\1") for at in range(100)]
    sent = b"".join(client.request(write, no_reply=True).data for write in writes)
    sent += client.request(READ).data
    events = server.receive(sent)
    assert [each.message for each in events] == [*writes, READ]


@pytest.mark.parametrize(
    ("asked", "given", "cut"),
    [
        (32, 1, True),
        (63, 1, True),
        (64, 1, False),
        (4096, 1, False),
    ],
)
def test_a_reply_is_cut_to_the_room_that_there_is_and_can_be_had_whole(
    client: v.Connection, server: v.Connection, asked: int, given: int, cut: bool
) -> None:
    areas = v.SparseMmap((v.MmapArea(0, 0x1000),))
    info = v.RegionInfo.describing(2, size=0x1000, flags=7, capabilities=(areas,))
    fd = CountingFd()
    request = only(server.receive(client.request(v.DeviceGetRegionInfo(index=2, argsz=asked)).data))
    outgoing = server.reply(request, info, fds=(fd,))
    assert outgoing is not None
    assert len(outgoing.fds) == (0 if cut else given)
    reply = only(client.receive(outgoing.data, outgoing.fds))
    assert reply.message.complete is not cut
    assert reply.message.needed == 64
    assert reply.message.capabilities == (() if cut else (areas,))
    assert fd.closes == 0


def test_io_fds_that_are_cut_off_come_without_fds(
    client: v.Connection, server: v.Connection
) -> None:
    entries = (v.IoFd(offset=0, size=2, fd_index=0),)
    whole = v.RegionIoFds(index=2, entries=entries)
    request = only(server.receive(client.request(v.DeviceGetRegionIoFds(index=2)).data))
    outgoing = server.reply(request, whole, fds=(CountingFd(),))
    assert outgoing is not None
    assert outgoing.fds == ()
    reply = only(client.receive(outgoing.data))
    assert (reply.message.complete, reply.message.needed, reply.message.count) == (False, 56, 1)


def test_a_connection_that_was_closed_takes_and_says_nothing(
    client: v.Connection, server: v.Connection
) -> None:
    sent = client.request(READ)
    request = only(server.receive(sent.data))
    half, fd = CountingFd(), CountingFd()
    server.receive(sent.data[:20], (half,))
    server.close()
    assert half.closes == 1
    assert server.receive(sent.data, (fd,)) == []
    assert fd.closes == 1
    assert server.reply(request, DATA) is None
    assert server.refuse(request, errno.EIO) is None
    assert server.receive_eof() is None
    assert repr(server) == "<Connection server, closed>"
    client.close()
    assert client.pending == 0
    with pytest.raises(v.LocalProtocolError, match="closed connection"):
        client.request(READ)


@pytest.mark.parametrize(
    ("held", "what"), [(1, "header"), (15, "header"), (16, "payload"), (31, "payload")]
)
def test_an_end_in_the_middle_of_a_message_is_told(
    client: v.Connection, server: v.Connection, held: int, what: str
) -> None:
    server.receive(client.request(READ).data[:held])
    rejected = server.receive_eof()
    assert rejected is not None
    assert (rejected.fatal, rejected.answer) == (True, None)
    assert (rejected.error.message, rejected.error.value) == (what, held)
    assert server.closed


def test_an_end_between_messages_is_none(client: v.Connection, server: v.Connection) -> None:
    server.receive(client.request(READ).data)
    assert server.receive_eof() is None
    assert server.closed


# What our own side may not do


def test_version_comes_first_and_once() -> None:
    client = v.Connection(v.Role.CLIENT)
    with pytest.raises(v.LocalProtocolError, match="VERSION comes first"):
        client.request(READ)
    with pytest.raises(v.LocalProtocolError, match="wants an answer"):
        client.request(v.Version(), no_reply=True)
    client.request(v.Version())
    with pytest.raises(v.LocalProtocolError, match="VERSION comes once"):
        client.request(v.Version())
    with pytest.raises(v.LocalProtocolError, match="VERSION comes first, and is answered"):
        client.request(READ)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (v.Role.SERVER, READ),
        (v.Role.CLIENT, v.DmaRead(address=Iova(0), count=1)),
        (v.Role.CLIENT, DATA),
    ],
)
def test_each_side_sends_its_own_commands(role: v.Role, message: v.Message) -> None:
    end = v.Connection(role, negotiated=v.Negotiated(minor=0))
    with pytest.raises(v.LocalProtocolError, match="sends commands of its own"):
        end.request(message)


@pytest.mark.parametrize(
    ("message", "fds"),
    [
        (READ, 1),
        (v.DmaMap(address=Iova(0), size=1), 2),
        (v.DeviceSetIrqs(flags=0x24, index=2, count=3), 2),
        (v.DeviceSetIrqs(flags=0x24, index=2, count=17), 17),
        (v.DeviceSetIrqs(flags=0x21, index=2, count=1), 1),
    ],
)
def test_a_request_takes_the_fds_that_belong_to_it(
    client: v.Connection, message: v.Message, fds: int
) -> None:
    own = [CountingFd() for _ in range(fds)]
    with pytest.raises(v.LocalProtocolError) as caught:
        client.request(message, fds=own)
    assert caught.value.field == "fds"
    assert client.pending == 0
    assert not any(fd.closes for fd in own)


def test_a_request_moves_no_more_than_the_peer_takes() -> None:
    agreed = v.Negotiated(minor=0, max_data_xfer_size=4096)
    client = v.Connection(v.Role.CLIENT, negotiated=agreed)
    server = v.Connection(v.Role.SERVER, negotiated=agreed)
    too_many = 4097
    for end, message in (
        (client, v.RegionRead(offset=0, region=0, count=too_many)),
        (client, v.RegionWrite(offset=0, region=0, data=bytes(too_many))),
        (client, v.MigDataRead.of(too_many)),
        (client, v.MigDataWrite(data=bytes(too_many))),
        (client, v.DeviceFeature(argsz=8, flags=0x2_0001, data=bytes(too_many))),
        (server, v.DmaRead(address=Iova(0), count=too_many)),
        (server, v.DmaWrite(address=Iova(0), data=bytes(too_many))),
    ):
        with pytest.raises(v.LocalProtocolError, match="at most 4096 bytes of data"):
            end.request(message)


def test_many_writes_at_once_must_have_been_agreed_on() -> None:
    client = v.Connection(v.Role.CLIENT, negotiated=v.Negotiated(minor=0))
    writes = (v.RegionWrite(offset=0, region=0, data=b"\1"),)
    with pytest.raises(v.LocalProtocolError, match="write_multiple is agreed"):
        client.request(v.RegionWriteMulti(writes=writes))


def test_each_request_is_answered_once(client: v.Connection, server: v.Connection) -> None:
    request = only(server.receive(client.request(READ).data))
    server.reply(request, DATA)
    for again in (lambda: server.reply(request, DATA), lambda: server.refuse(request, 5)):
        with pytest.raises(v.LocalProtocolError, match="answer each request once"):
            again()


@pytest.mark.parametrize(
    ("answer", "fds", "field"),
    [
        (None, 0, "message"),
        (v.RegionWriteReply(offset=0, region=0, count=4), 0, "message"),
        (v.RegionReadReply(offset=1, region=0, data=b"data"), 0, "offset"),
        (v.RegionReadReply(offset=0, region=1, data=b"data"), 0, "region"),
        (v.RegionReadReply(offset=0, region=0, data=b"dat"), 0, "count"),
        (DATA, 1, "fds"),
    ],
)
def test_an_answer_fits_its_request(
    client: v.Connection, server: v.Connection, answer: Any, fds: int, field: str
) -> None:
    request = only(server.receive(client.request(READ).data))
    with pytest.raises(v.LocalProtocolError) as caught:
        server.reply(request, answer, fds=[CountingFd() for _ in range(fds)])
    assert (caught.value.field, caught.value.message) == (field, "REGION_READ")
    assert server.reply(request, DATA) is not None


def test_a_command_without_a_reply_of_its_own_is_answered_without_one(
    client: v.Connection, server: v.Connection
) -> None:
    request = only(server.receive(client.request(v.DeviceReset()).data))
    with pytest.raises(v.LocalProtocolError, match="NoneType"):
        server.reply(request, DATA)
    reply = only(client.receive(server.reply(request).data))
    assert (reply.message, reply.error) == (None, None)


@pytest.mark.parametrize("error", [0, -22, 4096])
def test_a_refusal_has_an_error_number(
    client: v.Connection, server: v.Connection, error: int
) -> None:
    request = only(server.receive(client.request(READ).data))
    with pytest.raises(v.LocalProtocolError, match="an error number is 1 to 4095"):
        server.refuse(request, error)


def test_a_reply_brings_no_more_fds_than_the_peer_takes(client: v.Connection) -> None:
    server = v.Connection(v.Role.SERVER, negotiated=v.Negotiated(minor=0, max_msg_fds=1))
    asked = client.request(v.DeviceGetRegionIoFds(index=2, argsz=4096))
    request = only(server.receive(asked.data))
    entries = tuple(v.IoFd(offset=at, size=1, fd_index=at) for at in range(2))
    with pytest.raises(v.LocalProtocolError, match="takes 1 file descriptors at most"):
        server.reply(
            request,
            v.RegionIoFds(index=2, entries=entries),
            fds=[CountingFd(), CountingFd()],
        )


@pytest.mark.parametrize(
    "values", [{"max_data_xfer_size": 0}, {"max_msg_fds": 254}, {"max_pending": 1 << 16}]
)
def test_limits_have_limits(values: dict[str, int]) -> None:
    with pytest.raises(v.LocalProtocolError, match=next(iter(values))):
        v.Limits(**values)
