"""Items 36, 74, 77 and 84 of the catalogue: what comes at a bad moment, or changes meanwhile.

A request goes through steps (written, made available, kicked, many of them under way, used) and at
each something else happens to its ring. Whoever stays must get every request's data once.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING, Any

import pytest
from flipping import flipping

from protocol.vhost_user import GetFeatures, SetMemTable, SetVringEnable
from protocol.virtio import BlkRequest, BlkStatus, VirtioFeatures
from vhostuser.frontend import TRANSPORT_FEATURES, VIRTIO_USER, BlockDriver, RegionLayout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from vhostuser.frontend import FrontendClient, GuestBuffer

LAYOUTS = {
    "split": TRANSPORT_FEATURES,
    "packed": TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED,
}
MIB = 1 << 20
GPA = 1 << 32
SECTOR = 512
FLIPS = 2000
Case = "Callable[[Any, VirtioFeatures], Awaitable[None]]"


class Requests:
    """Reads that were put into a ring by hand.

    Args:
        client: whose ring 0 is used.
    """

    def __init__(self, client: FrontendClient) -> None:
        self._memory = client.memory
        self._queue = client.queues[0]
        self._sent: list[tuple[int, int, GuestBuffer, GuestBuffer]] = []

    def write(self, sector: int, length: int = SECTOR, *, available: bool = True) -> None:
        """Write a chain, which the device sees if it is made available, and is told of."""
        memory, queue = self._memory, self._queue
        header, data, status = memory.alloc(16), memory.alloc(length), memory.alloc(1)
        memory.write(header.gpa, struct.pack("<IIQ", BlkRequest.IN, 0, sector))
        memory.write(status.gpa, b"\xff")
        if available:
            identity = queue.add([header], [data, status])
        else:
            with unpublished(queue):
                identity = queue.add([header], [data, status])
        assert identity is not None
        self._sent.append((identity, sector, data, status))

    def free(self) -> None:
        """Give their memory back."""
        for _, _, *buffers in self._sent:
            for buffer in buffers:
                self._memory.free(buffer)

    def publish(self) -> None:
        """Make visible what was only written."""
        if self._queue._ring.publish():
            self._queue.notify()

    async def all_used(self, disk: bytes) -> None:
        """Every one of them comes back once, with its data."""
        for identity, sector, data, status in self._sent:
            assert await self._queue.complete(identity) == data.length + 1
            assert self._memory.read(status.gpa, 1)[0] == BlkStatus.OK
            start = sector * SECTOR
            assert self._memory.read(data.gpa, data.length) == disk[start : start + data.length]
        assert self._queue.in_flight == 0


class Unpublished:
    """Stands for a driver's ring that forgets to make chains visible."""

    def __init__(self, ring: Any) -> None:
        self._ring = ring

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ring, name)

    def publish(self) -> bool:
        return False


@contextlib.contextmanager
def unpublished(queue: Any) -> Iterator[None]:
    ring, queue._ring = queue._ring, Unpublished(queue._ring)
    try:
        yield
    finally:
        queue._ring = ring


# What a request may have gone through


async def written(_client: FrontendClient, requests: Requests) -> None:
    requests.write(3, available=False)


async def available(client: FrontendClient, requests: Requests) -> None:
    await client.request(SetVringEnable(index=0, enable=0), need_reply=True)
    requests.write(3)
    requests.write(5)
    client.queues[0].notify()


async def kicked(_client: FrontendClient, requests: Requests) -> None:
    requests.write(3)


async def under_way(_client: FrontendClient, requests: Requests) -> None:
    """Enough that some wait, some are served and some are done."""
    for number in range(40):
        requests.write(number * 16, 32 * SECTOR)


async def used(client: FrontendClient, requests: Requests) -> None:
    """Done, and given back."""
    requests.write(3)
    await BlockDriver([client.queues[0]]).flush()


# What happens then


async def disconnect(_client: FrontendClient) -> bool:
    return False


async def stop_and_start(client: FrontendClient) -> bool:
    await client.stop()
    await client.start()
    return True


async def new_table(client: FrontendClient) -> bool:
    """The same memory, mapped anew, again and again."""
    regions = client.memory.regions
    message = SetMemTable(regions=tuple(region.description for region in regions))
    for _ in range(5):
        await client.request(message, [region.fd for region in regions], need_reply=True)
    return True


async def disable_and_enable(client: FrontendClient) -> bool:
    for enable in (0, 1, 0, 1):
        await client.request(SetVringEnable(index=0, enable=enable), need_reply=True)
    return True


STEPS = (written, available, kicked, under_way, used)
HAPPENINGS = (disconnect, stop_and_start, new_table, disable_and_enable)


def moment(step: Callable[..., Any], happening: Callable[..., Any]) -> Case:
    async def case(served: Any, features: VirtioFeatures) -> None:
        disk = served.image.read_bytes()
        memory = served.guest(RegionLayout(gpa=GPA, size=4 * MIB))
        async with served.disk(memory, features=features) as (client, driver):
            requests = Requests(client)
            await step(client, requests)
            if await happening(client):
                await client.request(SetVringEnable(index=0, enable=1), need_reply=True)
                requests.publish()
                await requests.all_used(disk)
                await served.reads(driver, sector=9)
        before = memory.regions[0].contents()
        await served.serves_the_next()
        assert memory.regions[0].contents() == before  # nobody writes there any more

    return case


async def table_under_load(served: Any, features: VirtioFeatures) -> None:
    """The ring moves from mapping to mapping while it is never empty."""
    disk = served.image.read_bytes()
    memory = served.guest(RegionLayout(gpa=GPA, size=4 * MIB))
    async with served.disk(memory, features=features, order=VIRTIO_USER) as (client, _):
        for _ in range(20):
            requests = Requests(client)
            for number in range(30):
                requests.write(number * 8, 8 * SECTOR)
            await new_table(client)
            await requests.all_used(disk)
            requests.free()


# What changes while it is read


def header(kind: int, sector: int) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def segment(sector: int, sectors: int) -> bytes:
    return struct.pack("<QII", sector, sectors, 0)


IN, OUT, DISCARD = BlkRequest.IN, BlkRequest.OUT, BlkRequest.DISCARD
FAR = 1 << 55
NEW = bytes(range(256)) * 2


def flips(one: bytes, other: bytes, *, parts: Sequence[bytes], of: int = 0, room: int = 0) -> Case:
    """One readable part of a request flips; the disk may change in sector 5 alone.

    What is read is what sector 3 holds, and only where the status says so.
    """

    async def case(served: Any, features: VirtioFeatures) -> None:
        disk = served.image.read_bytes()
        memory = served.guest(RegionLayout(gpa=GPA, size=4 * MIB))
        async with served.disk(memory, features=features) as (client, driver):
            readable = [memory.alloc(len(part)) for part in parts]
            for buffer, part in zip(readable, parts, strict=True):
                memory.write(buffer.gpa, part)
            data, status = memory.alloc(max(room, 1)).part(0, room), memory.alloc(1)
            flipped = memory.regions[0].fd, readable[of].gpa - GPA
            async with flipping(*flipped, one, other):
                for _ in range(FLIPS):
                    memory.write(status.gpa, b"\xff")
                    memory.write(data.gpa, bytes(room))
                    written = await client.queues[0].transfer(readable, [data, status])
                    outcome = memory.read(status.gpa, 1)[0]
                    assert outcome in {BlkStatus.OK, BlkStatus.IOERR, BlkStatus.UNSUPP}
                    if outcome == BlkStatus.OK and written > 1:
                        assert memory.read(data.gpa, room) == disk[3 * SECTOR : 3 * SECTOR + room]
            await served.reads(driver, sector=9)
        after = served.image.read_bytes()
        assert after[: 5 * SECTOR] == disk[: 5 * SECTOR]
        assert after[5 * SECTOR : 6 * SECTOR] in {disk[5 * SECTOR : 6 * SECTOR], NEW, bytes(SECTOR)}
        assert after[6 * SECTOR :] == disk[6 * SECTOR :]

    return case


def refused_base(avail: int, used: int) -> Case:
    """Halves of SET_VRING_BASE: 15 bits of offset and the wrap counter each."""

    async def case(served: Any, _features: VirtioFeatures) -> None:
        served.features = LAYOUTS["packed"]

        async def before(front_end: Any) -> None:
            fd = served.memfd(MIB)
            await served.does(
                front_end, "ADD_MEM_REG", struct.pack("=QQQQQ", 0, GPA, MIB, GPA, 0), [fd]
            )
            await served.does(front_end, "SET_VRING_NUM", struct.pack("=II", 0, 128))
            areas = struct.pack("=IIQQQQ", 0, 0, GPA, GPA + 0x2000, GPA + 0x1000, 0)
            await served.does(front_end, "SET_VRING_ADDR", areas)
            base = struct.pack("=II", 0, avail | used << 16)
            await served.does(front_end, "SET_VRING_BASE", base)

        fds = [served.eventfd()]
        await served.refuses("SET_VRING_KICK", bytes(8), fds, before=before, field="base")

    return case


def returned_base(avail: int, used: int) -> Case:
    """A position that a ring can have comes back as it was given."""

    async def case(served: Any, features: VirtioFeatures) -> None:
        memory = served.guest(RegionLayout(gpa=GPA, size=MIB))
        async with served.client(memory, features=features) as client:
            client.setup_queue(0)
            client.bases[0] = avail | used << 16
            await client.start()
            assert await client.get_vring_base(0) == avail | used << 16
            await client.ask(GetFeatures())

    return case


WRAP = 1 << 15
CASES: dict[str, Case] = {
    **{
        f"77-{step.__name__}-then-{happening.__name__}".replace("_", "-"): moment(step, happening)
        for step, happening in itertools.product(STEPS, HAPPENINGS)
    },
    "36-under-load": table_under_load,
    "74-sector-of-a-read": flips(header(IN, 3), header(IN, FAR), parts=[header(IN, 3)], room=512),
    "74-type-of-a-read": flips(header(IN, 3), header(DISCARD, 3), parts=[header(IN, 3)], room=512),
    "74-sector-of-a-write": flips(
        header(OUT, 5), header(OUT, FAR | 5), parts=[header(OUT, 5), NEW]
    ),
    "74-type-of-a-write": flips(header(OUT, 5), header(IN, 5), parts=[header(OUT, 5), NEW]),
    "74-segment-of-a-discard": flips(
        segment(5, 1),
        segment((1 << 64) - 1, 0xFFFFFFFF),
        of=1,
        parts=[header(DISCARD, 0), segment(5, 1)],
    ),
}
PACKED_CASES: dict[str, Case] = {
    "84-used-ahead": refused_base(5 | WRAP, 9 | WRAP),
    "84-used-ahead-in-the-other-lap": refused_base(5, 9),
    "84-used-a-lap-ahead": refused_base(5 | WRAP, 3),
    "84-more-than-a-lap-behind": refused_base(5, 3 | WRAP),
    "84-all-in-flight": returned_base(5, 5 | WRAP),
    "84-some-in-flight": returned_base(9 | WRAP, 5 | WRAP),
    "84-some-in-flight-over-the-end": returned_base(2, 126 | WRAP),
}
ALL = [
    pytest.param(case, LAYOUTS[layout], id=f"{name}-{layout}")
    for cases, layouts in ((CASES, LAYOUTS), (PACKED_CASES, ("packed",)))
    for name, case in cases.items()
    for layout in layouts
]


@pytest.mark.parametrize(("case", "features"), ALL)
async def hostile(
    case: Callable[[Any, VirtioFeatures], Awaitable[None]], features: VirtioFeatures, serving: Any
) -> None:
    async with serving() as served:
        await case(served, features)
