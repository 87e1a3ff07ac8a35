"""Items 42-46, 48 and 49 of the catalogue: setting rings up."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import (
    FRONT_END_ROWS,
    Gpa,
    SetVringAddr,
    SetVringEnable,
    Uva,
)
from protocol.virtio import VirtioFeatures
from vhostuser.frontend import (
    LIBBLKIO,
    QEMU,
    TRANSPORT_FEATURES,
    VIRTIO_USER,
    BlockDriver,
    Order,
    RegionLayout,
    RequestRefusedError,
    RingError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vhostuser.frontend import FrontendClient
    from vhostuser.testing import RawFrontend

Case = "Callable[[Any], Awaitable[None]]"
NUMBERS = {row.name: row.number for row in FRONT_END_ROWS}
PACKED = TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED
QUEUES = 2
MIB = 1 << 20
UVA = 0x7000_0000
NO_FD = 1 << 8


def state(value: int, index: int = 0) -> bytes:
    return struct.pack("=II", index, value)


def addr(*, index: int = 0, **areas: int) -> bytes:
    """Three areas in the first mebibyte of the region that `with_memory` shares."""
    desc, used, avail = (areas.get(name, UVA + at) for name, at in AREAS.items())
    return struct.pack("=IIQQQQ", index, areas.get("flags", 0), desc, used, avail, 0)


AREAS = {"desc": 0, "used": 0x2000, "avail": 0x1000}
BY_INDEX: dict[str, Callable[[int], bytes]] = {
    "SET_VRING_NUM": lambda index: state(128, index),
    "SET_VRING_ADDR": lambda index: addr(index=index),
    "SET_VRING_BASE": lambda index: state(0, index),
    "GET_VRING_BASE": lambda index: state(0, index),
    "SET_VRING_ENABLE": lambda index: state(1, index),
    "SET_VRING_KICK": lambda index: struct.pack("=Q", index),
    "SET_VRING_CALL": lambda index: struct.pack("=Q", index),
    "SET_VRING_ERR": lambda index: struct.pack("=Q", index),
}
INDEXES = (QUEUES, QUEUES + 1, 255, 256, 65535, 65536, 0xFFFFFFFF)


def bad_index(name: str, index: int) -> Case:
    has_fd = name in {"SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"}

    async def case(served: Any) -> None:
        fds = [served.eventfd()] if has_fd else []
        await served.refuses(name, BY_INDEX[name](index), fds)

    return case


def bad_num(num: int) -> Case:
    return lambda served: served.refuses("SET_VRING_NUM", state(num), field="num")


def works_with(num: int, features: VirtioFeatures, order: Order = QEMU) -> Case:
    async def case(served: Any) -> None:
        memory = served.guest(RegionLayout(gpa=MIB, size=4 * MIB))
        async with served.disk(memory, num=num, features=features, order=order) as (_, disk):
            for sector in range(5):
                await served.reads(disk, sector)

    return case


def sequence(*messages: tuple[str, bytes]) -> Callable[[Any], Any]:
    """Send these, with the fds that they need, and expect each to be accepted."""

    def prepare(served: Any) -> Callable[[RawFrontend], Awaitable[None]]:
        async def send(front_end: RawFrontend) -> None:
            for name, payload in messages:
                fds = [served.memfd(2 * MIB)] if name == "ADD_MEM_REG" else []
                await served.does(front_end, name, payload, fds)

        return send

    return prepare


MEMORY = ("ADD_MEM_REG", struct.pack("=QQQQQ", 0, MIB, MIB, UVA, 0))
SECOND = ("ADD_MEM_REG", struct.pack("=QQQQQ", 0, 2 * MIB, MIB, UVA + MIB, 0))
NUM = ("SET_VRING_NUM", state(128))
BASE = ("SET_VRING_BASE", state(0))
ADDR = ("SET_VRING_ADDR", addr())


def kick_refused(*messages: tuple[str, bytes], features: VirtioFeatures | None = None) -> Case:
    """After these, the ring does not start."""

    async def case(served: Any) -> None:
        served.features = features or served.features
        before = sequence(*messages)(served)
        fds = [served.eventfd()]
        await served.refuses("SET_VRING_KICK", struct.pack("=Q", 0), fds, before=before)

    return case


def starts(*messages: tuple[str, bytes]) -> Case:
    """After these, the ring starts, and stops again where it was."""

    async def case(served: Any) -> None:
        async with served.raw() as front_end:
            await sequence(*messages)(served)(front_end)
            await served.does(front_end, "SET_VRING_KICK", struct.pack("=Q", NO_FD))
            reply = await served.does(front_end, "GET_VRING_BASE", state(0))
            assert struct.unpack("=II", reply.payload) == (0, 0)

    return case


async def features_after_the_ring(served: Any) -> None:
    async with served.raw(negotiated=False) as front_end:
        for name, payload in (NUM, BASE, ADDR):
            await front_end.message(NUMBERS[name], payload)
        features = struct.pack("=Q", served.features)
        await front_end.message(NUMBERS["SET_FEATURES"], features)
        await front_end.message(
            NUMBERS["SET_PROTOCOL_FEATURES"], struct.pack("=Q", served.protocol)
        )
        await sequence(MEMORY)(served)(front_end)
        await served.does(front_end, "SET_VRING_KICK", struct.pack("=Q", NO_FD))


def misaligned(**area: int) -> Case:
    (field,) = area
    return lambda served: served.refuses("SET_VRING_ADDR", addr(**area), field=field)


def misplaced(**areas: int) -> Case:
    return kick_refused(MEMORY, NUM, BASE, ("SET_VRING_ADDR", addr(**areas)))


async def areas_overlap(served: Any) -> None:
    """Whatever the ring says then, the server outlives it."""
    async with served.raw() as front_end:
        same = ("SET_VRING_ADDR", addr(desc=UVA, used=UVA, avail=UVA))
        await sequence(MEMORY, NUM, BASE, same)(served)(front_end)
        await served.does(front_end, "SET_VRING_ENABLE", state(1))
        await served.does(front_end, "SET_VRING_KICK", struct.pack("=Q", NO_FD))
        await served.does(front_end, "GET_VRING_BASE", state(0))


def addresses(client: FrontendClient, shift: int = 0) -> SetVringAddr:
    areas, uva = client.queues[0].areas, client.memory.uva
    return SetVringAddr(
        index=0,
        flags=0,
        desc=Uva(uva(areas.desc.gpa) + shift),
        avail=uva(areas.driver.gpa),
        used=uva(areas.device.gpa),
        log=Gpa(0),
    )


async def same_addresses_while_running(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        await client.request(addresses(client))
        await served.reads(disk)


async def other_addresses_while_running(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        with pytest.raises(RequestRefusedError):
            await client.request(addresses(client, 4096))
        served.complained_once("SET_VRING_ADDR", "desc")
        await served.reads(disk)


async def available_index_jumps(served: Any) -> None:
    async with served.client(served.guest()) as client:
        queue = client.setup_queue(0)
        index = queue.areas.driver.part(2, 2)
        client.memory.write(index.gpa, struct.pack("<H", 500))
        await client.start()
        await trio.lowlevel.wait_readable(queue.err.fileno())
        with pytest.raises(RingError, match=r"^ring 0: the back-end reported"):
            await queue.complete(0)
        assert await client.get_vring_base(0) == 0
        lines = served.complaints()
        assert len(lines) == 1
        assert "AVAIL_JUMP = 0x1f4" in lines[0]


async def base_near_the_wrap(served: Any) -> None:
    """Both positions, ours and the one in guest memory, agree far from 0."""
    async with served.client(served.guest()) as client:
        queue = client.setup_queue(0)
        for area in (queue.areas.driver, queue.areas.device):
            client.memory.write(area.gpa + 2, struct.pack("<H", 65534))
        client.bases[0] = 65534
        await client.start()
        assert await client.get_vring_base(0) == 65534


async def enabled_before_it_is_set_up(served: Any) -> None:
    memory = served.guest()
    async with served.client(memory) as client:
        for enable in (1, 0, 1):
            await client.request(SetVringEnable(index=1, enable=enable))
        queue = client.setup_queue(1)
        await client.start()
        await served.reads(BlockDriver([queue]))


async def enabled_without_protocol_features(served: Any) -> None:
    """A ring begins enabled then; what comes in SET_VRING_ENABLE still counts."""
    features = TRANSPORT_FEATURES & ~VirtioFeatures.PROTOCOL_FEATURES
    async with served.disk(served.guest(), features=features) as (client, disk):
        await served.reads(disk)
        await client.request(SetVringEnable(index=0, enable=0))
        await client.request(SetVringEnable(index=0, enable=1))
        await served.reads(disk)


def packed_base(base: int) -> Case:
    """A new ring begins at its beginning when the front-end says so in this way."""

    async def case(served: Any) -> None:
        async with served.client(served.guest(), features=PACKED) as client:
            queue = client.setup_queue(0, num=6)
            client.bases[0] = base
            await client.start()
            await served.reads(BlockDriver([queue]))

    return case


CASES = {
    **{
        f"42-{name.lower().replace('_', '-')}-{index}": bad_index(name, index)
        for name in BY_INDEX
        for index in INDEXES
    },
    "43-num-0": bad_num(0),
    "43-num-3-split": bad_num(3),
    "43-num-above-maximum": bad_num(2048),
    "43-num-32769": bad_num(32769),
    "43-num-65535": bad_num(65535),
    "43-num-2-31": bad_num(1 << 31),
    "43-num-4": works_with(4, TRANSPORT_FEATURES),
    "43-num-32768": works_with(32768, TRANSPORT_FEATURES),
    "43-num-3-packed": works_with(3, PACKED),
    "43-num-6-packed": works_with(6, PACKED),
    "43-num-32768-packed": works_with(32768, PACKED),
    "44-addr-before-memory": kick_refused(NUM, BASE, ADDR),
    "44-kick-before-num": kick_refused(MEMORY, BASE, ADDR),
    "44-kick-before-addr": kick_refused(MEMORY, NUM, BASE),
    "44-memory-after-addr": starts(ADDR, NUM, BASE, MEMORY),
    "44-without-base": starts(MEMORY, NUM, ADDR),
    "44-features-after-addr": features_after_the_ring,
    "45-desc-unaligned": misaligned(desc=UVA + 8),
    "45-avail-unaligned": misaligned(avail=UVA + 0x1001),
    "45-used-unaligned": misaligned(used=UVA + 0x2002),
    "45-desc-outside": misplaced(desc=UVA - 4096),
    "45-used-outside": misplaced(used=UVA + MIB),
    "45-desc-at-the-last-bytes": misplaced(desc=UVA + MIB - 16),
    "45-avail-at-the-last-bytes": misplaced(avail=UVA + MIB - 2),
    "45-used-at-the-last-bytes": misplaced(used=UVA + MIB - 4),
    "45-desc-wraps": misplaced(desc=(1 << 64) - 16),
    "45-avail-wraps": misplaced(avail=(1 << 64) - 2),
    "45-crosses-regions": kick_refused(
        MEMORY, SECOND, NUM, BASE, ("SET_VRING_ADDR", addr(desc=UVA + MIB - 64))
    ),
    "45-overlap": areas_overlap,
    "46-same-while-running": same_addresses_while_running,
    "46-other-while-running": other_addresses_while_running,
    "48-split-above-65535": lambda served: served.refuses(
        "SET_VRING_BASE", state(65536), field="base"
    ),
    "48-split-far-from-used": kick_refused(MEMORY, NUM, ADDR, ("SET_VRING_BASE", state(1000))),
    "48-avail-index-jumps": available_index_jumps,
    "48-split-near-the-wrap": base_near_the_wrap,
    "48-packed-used-offset": kick_refused(
        MEMORY, NUM, ADDR, ("SET_VRING_BASE", state(0x8000 | (0x8000 | 128) << 16)), features=PACKED
    ),
    "48-packed-avail-offset": kick_refused(
        MEMORY, NUM, ADDR, ("SET_VRING_BASE", state(0x8000_8000 | 128)), features=PACKED
    ),
    "48-packed-no-used-half": packed_base(0x8000),  # virtio-user
    "48-packed-no-wrap-counter": packed_base(0),  # user-mode Linux
    "49-enable-2": lambda served: served.refuses("SET_VRING_ENABLE", state(2)),
    "49-enable-4g": lambda served: served.refuses("SET_VRING_ENABLE", state(0xFFFFFFFF)),
    "49-never-configured": enabled_before_it_is_set_up,
    "49-without-feature-30": enabled_without_protocol_features,
    "49-order-of-libblkio": works_with(128, TRANSPORT_FEATURES, LIBBLKIO),
    "49-order-of-virtio-user": works_with(128, PACKED, VIRTIO_USER),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any, request: Any) -> None:
    largest = 32768 if "num-32768" in request.node.name else 1024
    async with serving(queues=QUEUES, queue_size=largest) as served:
        await case(served)
