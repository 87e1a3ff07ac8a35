"""Item 30 of the catalogue: files of guest memory that are truncated while rings use them.

The front-end runs in this process and maps its memory without protection, so that no case touches
what it took away. The engine's own tests (tests/native) look at every moment of a fault.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from protocol.vhost_user import FRONT_END_ROWS, GetFeatures, SetVringEnable
from protocol.virtio import BlkRequest, BlkStatus, VirtioFeatures
from vhostuser.frontend import (
    TRANSPORT_FEATURES,
    BackendClosedError,
    BlockDriver,
    GuestBuffer,
    RegionLayout,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vhostuser.frontend import FrontendClient, GuestMemory

NUMBERS = {row.name: row.number for row in FRONT_END_ROWS}
MIB = 1 << 20
RING, DATA = MIB, 16 * MIB
UVA = 0x7000_0000
NO_FD = 1 << 8
LAYOUTS = {
    "split": TRANSPORT_FEATURES,
    "packed": TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED,
}
Case = "Callable[[Any, VirtioFeatures], Awaitable[None]]"


def two_regions(served: Any) -> GuestMemory:
    """Guest memory in two files: rings and what is allocated lie in the first, at `RING`."""
    ring = RegionLayout(gpa=RING, size=MIB, sealed=False)
    return served.guest(ring, RegionLayout(gpa=DATA, size=MIB, sealed=False))


def truncate(memory: GuestMemory, gpa: int, length: int) -> None:
    os.ftruncate(memory.region_of(gpa).fd.fileno(), length)


def header_of(memory: GuestMemory, kind: int = BlkRequest.IN, gpa: int | None = None) -> Any:
    """Write the header of a request for sector 3; its place is the first region or `gpa`."""
    header = memory.alloc(16) if gpa is None else GuestBuffer(gpa, 16)
    memory.write(header.gpa, struct.pack("<IIQ", kind, 0, 3))
    return header


async def closed(client: FrontendClient) -> None:
    """Talk to the server for as long as it listens."""
    with contextlib.suppress(BackendClosedError):
        while True:
            await client.ask(GetFeatures())


async def left(served: Any, client: FrontendClient, region: int = RING) -> None:
    """The server ends the connection, with one line that says why."""
    await closed(client)
    (line,) = served.complaints()
    assert f"closed: ring 0 stopped: MEMORY = {region:#x}: a file that" in line


def ring_gone(length: int, *, above: int = 0) -> Case:
    """The ring's file is cut to `length` bytes; the ring lies `above` a part of it."""

    async def case(served: Any, features: VirtioFeatures) -> None:
        memory = two_regions(served)
        if above:
            memory.alloc(above)
        async with served.disk(memory, features=features) as (client, disk):
            await served.reads(disk, sector=7)
            truncate(memory, RING, length)
            client.queues[0].notify()
            await left(served, client)

    return case


async def every_ring_gone(served: Any, features: VirtioFeatures) -> None:
    """The line that says why is still one."""
    memory = two_regions(served)
    async with served.client(memory, features=features, queues=2) as client:
        queues = [client.setup_queue(index) for index in range(2)]
        await client.start()
        await served.reads(BlockDriver(queues))
        truncate(memory, RING, 0)
        for queue in queues:
            queue.notify()
        await closed(client)
        (line,) = served.complaints()
        assert "MEMORY" in line


async def gone_under_load(served: Any, features: VirtioFeatures) -> None:
    """Requests are being served, each somewhere else, when it happens."""
    memory = two_regions(served)
    async with served.disk(memory, features=features) as (client, _):
        queue, header = client.queues[0], header_of(memory)
        for index in range(40):
            queue.add([header], [GuestBuffer(DATA + 8192 * index, 8192), memory.alloc(1)])
        truncate(memory, RING, 0)
        queue.notify()
        await left(served, client)


async def gone_before_the_stop(served: Any, features: VirtioFeatures) -> None:
    """A ring that is stopped has no news; it only must not take the process with it."""
    memory = two_regions(served)
    async with served.disk(memory, features=features) as (client, disk):
        await served.reads(disk)
        truncate(memory, RING, 0)
        await client.get_vring_base(0)
        await client.ask(GetFeatures())


def waiting_request_gone(header: int | None, status: int | None) -> Case:
    """A request waits in a ring that is left whole, its header or its status is gone."""

    async def case(served: Any, features: VirtioFeatures) -> None:
        memory = two_regions(served)
        async with served.disk(memory, features=features) as (client, _):
            await client.request(SetVringEnable(index=0, enable=0), need_reply=True)
            data = memory.alloc(512)
            last = memory.alloc(1) if status is None else GuestBuffer(status, 1)
            client.queues[0].add([header_of(memory, gpa=header)], [data, last])
            truncate(memory, DATA, 0)
            await client.request(SetVringEnable(index=0, enable=1), need_reply=False)
            await left(served, client, region=DATA)

    return case


async def data_gone(served: Any, features: VirtioFeatures) -> None:
    """Only the host's kernel meets it: that request fails, and when the file is back, none does."""
    memory = two_regions(served)
    async with served.disk(memory, features=features) as (client, disk):
        queue, status = client.queues[0], memory.alloc(1)
        read, write = header_of(memory), header_of(memory, BlkRequest.OUT)
        data = GuestBuffer(DATA + 4096, 4096)
        before = served.image.read_bytes()
        truncate(memory, DATA, 0)
        await queue.transfer([read], [data, status])
        assert memory.read(status.gpa, 1)[0] == BlkStatus.IOERR
        await queue.transfer([write, data], [status])
        assert memory.read(status.gpa, 1)[0] == BlkStatus.IOERR
        assert served.image.read_bytes() == before
        truncate(memory, DATA, MIB)
        assert await queue.transfer([read], [data, status]) == 4097
        assert memory.read(status.gpa, 1)[0] == BlkStatus.OK
        assert memory.read(data.gpa, 4096) == before[3 * 512 : 11 * 512]
        await served.reads(disk)


async def half_of_the_data_gone(served: Any, features: VirtioFeatures) -> None:
    """A transfer that the host's kernel ends half-way is no success."""
    memory = two_regions(served)
    async with served.disk(memory, features=features) as (client, disk):
        queue, status, read = client.queues[0], memory.alloc(1), header_of(memory)
        truncate(memory, DATA, MIB // 2)
        data = GuestBuffer(DATA + MIB // 2 - 4096, 8192)
        await queue.transfer([read], [data, status])
        assert memory.read(status.gpa, 1)[0] == BlkStatus.IOERR
        await served.reads(disk)


def gone_before_the_start(flags: int) -> Case:
    """Huge pages also where the host had none to give, and nothing needs to be truncated."""

    async def case(served: Any, features: VirtioFeatures) -> None:
        fd = served.fd(os.memfd_create("memory", os.MFD_CLOEXEC | flags))
        os.truncate(fd.fileno(), 4 * MIB)
        served.features = features
        async with served.raw() as front_end:
            region = struct.pack("=QQQQQ", 0, RING, 4 * MIB, UVA, 0)
            await served.does(front_end, "ADD_MEM_REG", region, [fd])
            os.truncate(fd.fileno(), 0)
            await served.does(front_end, "SET_VRING_NUM", struct.pack("=II", 0, 128))
            areas = struct.pack("=IIQQQQ", 0, 0, UVA, UVA + 0x2000, UVA + 0x1000, 0)
            await served.does(front_end, "SET_VRING_ADDR", areas)
            await front_end.message(NUMBERS["SET_VRING_ENABLE"], struct.pack("=II", 0, 1))
            await front_end.message(NUMBERS["SET_VRING_KICK"], struct.pack("=Q", NO_FD))
            await front_end.wait_closed()
        (line,) = served.complaints()
        assert "MEMORY = 0x100000" in line

    return case


CASES: dict[str, Case] = {
    "ring-gone-to-0": ring_gone(0),
    "ring-gone-to-half": ring_gone(MIB // 2, above=MIB // 2),
    "ring-gone-to-a-page": ring_gone(4096, above=4096),
    "every-ring-gone": every_ring_gone,
    "gone-under-load": gone_under_load,
    "gone-before-the-start": gone_before_the_start(0),
    "gone-before-the-stop": gone_before_the_stop,
    "header-gone": waiting_request_gone(DATA, None),
    "status-gone": waiting_request_gone(None, DATA + 100),
    "data-gone": data_gone,
    "half-of-the-data-gone": half_of_the_data_gone,
    "huge-pages-gone-before-the-start": gone_before_the_start(os.MFD_HUGETLB),
}


@pytest.mark.parametrize("features", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=[f"30-{name}" for name in CASES])
async def hostile(
    case: Callable[[Any, VirtioFeatures], Awaitable[None]], features: VirtioFeatures, serving: Any
) -> None:
    async with serving() as served:
        await case(served, features)
