"""Clients that break rules, against our server: each is answered or left, and the next is served.

Where the reference server answers otherwise, the case says so ("libvfio-user: ...").
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from vfio_user_rig import (
    BAR,
    BAR_SIZE,
    CONFIG,
    PAGE,
    RefusingDevice,
    client_of,
    memfd,
    message,
    raw_client_of,
)

from protocol.vfio_user import Header
from vhostuser.fds import OwnedFd

IOVA = 0x10_0000
TOP = 1 << 64


@pytest.fixture(autouse=True)
async def the_next_client_is_served(device):
    yield
    device.before = lambda kind, offset: None
    async with client_of(device) as client:
        assert await client.read(CONFIG, 0, 2) == b"\0\1"
    assert device.ranges == []


def access(region, offset, count, data=b""):
    return struct.pack("=QII", offset, region, count) + data


def dma_map(address, size, *, flags=3, offset=0):
    return struct.pack("=IIQQQ", 32, flags, offset, address, size)


def dma_unmap(address, size, *, flags=0):
    return struct.pack("=IIQQ", 24, flags, address, size)


def info(argsz, index=0, count=0):
    return struct.pack("=4I", argsz, 0, index, count)


def region_info(argsz, index):
    return struct.pack("=4IQQ", argsz, 0, index, 0, 0, 0)


def set_irqs(flags, start, count, data=b"", index=2):
    return struct.pack("=5I", 20 + len(data), flags, index, start, count) + data


REFUSED = {
    "command 0": (0, b"", errno.EINVAL),
    "command 14 (removed)": (14, b"", errno.EINVAL),
    "command 19": (19, b"", errno.EINVAL),
    "command 99": (99, b"", errno.EINVAL),
    "a command of the server": (11, struct.pack("=QQ", 0, 4), errno.EINVAL),
    "a second VERSION": (1, b"\0\0\0\0", errno.EINVAL),
    "no payload": (4, b"", errno.EINVAL),
    "GET_INFO: argsz 8": (4, info(8), errno.EINVAL),
    "GET_INFO: short": (4, info(16)[:8], errno.EINVAL),
    "REGION_INFO: index 9": (5, region_info(32, 9), errno.EINVAL),
    "REGION_INFO: argsz 16": (5, region_info(16, 0), errno.EINVAL),
    "IRQ_INFO: index 5": (7, info(16, 5), errno.EINVAL),
    "IO_FDS of an empty region": (6, info(16, 3), errno.EINVAL),
    "IO_FDS: index 9": (6, info(16, 9), errno.EINVAL),
    "READ past the end": (9, access(BAR, BAR_SIZE - 2, 4), errno.EINVAL),
    "READ: offset wraps": (9, access(BAR, TOP - 2, 4), errno.EINVAL),
    "READ of an empty region": (9, access(3, 0, 1), errno.EINVAL),
    "READ of a region that is not": (9, access(77, 0, 1), errno.EINVAL),
    "READ of more than was agreed": (9, access(BAR, 0, (1 << 20) + 1), errno.EINVAL),
    "WRITE: count too large": (10, access(BAR, 0, 5, b"abcd"), errno.EINVAL),
    "WRITE: count too small": (10, access(BAR, 0, 3, b"abcd"), errno.EINVAL),
    "WRITE to what cannot be written": (10, access(CONFIG, 0, 1, b"x"), errno.EINVAL),
    "WRITE_MULTI that was not agreed": (15, struct.pack("=QQII8s", 1, 0, 0, 1, b"x"), errno.EINVAL),
    "DMA_MAP: size 0": (2, dma_map(IOVA, 0), errno.EINVAL),
    "DMA_MAP: wraps": (2, dma_map(TOP - PAGE, 2 * PAGE), errno.EINVAL),
    "DMA_MAP: offset wraps": (2, dma_map(IOVA, 2 * PAGE, offset=TOP - PAGE), errno.EINVAL),
    "DMA_MAP: unknown flag": (2, dma_map(IOVA, PAGE, flags=0x10), errno.EINVAL),
    "DMA_UNMAP of nothing": (3, dma_unmap(IOVA, PAGE), errno.ENOENT),
    "DMA_UNMAP of all with an address": (3, dma_unmap(IOVA, 0, flags=2), errno.EINVAL),
    "SET_IRQS: too many": (8, set_irqs(0x21, 0, 5), errno.EINVAL),
    "SET_IRQS: start + count wraps": (8, set_irqs(0x21, 0xFFFF_FFFF, 4), errno.EINVAL),
    "SET_IRQS: two kinds of data": (8, set_irqs(0x23, 0, 1), errno.EINVAL),
    "SET_IRQS: two actions": (8, set_irqs(0x31, 0, 1), errno.EINVAL),
    "SET_IRQS: mask": (8, set_irqs(0x09, 0, 1), errno.EINVAL),
    "SET_IRQS: too few bools": (8, set_irqs(0x22, 0, 3, b"\1"), errno.EINVAL),
    "SET_IRQS: an index that is not": (8, set_irqs(0x21, 0, 1, index=9), errno.EINVAL),
    "SET_IRQS: an index without vectors": (8, set_irqs(0x21, 0, 1, index=0), errno.EINVAL),
    "SET_IRQS: all of an index that is not": (8, set_irqs(0x21, 0, 0, index=5), errno.EINVAL),
    "FEATURE": (16, struct.pack("=II", 16, 1 << 16 | 1) + bytes(8), errno.EINVAL),
    "MIG_DATA_READ": (17, struct.pack("=II", 4096, 4096), errno.EINVAL),
    "MIG_DATA_WRITE": (18, struct.pack("=II", 12, 4) + b"data", errno.EINVAL),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_command_is_refused_changes_nothing_and_the_connection_goes_on(device, name):
    command, payload, expected = REFUSED[name]
    async with raw_client_of(device) as peer:
        asked = len(device.calls)
        header, answer = await peer.ask(command, payload)
        assert (header.is_error, header.error, answer) == (True, expected, b"")
        assert len(device.calls) == asked
        header, answer = await peer.ask(9, access(CONFIG, 2, 1), number=2)
        assert (header.is_error, answer[16:]) == (False, b"\2")


async def test_reading_nothing_succeeds(device):
    async with raw_client_of(device) as peer:
        header, answer = await peer.ask(9, access(BAR, 0, 0))
        assert not header.is_error
        assert answer == access(BAR, 0, 0)


async def test_an_index_without_vectors_can_be_switched_off(device):
    async with raw_client_of(device) as peer:
        header, _ = await peer.ask(8, set_irqs(0x21, 0, 0, index=0))
        assert not header.is_error


async def test_what_was_posted_in_vain_is_not_answered(device):
    async with raw_client_of(device) as peer:
        for payload in (access(3, 0, 1, b"x"), access(BAR, 0, 9, b"x"), access(CONFIG, 0, 1, b"x")):
            await peer.send(message(10, payload, flags=0x10))
        header, _ = await peer.ask(9, access(BAR, 0, 1), number=9)
        assert header.id == 9


@pytest.mark.parametrize(
    "version",
    [
        b"",
        b"\1\0\0\0",  # major 1
        b"\0\0\0\0{}",  # no NUL
        b'\0\0\0\0{"capabilities":[]}\0',
        b'\0\0\0\0{"capabilities":{"max_msg_fds":"8"}}\0',
        b'\0\0\0\0{"capabilities":{"max_msg_fds":2000}}\0',
        b'\0\0\0\0{"capabilities":{"max_msg_fds":-1}}\0',
        b'\0\0\0\0{"capabilities":{"max_data_xfer_size":1e99}}\0',
        b'\0\0\0\0{"capabilities":{"twin_socket":1}}\0',
        b"\0\0\0\0" + b"[" * 10000 + b"\0",
        b"\0\0\0\0\xff\xfe\0",
        b"\0\0\0\0[]\0",  # libvfio-user accepts any JSON
        b"\0\0\0\0" + b" " * (1 << 14) + b"{}\0",
    ],
    ids=range(13),
)
async def test_a_bad_version_is_refused_and_the_client_left(device, version):
    async with raw_client_of(device, version=b"") as peer:
        await peer.send(message(1, version))
        header, _ = await peer.receive()
        assert (header.command, header.is_error, header.error) == (1, True, errno.EINVAL)
        await peer.ended()


async def test_version_comes_first(device):
    async with raw_client_of(device, version=b"") as peer:
        await peer.send(message(9, access(BAR, 0, 4)))
        header, _ = await peer.receive()
        assert header.is_error
        await peer.ended()
    assert device.calls == [("connected",), ("disconnected",)]


async def test_a_newer_minor_version_is_answered_with_ours_and_no_json_is_needed(device):
    async with raw_client_of(device, version=b"") as peer:
        header, answer = await peer.ask(1, struct.pack("=HH", 0, 9))
        assert not header.is_error
        assert answer[:4] == struct.pack("=HH", 0, 2)


@pytest.mark.parametrize("size", [0, 15, 1 << 24, 0xFFFF_FFFF])
async def test_a_size_that_makes_no_sense_ends_the_connection(device, size):
    async with raw_client_of(device) as peer:
        await peer.send(message(9, access(BAR, 0, 4), size=size))
        header, _ = await peer.receive()
        assert header.is_error
        await peer.ended()


async def test_an_answer_that_nobody_asked_for_ends_the_connection(device):
    """libvfio-user: EINVAL, and reads the body as the next header."""
    async with raw_client_of(device) as peer:
        await peer.send(message(9, access(BAR, 0, 4), flags=1))
        await peer.ended()


async def test_half_a_message_and_the_end(device):
    async with raw_client_of(device) as peer:
        await peer.send(message(10, access(BAR, 0, 100) + bytes(100))[:50])
    assert device.calls[-1] == ("disconnected",)


# Memory


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (IOVA, PAGE),
        (IOVA, 2 * PAGE),
        (IOVA - PAGE, 2 * PAGE),
        (IOVA - PAGE, 4 * PAGE),
        (IOVA + 1, 1),
    ],
)
async def test_memory_over_memory_is_refused_also_the_same_again(device, address, size):
    """libvfio-user: success for the same again, EINVAL for an overlap. We: EEXIST, as specified."""
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, PAGE))
        header, _ = await peer.ask(2, dma_map(address, size))
        assert header.error == errno.EEXIST
        header, _ = await peer.ask(2, dma_map(IOVA + PAGE, PAGE))
        assert not header.is_error
        assert [dma.address for dma in device.ranges] == [IOVA, IOVA + PAGE]


@pytest.mark.parametrize(
    ("address", "size"), [(IOVA, PAGE), (IOVA + PAGE, PAGE), (IOVA, 4 * PAGE), (IOVA - PAGE, PAGE)]
)
async def test_only_a_whole_range_is_unmapped(device, address, size):
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, 2 * PAGE))
        header, _ = await peer.ask(3, dma_unmap(address, size))
        assert header.error == errno.ENOENT
        assert len(device.ranges) == 1


def wrong_files():
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair()
    with OwnedFd(write_end), theirs:
        yield OwnedFd(read_end)
        yield OwnedFd(ours.detach())
    yield OwnedFd(os.eventfd(0))
    yield OwnedFd(os.open("/", os.O_RDONLY))
    yield OwnedFd(os.open("/dev/null", os.O_RDWR))
    yield memfd(PAGE - 1)


async def test_memory_in_what_is_no_file_or_too_short_a_one_is_refused(device):
    async with raw_client_of(device) as peer:
        for fd in wrong_files():
            with fd:
                header, _ = await peer.ask(2, dma_map(IOVA, PAGE), [fd])
            assert header.error == errno.EINVAL
        with memfd(2 * PAGE) as fd:
            header, _ = await peer.ask(2, dma_map(IOVA, PAGE, offset=PAGE + 1), [fd])
            assert header.error == errno.EINVAL
    assert not any(call[0] == "map" for call in device.calls)


async def test_memory_that_the_client_cuts_short_is_reached_by_messages_then(device):
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd:
            await peer.ask(2, dma_map(IOVA, PAGE), [fd])
            os.truncate(fd.fileno(), 0)
            failed = []

            async def read():
                with pytest.raises(OSError, match="Bad address") as caught:
                    await device.memory.read(IOVA, 8)
                failed.append(caught.value.errno)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                header, payload = await peer.receive()
                assert (header.command, payload) == (11, struct.pack("=QQ", IOVA, 8))
                refusal = Header(id=header.id, command=11, size=16, flags=0x21, error=errno.EFAULT)
                await peer.send(refusal.build())
            assert failed == [errno.EFAULT]


async def test_a_table_of_ranges_has_an_end(device):
    async with raw_client_of(device) as peer:
        refused = 0
        for at in range(600):
            header, _ = await peer.ask(2, dma_map(IOVA + at * PAGE, PAGE))
            refused += header.is_error
            if header.is_error:
                assert header.error == errno.ENOSPC
        assert refused == 600 - 509


@pytest.mark.parametrize("size", [3, 5])
async def test_an_answer_of_another_length_than_was_asked_for_ends_the_connection(device, size):
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, PAGE))
        failed = []

        async def read():
            with pytest.raises(OSError, match=r"broke the protocol|closed"):
                await device.memory.read(IOVA, 4)
            failed.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            header, _ = await peer.receive()
            reply = Header(id=header.id, command=11, size=32 + size, flags=1).build()
            await peer.send(reply + struct.pack("=QQ", IOVA, size) + bytes(size))
            await peer.ended()
        assert failed


# Descriptors


async def test_a_flood_of_fds_is_refused_and_all_are_closed(device):
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd:
            for number, (command, payload) in enumerate(
                [
                    (2, dma_map(IOVA, PAGE)),
                    (4, info(16)),
                    (9, access(BAR, 0, 4)),
                    (8, set_irqs(0x24, 0, 4)),
                    (8, set_irqs(0x21, 0, 4)),
                ]
            ):
                header, _ = await peer.ask(command, payload, [fd] * 200, number=number)
                assert header.error == errno.EINVAL, command


async def test_an_interrupt_signals_eventfds_only(device):
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd, OwnedFd(os.eventfd(0)) as good:
            header, _ = await peer.ask(8, set_irqs(0x24, 0, 2), [good, fd])
            assert header.error == errno.EINVAL
            header, _ = await peer.ask(8, set_irqs(0x24, 0, 3), [good, good])
            assert header.error == errno.EINVAL
    assert device.vectors == [None] * 4


async def test_fds_in_the_middle_of_a_message_are_refused(device):
    async with raw_client_of(device) as peer:
        data = message(2, dma_map(IOVA, PAGE))
        await peer.send(data[:20])
        await wait_all_tasks_blocked()  # it must have been read by itself
        with memfd(PAGE) as fd:
            await peer.send(data[20:], [fd])
        header, _ = await peer.receive()
        assert header.error == errno.EINVAL


async def test_what_the_device_refuses_changes_nothing():
    device = RefusingDevice()
    try:
        async with raw_client_of(device) as peer:
            with memfd(PAGE) as fd, OwnedFd(os.eventfd(0)) as irq:
                for command, payload, fds, expected in (
                    (2, dma_map(IOVA, PAGE), [fd], errno.ENOMEM),
                    (2, dma_map(IOVA, PAGE), [fd], errno.ENOMEM),
                    (8, set_irqs(0x24, 0, 1), [irq], errno.ENOSPC),
                    (9, access(BAR, 0, 4), [], errno.EBUSY),
                    (13, b"", [], errno.EOPNOTSUPP),
                ):
                    header, _ = await peer.ask(command, payload, fds)
                    assert header.error == expected
    finally:
        device.close()
