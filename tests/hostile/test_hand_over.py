"""Item 96 of the catalogue: what is handed over is not what it should be, or the device dies.

Offers are made by a back-end without manners to this project's front-end; the files' own tests
(tests/vhostuser/frontend) try more of them, over a live area and at other moments. The device that
dies is the simulated one, in this process, in front of a disk that the software serves, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from backend_rig import handing_over, memfd
from simulator_rig import connected

from accel.simulator import FaultKind, FaultRequest, SimulatedDevice, SimulatorOptions
from accel.virtio_pci import open_virtio
from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2, Dialect
from protocol.virtio import VirtioFeatures
from vhostuser.devices import AcceleratedDevice, BlkDevice, BlkOptions, open_store
from vhostuser.errors import AcceleratorError, leaves
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
    RingError,
)
from vhostuser.testing import held, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PAGE, SECTORS = 4096, 2048
NO_FD = 0x100
PATIENCE = 30


# A back-end that hands over what it should not


def bad_offer(
    make: Callable[[], OwnedFd], *, word: int = 0, size: int = PAGE, offset: int = 0
) -> Callable[[Dialect], Awaitable[None]]:
    """Refused; the live area of before stays, and so does the channel."""

    async def case(dialect: Dialect) -> None:
        async with handing_over(dialect) as (client, backend):
            with memfd() as page:
                assert await backend.offer(page.duplicate()) == 0
                payload = struct.pack("=QQQ", word, size, offset)
                assert await backend.say(backend.area.number, payload, [make()]) == 1
                client.queues[0].notify()
                assert os.pread(page.fileno(), 2, 0) == b"\0\0"
                assert client.queues[0].kicks.eventfd == 0

    return case


async def same_queue_twice(dialect: Dialect) -> None:
    async with handing_over(dialect) as (client, backend):
        with memfd() as old, memfd() as new:
            for page in (old, new):
                assert await backend.offer(page.duplicate()) == 0
            client.queues[0].notify()
            assert os.pread(old.fileno(), 2, 0) == b"\xff\xff"
            assert os.pread(new.fileno(), 2, 0) == b"\0\0"


async def no_group(dialect: Dialect) -> None:
    async with handing_over(dialect) as (client, backend):
        for make in (memfd, null, eventfd, sock):
            assert await backend.offer_group(make()) == 1
        assert len(client.groups) == 0


def file(size: int) -> Callable[[], OwnedFd]:
    return lambda: memfd(size)


def null() -> OwnedFd:
    return OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))


def eventfd() -> OwnedFd:
    return OwnedFd(os.eventfd(0, os.EFD_CLOEXEC))


def sock() -> OwnedFd:
    return OwnedFd(socket.socket(socket.AF_UNIX).detach())


def directory() -> OwnedFd:
    return OwnedFd(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


OFFERS = {
    "96-offset-misaligned": bad_offer(file(4 * PAGE), offset=2048),
    "96-size-misaligned": bad_offer(file(4 * PAGE), size=2048),
    "96-size-0": bad_offer(memfd, size=0),
    "96-size-larger-than-the-file": bad_offer(memfd, size=2 * PAGE),
    "96-size-2-40": bad_offer(memfd, size=1 << 40),
    "96-offset-at-the-end": bad_offer(memfd, offset=PAGE),
    "96-range-wraps": bad_offer(memfd, offset=2**64 - PAGE),
    "96-queue-too-large": bad_offer(memfd, word=2),
    "96-queue-255": bad_offer(memfd, word=255),
    "96-reserved-bits": bad_offer(memfd, word=1 << 40),
    "96-flag-with-an-fd": bad_offer(memfd, word=NO_FD),
    "96-null-device": bad_offer(null),
    "96-eventfd": bad_offer(eventfd),
    "96-socket": bad_offer(sock),
    "96-directory": bad_offer(directory),
    "96-same-queue-twice": same_queue_twice,
}
NAMES = {CURRENT: "current", RFC_V2: "rfc-v2", RFC_V1: "rfc-v1"}
CASES: dict[str, Callable[[Any], Awaitable[None]]] = {
    f"{name}-{NAMES[dialect]}": (lambda _, case=case, dialect=dialect: case(dialect))
    for name, case in OFFERS.items()
    for dialect in NAMES
} | {
    f"96-no-group-{NAMES[dialect]}": (lambda _, dialect=dialect: no_group(dialect))
    for dialect in (RFC_V2, RFC_V1)
}


# A device that dies


class Mortal:
    """A served disk: on a simulated device, and in software beside it.

    Attributes:
        path: where it is served.
        image: what both work on.
        device: the simulated one.
        server: serves it.
    """

    def __init__(
        self, path: Any, image: Any, device: SimulatedDevice, direct: Any, server: Any
    ) -> None:
        self.path = path
        self.image = image
        self.device = device
        self.server = server
        self._direct = direct

    def get_stuck(self) -> None:
        """Serve no further request."""
        self.device.injector.inject(FaultRequest(kind=FaultKind.STUCK_QUEUE, count=1 << 20))

    async def die(self) -> None:
        """Be gone, with everything that was under way."""
        await self.device.reset()

        async def gone(*_: Any) -> Any:
            raise AcceleratorError("it is gone")

        self._direct.read_block = self._direct.write_block = gone
        self._direct.died.set()

    @contextlib.asynccontextmanager
    async def disk(
        self, features: VirtioFeatures = TRANSPORT_FEATURES
    ) -> AsyncIterator[tuple[FrontendClient, BlockDriver]]:
        with GuestMemory() as memory:
            async with FrontendClient.connect(self.path, memory) as client:
                await client.negotiate(features=features | BLK_DRIVER_FEATURES)
                client.setup_queue(0, num=64)
                await client.start()
                yield client, BlockDriver([client.queues[0]])


@contextlib.asynccontextmanager
async def mortal(tmp_path: Any, *, software: bool) -> AsyncIterator[Mortal]:
    """Serve a simulated disk that can die, with or without software that reaches its store."""
    image = tmp_path / "image"
    image.write_bytes(bytes(SECTORS * 512))
    options = BlkOptions(queues=1, queue_size=128)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        disks = [
            await enter(BlkDevice.open(open_store(image, locking=False), options))
            for _ in range(2 if software else 1)
        ]
        device = await enter(SimulatedDevice.open(disks[0], SimulatorOptions(), name="mortal"))
        direct: Any = await enter(connected(device))
        direct.died = trio.Event()

        async def gone() -> str:
            await direct.died.wait()
            return "it was unplugged"

        direct.gone = gone
        accelerator = await enter(open_virtio(direct))
        served = await enter(
            AcceleratedDevice.open(accelerator, software=disks[1] if software else None)
        )
        path = tmp_path / "socket"
        server = await enter(serving(path, served))
        yield Mortal(path, image, device, direct, server)


def pattern(seed: int) -> bytes:
    return struct.pack("<Q", seed + 1) * (PAGE // 8)


async def dies_idle(tmp_path: Any) -> None:
    """Nothing was under way: the software goes on where the device stood, and nothing is lost."""
    async with mortal(tmp_path, software=True) as it, it.disk() as (client, disk):
        await client.areas.wait_mapped(0)
        for number in range(20):
            await disk.write(8 * number, pattern(number))
        assert client.queues[0].kicks.page > 0
        await it.die()
        await client.areas.wait_unmapped(0)
        for number in range(20):
            assert await disk.read(8 * number, PAGE) == pattern(number)
        await disk.write(0, pattern(99))
        assert it.image.read_bytes()[:PAGE] == pattern(99)


async def dies_in_flight(tmp_path: Any) -> None:
    """Requests were under way, and in order: the software serves them, and nothing is lost."""
    async with (
        mortal(tmp_path, software=True) as it,
        it.disk(TRANSPORT_FEATURES | VirtioFeatures.IN_ORDER) as (client, disk),
    ):
        await client.areas.wait_mapped(0)
        await disk.write(0, pattern(0))
        it.get_stuck()
        async with trio.open_nursery() as nursery:
            for number in range(1, 12):
                nursery.start_soon(disk.write, 8 * number, pattern(number))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert client.queues[0].in_flight == 11
            await it.die()
        for number in range(12):
            assert await disk.read(8 * number, PAGE) == pattern(number)


async def dies_in_flight_out_of_order(tmp_path: Any) -> None:
    """Nobody knows which were served: the ring breaks, for serving one twice could destroy data."""
    async with mortal(tmp_path, software=True) as it, it.disk() as (client, disk):
        await client.areas.wait_mapped(0)
        await disk.write(0, pattern(0))
        it.get_stuck()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks, disk)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await it.die()
        await client.areas.wait_unmapped(0)
        assert it.image.read_bytes()[8 * 512 : 8 * 512 + PAGE] == bytes(PAGE)


async def dies_without_software(tmp_path: Any) -> None:
    """The ring breaks, the area is taken back, and nobody else is served once its user has left."""
    with pytest.raises(ExceptionGroup) as caught:
        await _die_alone(tmp_path)
    (error,) = leaves(caught.value)
    assert "is gone: start it" in str(error)


async def _die_alone(tmp_path: Any) -> None:
    async with mortal(tmp_path, software=False) as it:
        async with it.disk() as (client, disk):
            await client.areas.wait_mapped(0)
            await disk.write(0, pattern(0))
            await it.die()
            await breaks(disk)
            await client.areas.wait_unmapped(0)
        await trio.sleep_forever()


async def breaks(disk: BlockDriver) -> None:
    with pytest.raises(RingError, match="broken"):
        await disk.write(8, pattern(1))


CASES |= {
    "96-accelerator-dies-idle": dies_idle,
    "96-accelerator-dies-in-flight": dies_in_flight,
    "96-accelerator-dies-in-flight-out-of-order": dies_in_flight_out_of_order,
    "96-accelerator-dies-without-software": dies_without_software,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], tmp_path: Any) -> None:
    before = held()
    with trio.fail_after(PATIENCE):
        await case(tmp_path)
    assert not held().more_than(before)
