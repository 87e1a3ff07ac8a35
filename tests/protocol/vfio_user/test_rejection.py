"""Malformed messages: each is told, changes nothing, loses no fd, and ends what it must."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.addresses import Iova
from vhostuser.testing import CountingFd

READ = v.RegionRead(offset=0, region=0, count=4)
GOOD = struct.pack("=HHIIIQII", 1, 9, 32, 0, 0, 0, 0, 4)
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1


def raw(command: int, payload: bytes = b"", *, flags: int = 0, size: int | None = None) -> bytes:
    whole = 16 + len(payload) if size is None else size
    return struct.pack("=HHIII", 7, command, whole, flags, 0) + payload


def only(events: list[v.Event]) -> Any:
    (event,) = events
    return event


def check_answer(rejected: v.Rejected, command: int) -> None:
    assert rejected.answer is not None
    header = v.Header.parse(rejected.answer.data)
    assert header == v.Header(id=7, command=command, size=16, flags=0x21, error=errno.EINVAL)
    assert rejected.answer.fds == ()


def check_alive(end: v.Connection) -> None:
    assert isinstance(only(end.receive(GOOD)), v.Request)


@pytest.mark.parametrize(
    ("flags", "field"),
    [(0x2, "flags"), (0x3, "flags"), (0xF, "flags"), (0x40, "flags"), (0x8000_0000, "flags")],
)
def test_flags_without_sense_are_told_and_the_connection_goes_on(
    server: v.Connection, flags: int, field: str
) -> None:
    rejected = only(server.receive(raw(9, bytes(16), flags=flags)))
    assert (rejected.fatal, rejected.error.field) == (False, field)
    check_answer(rejected, 9)
    check_alive(server)


@pytest.mark.parametrize("flags", [0x1, 0x11, 0x20, 0x21, 0x31, 0x41])
def test_a_reply_to_nothing_ends_the_connection(server: v.Connection, flags: int) -> None:
    rejected = only(server.receive(raw(9, bytes(16), flags=flags) + GOOD))
    assert (rejected.fatal, rejected.answer) == (True, None)
    assert server.closed


@pytest.mark.parametrize("size", [0, 1, 15, (1 << 20) + 32 + 17, U32])
def test_a_size_without_sense_is_told_and_ends_the_connection(
    server: v.Connection, size: int
) -> None:
    fd = CountingFd()
    rejected = only(server.receive(raw(9, size=size), (fd,)))
    assert (rejected.fatal, rejected.error.field, rejected.error.value) == (True, "size", size)
    check_answer(rejected, 9)
    assert server.closed
    assert fd.closes == 1
    assert server.receive(GOOD) == []


def test_the_largest_message_is_taken(server: v.Connection) -> None:
    data = bytes(1 << 20)
    whole = raw(10, struct.pack("=QII", 0, 0, len(data)) + data)
    request = only(server.receive(whole))
    assert request.message.count == 1 << 20
    rejected = only(
        server.receive(raw(10, struct.pack("=QII", 0, 0, len(data) + 16) + data + bytes(16)))
    )
    assert (rejected.fatal, rejected.error.field) == (False, "count")


@pytest.mark.parametrize("command", [0, 11, 12, 14, 19, 99, 0xFFFF])
def test_a_command_that_the_client_does_not_have_is_told(
    server: v.Connection, command: int
) -> None:
    rejected = only(server.receive(raw(command, bytes(24))))
    assert (rejected.fatal, rejected.error.field) == (False, "command")
    check_answer(rejected, command)
    check_alive(server)


@pytest.mark.parametrize("command", [*range(11), *range(13, 20)])
def test_a_command_that_the_server_does_not_have_is_told(
    client: v.Connection, command: int
) -> None:
    rejected = only(client.receive(raw(command, bytes(24))))
    assert (rejected.fatal, rejected.error.value) == (False, command)
    check_answer(rejected, command)


def test_a_payload_of_another_size_is_told(row: v.CommandRow, agreed: v.Negotiated) -> None:
    if row.name == "VERSION":
        return
    layout = row.request.payload
    sizes = {0, 1, layout.min_size - 1, layout.max_size + 1} - {-1, layout.min_size}
    sizes = {size for size in sizes if not layout.accepts(size) and size < 1 << 20}
    for size in sizes:
        end = v.Connection(row.sender.other, negotiated=agreed)
        rejected = only(end.receive(raw(row.number, bytes(size))))
        assert (rejected.fatal, rejected.error.field) == (False, "size")
        assert rejected.error.message == row.name
        assert rejected.error.section == f"VFIO_USER_{row.name}"
        check_answer(rejected, row.number)
        assert not end.closed


def test_surplus_fds_are_closed_and_told(
    row: v.CommandRow, agreed: v.Negotiated, goldens: Any
) -> None:
    if row.name == "VERSION":
        return
    case = goldens[row.request.message][0]
    for surplus in (1, 17, 253):
        fds = [CountingFd() for _ in range(case.fds + surplus)]
        end = v.Connection(row.sender.other, negotiated=agreed)
        rejected = only(end.receive(raw(row.number, case.payload), fds))
        assert (rejected.fatal, rejected.error.field) == (False, "fds")
        check_answer(rejected, row.number)
        assert all(fd.closes == 1 for fd in fds)
        assert not end.closed


def test_fds_that_come_late_are_closed_and_told(server: v.Connection, goldens: Any) -> None:
    case = goldens[v.DmaMap][0]
    whole, fd = raw(2, case.payload), CountingFd()
    assert server.receive(whole[:20]) == []
    rejected = only(server.receive(whole[20:], (fd,)))
    assert (rejected.fatal, rejected.error.field) == (False, "fds")
    assert fd.closes == 1
    check_alive(server)


@pytest.mark.parametrize("fds", [1, 2, 4])
def test_eventfds_are_as_many_as_vectors_or_none(server: v.Connection, fds: int) -> None:
    own = [CountingFd() for _ in range(fds)]
    payload = struct.pack("=IIIII", 20, 0x24, 2, 0, 3)
    rejected = only(server.receive(raw(8, payload), own))
    assert (rejected.fatal, rejected.error.field) == (False, "fds")
    assert all(fd.closes == 1 for fd in own)


@pytest.mark.parametrize(
    ("command", "payload", "field"),
    [
        (2, struct.pack("=IIQQQ", 32, 3, 0, U64, 2), "address"),
        (2, struct.pack("=IIQQQ", 32, 3, U64, 0, 2), "offset"),
        (2, struct.pack("=IIQQQ", 32, 3, 0, 0, 0), "size"),
        (2, struct.pack("=IIQQQ", 0, 3, 0, 0, 1), "argsz"),
        (3, struct.pack("=IIQQ", 24, 0, U64, 2), "address"),
        (3, struct.pack("=IIQQ", 24, 4, 0, 1), "flags"),
        (5, struct.pack("=IIIIQQ", 31, 0, 0, 0, 0, 0), "argsz"),
        (8, struct.pack("=IIIII", 20, 0x24, 2, U32, U32), "start"),
        (8, struct.pack("=IIIII", 20, 0x24, 2, 0, U32), None),
        (9, struct.pack("=QII", U64, 0, 2), "offset"),
        (9, struct.pack("=QII", 0, 0, U32), "count"),
        (10, struct.pack("=QII", U64 - 2, 0, 4) + bytes(4), "offset"),
        (10, struct.pack("=QII", 0, 0, 3) + bytes(4), "count"),
        (15, struct.pack("=Q", 0), "wr_cnt"),
        (15, struct.pack("=QQII8s", 1 << 61, 0, 0, 1, b""), "wr_cnt"),
        (16, struct.pack("=II", 8, 0x18_0001), "flags"),
        (17, struct.pack("=II", 8, U32), "argsz"),
        (17, struct.pack("=II", U32, (1 << 20) + 1), "count"),
        (18, struct.pack("=II", 16, U32) + bytes(8), "size"),
    ],
)
@pytest.mark.parametrize("posted", [False, True])
def test_a_value_out_of_its_range_is_told_and_the_connection_goes_on(
    server: v.Connection, command: int, payload: bytes, field: str | None, posted: bool
) -> None:
    rejected = only(server.receive(raw(command, payload, flags=0x10 if posted else 0)))
    if field is None:
        assert isinstance(rejected, v.Request)  # how many vectors there are is not known here
        return
    assert isinstance(rejected, v.Rejected)
    assert (rejected.fatal, rejected.error.field) == (False, field)
    if posted:
        assert rejected.answer is None
    else:
        check_answer(rejected, command)
    check_alive(server)


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (11, struct.pack("=QQ", U64, 2)),
        (11, struct.pack("=QQ", 0, U64)),
        (11, struct.pack("=QQ", 0, (1 << 20) + 1)),
        (12, struct.pack("=QQ", 0, 5) + bytes(4)),
        (12, struct.pack("=QQ", U64 - 2, 4) + bytes(4)),
    ],
)
def test_dma_out_of_its_range_is_told(client: v.Connection, command: int, payload: bytes) -> None:
    rejected = only(client.receive(raw(command, payload)))
    assert (rejected.fatal, rejected.error.field in ("address", "count")) == (False, True)
    check_answer(rejected, command)
    assert not client.closed


# Before VERSION is agreed


@pytest.mark.parametrize(
    "first",
    [
        GOOD,
        raw(13),
        raw(99),
        raw(1),
        raw(1, struct.pack("=HH", 1, 0)),
        raw(1, struct.pack("=HH", 0, 0) + b"{}"),
        raw(1, struct.pack("=HH", 0, 0) + b"[]\0"),
        raw(1, struct.pack("=HH", 0, 0) + b"{" + bytes(1 << 14)),
        raw(1, struct.pack("=HH", 0, 0), flags=0x10),
    ],
)
def test_whatever_is_wrong_before_an_agreement_ends_the_connection(first: bytes) -> None:
    server = v.Connection(v.Role.SERVER)
    rejected, *others = server.receive(first + GOOD)
    assert isinstance(rejected, v.Rejected)
    assert not others
    assert rejected.fatal
    assert server.closed
    assert (rejected.answer is None) == bool(first[8] & 0x10)


def test_a_version_with_fds_ends_the_connection() -> None:
    server, fd = v.Connection(v.Role.SERVER), CountingFd()
    rejected = only(server.receive(raw(1, struct.pack("=HH", 0, 0)), (fd,)))
    assert (rejected.fatal, rejected.error.field, fd.closes) == (True, "fds", 1)
    check_answer(rejected, 1)


def test_a_command_before_the_answer_to_version_ends_the_connection() -> None:
    server = v.Connection(v.Role.SERVER)
    version, rejected = server.receive(raw(1, struct.pack("=HH", 0, 0)) + GOOD)
    assert isinstance(version, v.Request)
    assert isinstance(rejected, v.Rejected)
    assert rejected.fatal
    assert server.reply(version, v.VersionReply(minor=0)) is None


def test_a_second_version_is_told(server: v.Connection) -> None:
    rejected = only(server.receive(raw(1, struct.pack("=HH", 0, 0))))
    assert (rejected.fatal, rejected.error.rule) == (False, "VERSION comes once")
    check_alive(server)


def test_many_writes_without_an_agreement_are_told() -> None:
    server = v.Connection(v.Role.SERVER, negotiated=v.Negotiated(minor=0))
    payload = struct.pack("=QQII8s", 1, 0, 0, 1, b"\1")
    rejected = only(server.receive(raw(15, payload)))
    assert (rejected.fatal, rejected.error.message) == (False, "REGION_WRITE_MULTI")


# Replies


def answered(client: v.Connection, request: v.Message, data: bytes, fds: Any = ()) -> Any:
    """What comes of bytes that answer a request; `data` begins with the command."""
    sent = client.request(request)
    (command,) = struct.unpack_from("=H", data)
    head = struct.pack("=HHIII", sent.id, command, 14 + len(data), 1, 0)
    return only(client.receive(head + data[2:], fds))


def reply_to(command: int, layout: str, *values: Any) -> bytes:
    return struct.pack("=H", command) + struct.pack("=" + layout, *values)


@pytest.mark.parametrize(
    ("request_message", "data", "fds", "field"),
    [
        (READ, reply_to(10, "QII", 0, 0, 4), 0, "command"),
        (READ, reply_to(9, "QII", 0, 0, 4), 0, "count"),
        (READ, reply_to(9, "QII3s", 0, 0, 3, b"abc"), 0, "count"),
        (READ, reply_to(9, "QII5s", 0, 0, 5, b"abcde"), 0, "count"),
        (READ, reply_to(9, "QII4s", 1, 0, 4, b"abcd"), 0, "offset"),
        (READ, reply_to(9, "QII4s", 0, 1, 4, b"abcd"), 0, "region"),
        (READ, reply_to(9, "QII4s", 0, 0, 4, b"abcd"), 1, "fds"),
        (READ, reply_to(9, "Q", 0), 0, "size"),
        (v.DeviceReset(), reply_to(13, "Q", 0), 0, "size"),
        (v.DeviceReset(), reply_to(13, ""), 1, "fds"),
        (v.DmaUnmap(address=Iova(0), size=4), reply_to(3, "IIQQ", 24, 0, 0, 5), 0, "size"),
        (v.DeviceGetInfo(), reply_to(4, "IIII", 16, 0, U32, 5), 0, "num_regions"),
        (v.DeviceGetInfo(), reply_to(4, "IIII", U32, 0, 9, 5), 0, "argsz"),
        (v.DeviceGetRegionInfo(index=1), reply_to(5, "IIIIQQ", 32, 0, 2, 0, 1, 0), 0, "index"),
        (v.DeviceGetRegionInfo(index=1), reply_to(5, "IIIIQQ", 32, 0, 1, 0, 2, U64), 0, "offset"),
        (v.DeviceGetRegionInfo(index=1), reply_to(5, "IIIIQQ", U32, 0, 1, 0, 2, 0), 0, "argsz"),
        (
            v.DeviceGetRegionInfo(index=1),
            reply_to(5, "IIIIQQHHI", 40, 8, 1, 32, 1, 0, 9, 1, 32),
            0,
            "next",
        ),
        (
            v.DeviceGetRegionInfo(index=1),
            reply_to(5, "IIIIQQ", 32, 8, 1, U32, 1, 0),
            0,
            "cap_offset",
        ),
        (v.DeviceGetRegionInfo(index=1), reply_to(5, "IIIIQQ", 32, 0, 1, 0, 1, 0), 2, "fds"),
        (v.DeviceGetIrqInfo(index=1), reply_to(7, "IIII", 16, 0, 2, 1), 0, "index"),
        (
            v.DeviceGetRegionIoFds(index=1),
            reply_to(6, "IIIIQQIIIIQ", 56, 0, 1, 1, 0, 4, 1, 0, 0, 0, 0),
            1,
            "fd_index",
        ),
        (
            v.DeviceGetRegionIoFds(index=1),
            reply_to(6, "IIIIQQIIIIQQ", 64, 0, 1, 1, 0, 4, 0, 2, 0, U32, 0, 0),
            1,
            "shadow_index",
        ),
        (
            v.DeviceGetRegionIoFds(index=1),
            reply_to(6, "IIIIQQIIIIQ", 56, 0, 1, 1, 0, 4, 0, 0, 0, 0, 0),
            0,
            "fds",
        ),
        (v.DeviceGetRegionIoFds(index=1), reply_to(6, "IIII", 16, 0, 1, 0), 1, "fds"),
        (v.DeviceGetRegionIoFds(index=1), reply_to(6, "IIII", 56, 0, 2, 1), 0, "index"),
        (v.DeviceFeature(argsz=8, flags=0x1_0001), reply_to(16, "II", 8, 0x1_0002), 0, "feature"),
        (v.MigDataRead.of(4), reply_to(17, "II5s", 13, 5, b"abcde"), 0, "size"),
        (
            v.RegionWriteMulti(writes=(v.RegionWrite(offset=0, region=0, data=b"a"),)),
            reply_to(15, "Q", 2),
            0,
            "wr_cnt",
        ),
    ],
)
def test_an_answer_that_does_not_fit_ends_the_connection(
    client: v.Connection, request_message: v.Message, data: bytes, fds: int, field: str
) -> None:
    own = [CountingFd() for _ in range(fds)]
    rejected = answered(client, request_message, data, own)
    assert isinstance(rejected, v.Rejected)
    assert (rejected.fatal, rejected.answer, rejected.error.field) == (True, None, field)
    assert client.closed
    assert all(fd.closes == 1 for fd in own)


def test_io_fds_that_share_an_fd_are_fine(client: v.Connection) -> None:
    entry = struct.pack("=QQIIIIQ", 0, 4, 0, 0, 0, 0, 0)
    fd = CountingFd()
    reply = answered(
        client,
        v.DeviceGetRegionIoFds(index=1, argsz=4096),
        reply_to(6, "IIII", 96, 0, 1, 2) + entry * 2,
        (fd,),
    )
    assert (len(reply.message.entries), reply.fds, fd.closes) == (2, (fd,), 0)


@pytest.mark.parametrize(("error", "fds"), [(4096, 0), (U32, 0), (22, 1)])
def test_an_error_without_sense_ends_the_connection(
    client: v.Connection, error: int, fds: int
) -> None:
    own = [CountingFd() for _ in range(fds)]
    sent = client.request(READ)
    header = v.Header(id=sent.id, command=9, size=16, flags=0x21, error=error)
    rejected = only(client.receive(header.build(), own))
    assert (rejected.fatal, client.closed) == (True, True)
    assert all(fd.closes == 1 for fd in own)


def test_what_came_before_a_fatal_message_is_not_lost(server: v.Connection) -> None:
    fd = CountingFd()
    first, fatal = server.receive(GOOD + raw(9, size=3) + GOOD, (fd,))
    assert isinstance(first, v.Request)
    assert isinstance(fatal, v.Rejected)
    assert fatal.fatal
    assert fd.closes == 1


def test_what_comes_behind_a_fatal_message_is_dropped_with_its_fds(server: v.Connection) -> None:
    for behind in (GOOD, raw(9, size=3), GOOD[:20], GOOD[:4]):
        end = v.Connection(v.Role.SERVER, negotiated=server.negotiated)
        fd = CountingFd()
        rejected = only(end.receive(raw(9, bytes(16), flags=1) + behind, (fd,)))
        assert rejected.fatal
        assert fd.closes == 1


def test_a_rejection_is_one_line_that_names_what_is_wrong(server: v.Connection) -> None:
    rejected = only(server.receive(raw(9, struct.pack("=QII", U64, 0, 2))))
    assert str(rejected.error) == (
        "message=REGION_READ field=offset value=0xffffffffffffffff "
        'rule="offset + count (0x2) does not pass 2^64" section="VFIO_USER_REGION_READ"'
    )
    rejected = only(server.receive(raw(99)))
    assert str(rejected.error).startswith("message=number-99 field=command value=99 rule=")
