"""Item 122 of the catalogue: no number that a peer sends decides how much memory is taken.

The process gets little more address space than it has, so that whoever takes what a field says
cannot get it; and what Python takes meanwhile is counted.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import struct
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import FRONT_END_ROWS
from protocol.virtio import BlkRequest, BlkSegment, BlkStatus, VirtioFeatures
from vhostuser.frontend import TRANSPORT_FEATURES, GuestBuffer, RegionLayout
from vhostuser.testing import NEED_REPLY, VERSION, raw_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from protocol.vhost_user import MessageRow

Case = "Callable[[Any], Awaitable[None]]"
MIB = 1 << 20
ROOM = 256 * MIB
"""Address space for threads' stacks and the like; the numbers ask for 2 GiB and more."""
MOST_PYTHON = MIB
WORDS = (b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xf0\xff\xff\xff", b"\0\0\0\x80")
LONG_WORDS = (b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(5) + b"\1\0\0")


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * 4096


def private_memory() -> int:
    """Bytes of writable memory of its own that this process has mapped."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition("VmData:")[2].split()[0]) * 1024


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Nothing large can be taken within the block."""
    gc.collect()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + ROOM, before[1]))
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def little_python() -> Iterator[None]:
    """Nothing of some size is taken by Python within the block."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    yield
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < MOST_PYTHON


def payloads(row: MessageRow) -> Iterator[bytes]:
    """Payloads of every legal size class, with each word in turn at some of its largest values."""
    for size in sorted({row.payload.min_size, min(row.payload.max_size, 304)}):
        yield b"\xff" * size
        for values in (WORDS, LONG_WORDS):
            width = len(values[0])
            for start in range(0, min(size, 48) - width + 1, width):
                for value in values:
                    yield bytes(start) + value + bytes(size - start - width)


def every_field(row: MessageRow) -> Case:
    """Whatever a message carries, it is refused or harmless."""

    async def case(served: Any) -> None:
        with little_memory():
            for payload in payloads(row):
                with little_python():
                    async with served.raw() as front_end:
                        await ask(served, front_end, row, payload)
                for line in served.complaints():
                    assert "bug" not in line
                    assert "Cannot allocate" not in line

    return case


async def ask(served: Any, front_end: Any, row: MessageRow, payload: bytes) -> None:
    """Send a message, with as many fds as it may have, and another one behind it."""
    fds = [served.shared_memfd] * row.fds[1]
    data = raw_message(row.number, payload, flags=VERSION | NEED_REPLY)
    features = raw_message(NUMBERS["GET_FEATURES"])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await front_end.send(data, fds)
        await front_end.send(features)
        while True:
            reply = await front_end.reply()
            if reply is None or reply.number == NUMBERS["GET_FEATURES"]:
                return


NUMBERS = {row.name: row.number for row in FRONT_END_ROWS}


async def header_sizes(served: Any) -> None:
    with little_memory():
        for number in (1, 5, 24, 44, 0xFFFFFFFF):
            for size in (4097, 1 << 20, 1 << 30, 0x7FFFFFFF, 0xFFFFFFFF):
                with little_python():
                    async with served.raw() as front_end:
                        await front_end.send(raw_message(number, size=size))
                        await front_end.wait_closed()
                served.complaints()


async def largest_rings(served: Any) -> None:
    """What a ring takes depends on its size, which is bounded; started again it takes no more."""
    memory = served.guest(RegionLayout(gpa=MIB, size=8 * MIB))
    features = TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED
    async with served.client(memory, features=features, queues=2) as client:
        before = private_memory()
        with little_memory():
            for index in range(2):
                client.setup_queue(index, num=32768)
            for _ in range(20):
                await client.start()
                await client.stop()
        assert private_memory() - before < 32 * MIB


async def longest_buffers(served: Any) -> None:
    """Lengths and counts of requests that are taken as they are, and of some that are not."""
    memory = served.guest(RegionLayout(gpa=MIB, size=4 * MIB))
    async with served.disk(memory) as (client, disk):
        status = memory.alloc(1)
        before = private_memory()
        with little_memory():
            for kind in BlkRequest:
                for sector in (0, 1 << 55, (1 << 64) - 1):
                    await long_request(client, kind, sector, status)
            for sectors in (0x7FFFFFFF, 0xFFFFFFFF):
                segment = bytes(BlkSegment(sector=0, num_sectors=sectors))
                for kind in (BlkRequest.DISCARD, BlkRequest.WRITE_ZEROES):
                    result = await disk.execute(kind, 0, send=segment)
                    assert result.status == BlkStatus.IOERR
        assert private_memory() - before < 8 * MIB


async def long_request(client: Any, kind: int, sector: int, status: GuestBuffer) -> None:
    """All of guest memory as data, many times over."""
    memory, queue = client.memory, client.queues[0]
    header = memory.alloc(16)
    memory.write(header.gpa, struct.pack("<IIQ", kind, 0, sector))
    data = GuestBuffer(3 * MIB, 2 * MIB)
    parts = [data] * 120
    writes = kind in {BlkRequest.OUT, BlkRequest.DISCARD, BlkRequest.WRITE_ZEROES}
    out, into = ([header, *parts], [status]) if writes else ([header], [*parts, status])
    await queue.transfer(out, into)
    assert memory.read(status.gpa, 1)[0] in set(BlkStatus)
    memory.free(header)


CASES: dict[str, Case] = {
    "header-size": header_sizes,
    "largest-rings": largest_rings,
    "longest-buffers": longest_buffers,
    **{row.name.lower().replace("_", "-"): every_field(row) for row in FRONT_END_ROWS},
}


@pytest.mark.parametrize("case", CASES.values(), ids=[f"122-{name}" for name in CASES])
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any) -> None:
    async with serving(queue_size=32768) as served:
        served.shared_memfd = served.memfd(MIB)
        with trio.fail_after(60):
            await case(served)
