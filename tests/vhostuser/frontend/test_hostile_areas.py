"""A back-end without manners hands over what it should not: no, and everything is as before."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2, Dialect
from vhostuser.fds import OwnedFd
from vhostuser.frontend import MAX_AREA, TRANSPORT_FEATURES
from vhostuser.testing import open_fds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = 4096
NO_FD = 0x100
DIALECTS = pytest.mark.parametrize("dialect", [CURRENT, RFC_V2, RFC_V1], ids=lambda each: each.name)
RFCS = pytest.mark.parametrize("dialect", [RFC_V2, RFC_V1], ids=lambda each: each.name)


def area(word: int = 0, size: int = PAGE, offset: int = 0) -> bytes:
    return struct.pack("=QQQ", word, size, offset)


def own(number: int) -> OwnedFd:
    return OwnedFd(number)


def plain(size: int = 4 * PAGE) -> OwnedFd:
    fd = own(os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.ftruncate(fd.fileno(), size)
    return fd


def write_sealed() -> OwnedFd:
    fd = plain()
    fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


def opened(path: str, flags: int) -> OwnedFd:
    return own(os.open(path, flags | os.O_CLOEXEC))


def read_only() -> OwnedFd:
    with plain() as fd:
        return opened(f"/proc/self/fd/{fd.fileno()}", os.O_RDONLY)


def write_only() -> OwnedFd:
    with plain() as fd:
        return opened(f"/proc/self/fd/{fd.fileno()}", os.O_WRONLY)


def pipe() -> OwnedFd:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(reading)
    return own(writing)


def sock() -> OwnedFd:
    return own(socket.socket(socket.AF_UNIX).detach())


# What the message says, and what comes with it.
CASES: dict[str, tuple[bytes, Callable[[], list[OwnedFd]]]] = {
    "size 0": (area(size=0), lambda: [plain()]),
    "half a page": (area(size=2048), lambda: [plain()]),
    "a page and a half": (area(size=6144), lambda: [plain()]),
    "one byte less than a page": (area(size=4095), lambda: [plain()]),
    "size 2^40": (area(size=1 << 40), lambda: [plain()]),
    "size 2^64-4096": (area(size=2**64 - PAGE), lambda: [plain()]),
    "more than an area may have": (area(size=MAX_AREA + PAGE), lambda: [plain(2 * MAX_AREA)]),
    "misaligned offset": (area(offset=2), lambda: [plain()]),
    "offset in half a page": (area(offset=2048), lambda: [plain()]),
    "offset + size passes 2^64": (area(offset=2**64 - PAGE), lambda: [plain()]),
    "offset + size passes 2^63": (area(offset=2**63 - PAGE, size=2 * PAGE), lambda: [plain()]),
    "offset at the file's end": (area(offset=4 * PAGE), lambda: [plain()]),
    "the file is too short": (area(size=2 * PAGE), lambda: [plain(PAGE)]),
    "the file ends within the page": (area(), lambda: [plain(PAGE - 1)]),
    "an empty file": (area(), lambda: [plain(0)]),
    "a queue that is not there": (area(2), lambda: [plain()]),
    "queue 255": (area(255), lambda: [plain()]),
    "a queue that is not there, no fd": (area(255 | NO_FD, 0), list),
    "reserved bit 9": (area(0x200), lambda: [plain()]),
    "queue 2^40": (area(1 << 40), lambda: [plain()]),
    "reserved bit 63": (area(1 << 63), lambda: [plain()]),
    "reserved bit 9 without an fd": (area(0x200 | NO_FD), list),
    "no fd without the flag": (area(), list),
    "an fd with the flag": (area(NO_FD), lambda: [plain()]),
    "two fds": (area(), lambda: [plain(), plain()]),
    "two fds with the flag": (area(NO_FD), lambda: [plain(), plain()]),
    "253 fds": (area(), lambda: [plain() for _ in range(253)]),
    "a read-only file": (area(), lambda: [read_only()]),
    "a write-only file": (area(), lambda: [write_only()]),
    "a file sealed against writing": (area(), lambda: [write_sealed()]),
    "a pipe": (area(), lambda: [pipe()]),
    "a socket": (area(), lambda: [sock()]),
    "a directory": (area(), lambda: [opened("/", os.O_RDONLY | os.O_DIRECTORY)]),
    "an O_PATH fd": (area(), lambda: [opened("/dev/null", os.O_PATH)]),
    "an eventfd": (area(), lambda: [own(os.eventfd(0, os.EFD_CLOEXEC))]),
    "a pidfd": (area(), lambda: [own(os.pidfd_open(os.getpid()))]),
    "a terminal's twin": (area(), lambda: [opened("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)]),
    "/dev/null": (area(), lambda: [opened("/dev/null", os.O_RDWR)]),
    "8 bytes": (area()[:8], lambda: [plain()]),
    "23 bytes": (area()[:23], lambda: [plain()]),
    "32 bytes": (area() + bytes(8), lambda: [plain()]),
}


def stored(page: OwnedFd) -> bytes:
    return os.pread(page.fileno(), 2, 0)


@DIALECTS
@pytest.mark.parametrize("live", [False, True], ids=["at-first", "over-a-live-area"])
@pytest.mark.parametrize("case", CASES, ids=lambda each: each.replace(" ", "-"))
async def test_a_bad_offer_is_refused_and_changes_nothing(
    case: str,
    live: bool,
    dialect: Dialect,
    handing: Callable[..., Any],
    make_memfd: Callable[..., OwnedFd],
) -> None:
    payload, fds = CASES[case]
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            if live:
                assert await backend.offer(page.duplicate()) == 0
            before, kicks = client.areas.shown(), client.queues[0].kicks.own
            assert await backend.say(backend.area.number, payload, fds()) == 1
            assert client.areas.shown() == before
            assert client.queues[0].kicks.own == kicks, "nothing was switched"
            client.queues[0].notify()
            assert stored(page) == (b"\0\0" if live else b"\xff\xff")
            assert await backend.offer(make_memfd()) == 0, "the channel goes on"


@DIALECTS
async def test_whoever_asks_for_no_answer_gets_none_and_nothing_changes(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        assert await backend.offer(make_memfd()) == 0
        await backend.offer(plain(0), ack=False)
        await backend.offer(make_memfd(), index=1, ack=False)
        await client.areas.wait_mapped(1)
        assert client.areas.mapped(0)


@DIALECTS
@pytest.mark.parametrize("payload", [area()[:8], area(0x200)], ids=["short", "reserved"])
async def test_a_malformed_offer_to_which_no_answer_is_asked_ends_the_channel_and_its_areas(
    payload: bytes,
    dialect: Dialect,
    handing: Callable[..., Any],
    make_memfd: Callable[..., OwnedFd],
) -> None:
    async with handing(dialect) as (client, backend):
        assert await backend.offer(make_memfd(), index=1) == 0
        await backend.say(backend.area.number, payload, [plain()], ack=False)
        await client.areas.wait_unmapped(1)
        client.queues[1].notify()
        assert client.queues[1].kicks.eventfd == 1


@DIALECTS
async def test_the_same_page_for_two_queues_is_two_areas(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            for index in (0, 1, 1, 0):
                assert await backend.offer(page.duplicate(), index=index) == 0
            assert await backend.remove(index=0) == 0
            client.queues[1].notify()
            assert stored(page) == b"\1\0"


@DIALECTS
async def test_a_flood_of_offers_holds_no_more_than_one_of_them(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        for _ in range(300):
            await backend.offer(make_memfd(), ack=False)
            await backend.offer(plain(1), index=1, ack=False)
        assert await backend.offer(make_memfd()) == 0
        assert len(client.areas.shown()) == 1
        held = [name for name in open_fds().values() if name.startswith("/memfd:area")]
        assert len(held) <= 1, "today's area needs no fd once it is mapped, an RFC's one"


@DIALECTS
async def test_offers_after_the_stop_are_refused_or_kept_unmapped(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        await client.stop()
        answer = await backend.offer(make_memfd())
        assert answer == (1 if dialect is CURRENT else 0)
        assert not client.areas.mapped(0)


@RFCS
async def test_an_area_of_the_rfc_needs_version_1(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    legacy = TRANSPORT_FEATURES & ~TRANSPORT_FEATURES.VERSION_1
    async with handing(dialect, features=legacy) as (client, backend):
        assert await backend.offer(make_memfd()) == 1
        assert client.areas.shown() == ()


async def test_messages_of_another_dialect_are_unknown(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(CURRENT) as (client, backend):
        assert await backend.say(4, area(), [make_memfd()]) == 1
    async with handing(RFC_V1) as (client, backend):
        assert await backend.say(4, area(), [make_memfd()]) == 1
        assert client.areas.shown() == ()


async def test_a_file_on_disk_is_an_area_like_any_other(
    tmp_path: Path, handing: Callable[..., Any]
) -> None:
    path = tmp_path / "area"
    path.write_bytes(b"\xff" * 2 * PAGE)
    async with handing() as (client, backend):
        assert await backend.offer(opened(str(path), os.O_RDWR), offset=PAGE) == 0
        client.queues[0].notify()
        assert path.read_bytes()[PAGE : PAGE + 4] == b"\0\0\xff\xff"


async def test_a_character_device_is_mapped_if_its_driver_lets_it(
    handing: Callable[..., Any],
) -> None:
    async with handing() as (client, backend):
        # Private anonymous memory: nobody sees what is stored, but it is a mapping of a device.
        assert await backend.offer(opened("/dev/zero", os.O_RDWR)) == 0
        client.queues[0].notify()
        assert client.queues[0].kicks.page == 1
        assert await backend.remove() == 0


async def test_a_refusal_is_one_line_that_names_field_value_and_rule(
    handing: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with handing() as (_, backend):
        assert await backend.offer(plain(PAGE), size=2 * PAGE) == 1
    (record,) = [each for each in caplog.records if each.name.startswith("vhostuser.frontend")]
    assert record.getMessage() == (
        "refused: message=BACKEND_VRING_HOST_NOTIFIER_MSG field=offset+size value=0x2000 "
        'rule="an area lies inside its file, which ends at 0x1000" section="Back-end message '
        'types, VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG"'
    )
