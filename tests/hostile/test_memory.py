"""Items 26-29 and 31-40 of the catalogue: the memory table."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import (
    FRONT_END_ROWS,
    AddMemReg,
    Gpa,
    MemRegion,
    RemMemReg,
    SetMemTable,
    SetVringEnable,
    Uva,
)
from vhostuser.frontend import (
    VIRTIO_USER,
    BlockDriver,
    GuestMemory,
    RegionLayout,
    RequestRefusedError,
    RingError,
)
from vhostuser.memory import MAX_SLOTS
from vhostuser.testing import NEED_REPLY, VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NUMBERS = {row.name: row.number for row in FRONT_END_ROWS}
PAGE = 4096
MIB = 1 << 20
GPA, UVA = 0x1_0000_0000, 0x7000_0000
TOP = 1 << 64
Case = "Callable[[Any], Awaitable[None]]"


def region(gpa: int = GPA, size: int = MIB, uva: int = UVA, offset: int = 0) -> bytes:
    return struct.pack("=QQQQ", gpa, size, uva, offset)


def table(*regions: bytes, count: int | None = None) -> bytes:
    return struct.pack("=II", len(regions) if count is None else count, 0) + b"".join(regions)


def single(data: bytes) -> bytes:
    return bytes(8) + data


def apart(count: int) -> list[bytes]:
    """Regions that do not touch."""
    return [region(GPA + 2 * MIB * i, MIB, UVA + 2 * MIB * i) for i in range(count)]


def bad_table(payload: bytes, fds: int) -> Case:
    async def case(served: Any) -> None:
        await served.refuses("SET_MEM_TABLE", payload, [served.memfd(MIB)] * fds)

    return case


def bad_region(**fields: int) -> Case:
    """Refused by both messages that bring regions."""

    async def case(served: Any) -> None:
        fd = served.memfd(MIB)
        await served.refuses("ADD_MEM_REG", single(region(**fields)), [fd])
        await served.refuses("SET_MEM_TABLE", table(region(**fields)), [fd])

    return case


def good_region(**fields: int) -> Case:
    """Taken by both messages that bring regions."""

    async def case(served: Any) -> None:
        fd = served.memfd(MIB)
        async with served.raw() as front_end:
            await served.does(front_end, "ADD_MEM_REG", single(region(**fields)), [fd])
            await served.does(front_end, "REM_MEM_REG", single(region(**fields)))
            await served.does(front_end, "SET_MEM_TABLE", table(region(**fields)), [fd])

    return case


def overlapping(second: bytes) -> Case:
    """The second region cannot be in a table with the first."""

    async def case(served: Any) -> None:
        fd = served.memfd(4 * MIB)

        async def first(front_end: Any) -> None:
            await served.does(front_end, "ADD_MEM_REG", single(region()), [fd])

        await served.refuses("ADD_MEM_REG", single(second), [fd], before=first)
        await served.refuses("SET_MEM_TABLE", table(region(), second), [fd, fd])

    return case


def works_in(*layout: RegionLayout, prepare: Callable[[GuestMemory], None] | None = None) -> Case:
    """A disk works in guest memory that looks like this."""

    async def case(served: Any) -> None:
        memory = served.guest(*layout)
        async with served.disk(memory) as (_, disk):
            if prepare is not None:
                prepare(memory)
            await served.reads(disk, sector=7, length=4096)

    return case


def punch(memory: GuestMemory) -> None:
    """Give every page back to the host that the ring does not use; the file keeps its size."""
    used = 64 * 1024
    memory.regions[0]._map.madvise(mmap.MADV_REMOVE, used, MIB - used)


async def buffer_crosses_adjacent_regions(served: Any) -> None:
    second = RegionLayout(gpa=GPA + MIB, size=MIB)
    memory = served.guest(RegionLayout(gpa=GPA, size=MIB), second)
    async with served.disk(memory) as (client, _):
        header, status = memory.alloc(16), memory.alloc(1)
        edge = memory.region_of(GPA).layout.gpa + MIB - 512
        buffer = type(header)(edge, 1024)
        memory.write(header.gpa, struct.pack("<IIQ", 0, 0, 3))
        assert await client.queues[0].transfer([header], [buffer, status]) == 1025
        assert memory.read(buffer.gpa, 1024) == served.image.read_bytes()[3 * 512 : 5 * 512]


async def every_slot_and_one_more(served: Any) -> None:
    fd = served.memfd(PAGE * (MAX_SLOTS + 1))
    slots = [
        single(region(GPA + i * PAGE, PAGE, UVA + i * PAGE, i * PAGE)) for i in range(MAX_SLOTS + 1)
    ]
    async with served.raw() as front_end:
        for slot in slots[:MAX_SLOTS]:
            await served.does(front_end, "ADD_MEM_REG", slot, [fd])
        flags = VERSION | NEED_REPLY
        reply = await front_end.ask(NUMBERS["ADD_MEM_REG"], slots[-1], flags=flags, fds=[fd])
        assert reply.value != 0
        served.complained_once("ADD_MEM_REG", "region")
        await served.does(front_end, "REM_MEM_REG", slots[0])
        await served.does(front_end, "ADD_MEM_REG", slots[-1], [fd])


async def remove_with_an_fd(served: Any) -> None:
    fd = served.memfd(MIB)
    async with served.raw() as front_end:
        await served.does(front_end, "ADD_MEM_REG", single(region()), [fd])
        await served.does(front_end, "REM_MEM_REG", single(region()), [fd])


async def remove_what_a_ring_uses(served: Any) -> None:
    memory = served.guest()
    async with served.disk(memory) as (client, disk):
        await client.remove_region(memory.regions[0])
        await trio.lowlevel.wait_readable(client.queues[0].err.fileno())
        with pytest.raises(RingError, match=r"^ring 0: the back-end reported"):
            await disk.flush()
        lines = served.complaints()
        assert len(lines) == 1
        assert "ring 0" in lines[0]
        assert "RING_ADDRESS" in lines[0]
        await client.get_vring_base(0)


async def remove_what_a_waiting_request_uses(served: Any) -> None:
    data = RegionLayout(gpa=GPA, size=MIB)
    memory = served.guest(RegionLayout(gpa=MIB, size=MIB), data)
    async with served.disk(memory) as (client, disk):
        queue = client.queues[0]
        await client.request(SetVringEnable(index=0, enable=0))
        header, status = memory.alloc(16), memory.alloc(1)
        memory.write(header.gpa, bytes(16))
        queue.add([header], [type(header)(GPA, 512), status])
        await client.remove_region(memory.regions[1])
        await client.request(SetVringEnable(index=0, enable=1))
        with pytest.raises(RingError, match=r"^ring 0: the back-end reported"):
            await disk.flush()
        lines = served.complaints()
        assert len(lines) == 1
        assert "ADDRESS" in lines[0]
        assert hex(GPA) in lines[0]


async def huge_and_sparse(served: Any) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE

    before = resident()
    await works_in(RegionLayout(gpa=0, size=1 << 40))(served)
    assert resident() - before < 64 * MIB


async def huge_pages(served: Any) -> None:
    flags = os.MFD_CLOEXEC | os.MFD_HUGETLB
    fd = served.fd(os.memfd_create("huge", flags))
    os.truncate(fd.fileno(), 4 * MIB)
    for odd in (region(size=PAGE), region(size=2 * MIB + PAGE), region(size=PAGE, offset=MIB)):
        async with served.raw() as front_end:
            await served.does(front_end, "ADD_MEM_REG", single(odd), [fd])
            await served.does(front_end, "REM_MEM_REG", single(odd))
            await served.does(front_end, "ADD_MEM_REG", single(odd), [fd])


async def table_after_added_regions(served: Any) -> None:
    memory = served.guest()
    extra = MemRegion(gpa=Gpa(1 << 40), size=MIB, uva=Uva(1 << 20))
    async with served.client(memory, order=VIRTIO_USER) as client:
        await client.request(AddMemReg(region=extra), [served.memfd(MIB)], need_reply=True)
        queue = client.setup_queue(0)
        await client.start()
        await served.reads(BlockDriver([queue]))
        with pytest.raises(RequestRefusedError):
            await client.request(RemMemReg(region=extra), need_reply=True)
        served.complained_once("REM_MEM_REG", "region")
        await served.reads(BlockDriver([queue]))


async def same_table_while_a_ring_runs(served: Any) -> None:
    """The ring moves to the new mapping; so does a second region that came since."""
    memory = served.guest(layout())
    async with served.disk(memory, order=VIRTIO_USER) as (client, disk):
        await served.reads(disk)
        memory.add_region(layout(gpa=GPA + 4 * MIB))
        regions = memory.regions
        message = SetMemTable(regions=tuple(region.description for region in regions))
        await client.request(message, [region.fd for region in regions], need_reply=True)
        await served.reads(disk, sector=7)


async def table_without_the_ring(served: Any) -> None:
    memory = served.guest(layout())
    async with served.disk(memory, order=VIRTIO_USER) as (client, disk):
        other = MemRegion(gpa=Gpa(1 << 40), size=MIB, uva=Uva(1 << 20))
        await client.request(SetMemTable(regions=(other,)), [served.memfd(MIB)], need_reply=True)
        with pytest.raises(RingError, match=r"^ring 0: the back-end reported"):
            await disk.flush()
        assert "RING_ADDRESS" in served.complaints()[0]


async def table_with_room_to_spare(served: Any) -> None:
    """User-mode Linux sends room for two regions, always; what is in the second is nothing."""
    spare = region(size=0, uva=2**64 - 1)
    async with served.raw() as front_end:
        await served.does(
            front_end, "SET_MEM_TABLE", table(region(), spare, count=1), [served.memfd(MIB)]
        )


def layout(**fields: Any) -> RegionLayout:
    return RegionLayout(**{"gpa": GPA, "size": MIB, **fields})


NINE = table(*apart(8), region(GPA + 64 * MIB, uva=UVA + 64 * MIB))
ADJACENT = (layout(), layout(gpa=GPA + MIB))
CASES = {
    "26-none": bad_table(table(), 0),
    "26-nine": bad_table(NINE, 9),
    "26-count-4g": bad_table(table(region(), count=0xFFFFFFFF), 1),
    "26-count-above-regions": bad_table(table(region(), count=2), 2),
    "26-count-below-regions": table_with_room_to_spare,
    "26-more-regions-than-fds": bad_table(table(*apart(2)), 1),
    "26-more-fds-than-regions": bad_table(table(*apart(2)), 3),
    "27-size-0": bad_region(size=0),
    "27-size-1": good_region(size=1),
    "27-size-4097": good_region(size=4097),
    "28-gpa-wraps": bad_region(gpa=TOP - PAGE, size=2 * PAGE),
    "28-uva-wraps": bad_region(uva=TOP - PAGE, size=2 * PAGE),
    "28-offset-wraps": bad_region(offset=TOP - PAGE, size=2 * PAGE),
    "28-size-wraps": bad_region(size=TOP - PAGE),
    "29-offset-unaligned": bad_region(offset=1, size=PAGE),
    "29-offset-beyond-fd": bad_region(offset=2 * MIB, size=PAGE),
    "29-offset-at-end-of-fd": bad_region(offset=MIB, size=PAGE),
    "29-end-beyond-fd": bad_region(offset=PAGE),
    "29-end-one-byte-beyond-fd": bad_region(size=MIB + 1),
    "31-holes": works_in(layout(), prepare=punch),
    "32-sealed": works_in(layout(sealed=True)),
    "32-unsealed": works_in(layout(sealed=False)),
    "33-gpa": overlapping(region(GPA + MIB - PAGE, uva=UVA + 2 * MIB, offset=MIB)),
    "33-uva": overlapping(region(GPA + 2 * MIB, uva=UVA + MIB - PAGE, offset=MIB)),
    "33-inside": overlapping(region(GPA + PAGE, PAGE, UVA + 2 * MIB)),
    "33-identical": overlapping(region()),
    "34-adjacent": works_in(*ADJACENT),
    "34-buffer-crosses": buffer_crosses_adjacent_regions,
    "35-509-and-one-more": every_slot_and_one_more,
    "35-add-existing": overlapping(region()),
    "35-remove-unknown": lambda served: served.refuses(
        "REM_MEM_REG", single(region()), field="region"
    ),
    "35-remove-with-fd": remove_with_an_fd,
    "35-remove-under-ring": remove_what_a_ring_uses,
    "35-remove-under-request": remove_what_a_waiting_request_uses,
    "36-same-ring": same_table_while_a_ring_runs,
    "36-ring-not-in-it": table_without_the_ring,
    "37-huge-sparse": huge_and_sparse,
    "38-hugetlb-odd-size": huge_pages,
    "39-uva-in-vsyscall": works_in(layout(uva=0xFFFF_FFFF_FF60_0000)),
    "39-gpa-above-2-52": works_in(layout(gpa=1 << 60)),
    "39-gpa-near-the-top": works_in(layout(gpa=TOP - 2 * MIB)),
    "40-table-after-add": table_after_added_regions,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any) -> None:
    async with serving() as served:
        await case(served)
