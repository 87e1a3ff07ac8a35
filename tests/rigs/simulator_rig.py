"""A simulated device under the virtio-pci driver, in one process: in memory, or over a socket.

`DirectDevice` is a `PciDevice` whose accesses are method calls on the device: no socket, no
protocol. `Driven` is a guest that uses the device's rings through its accelerator driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from typing import TYPE_CHECKING

import trio

from accel.pci import CONFIG_REGION, MappedArea, PciDevice, Region
from accel.simulator import SimulatedDevice, SimulatorOptions
from accel.vfio_user import MSIX_IRQ, DmaRange
from accel.virtio_pci import open_virtio
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import PciCommand, PciHeader
from vhostuser.datapath import MappedDoorbell, NotifyArea, QueueAddresses
from vhostuser.devices import BlkDevice, BlkOptions, memory_store
from vhostuser.errors import AcceleratorError
from vhostuser.frontend import BLK_DRIVER_FEATURES, BlockDriver, DriverQueue, GuestMemory
from vhostuser.memory import MappedRegion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from accel.simulator import FaultRequest
    from accel.vfio_user import EmulatedDevice
    from vhostuser.datapath import Accelerator, EventfdDoorbell
    from vhostuser.fds import OwnedFd
    from vhostuser.virtqueue import RingState

__all__ = [
    "DISK_FEATURES",
    "DISK_SECTORS",
    "DOORBELLS",
    "RINGS",
    "DirectDevice",
    "Driven",
    "RungQueue",
    "connected",
    "disk_guest",
    "driven",
    "simulated_disk",
    "write_and_verify",
]

DOORBELLS = ("page", "eventfd", "message")
"""How a driver can ring."""
RINGS = {"split": VirtioFeatures(0), "packed": VirtioFeatures.RING_PACKED}
DISK_SECTORS = 2048
_PIECE = 4096
_SECONDS = 20
DISK_FEATURES = (
    BLK_DRIVER_FEATURES
    | VirtioFeatures.VERSION_1
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.INDIRECT_DESC
)


class DirectDevice(PciDevice):
    """A device in the same process.

    Args:
        device: which.
        doorbells: the best way of ringing that it is to have, one of `DOORBELLS`.
    """

    def __init__(self, device: EmulatedDevice, doorbells: str = "page") -> None:
        self.name = device.name
        self.vectors = device.irqs[MSIX_IRQ]
        self.regions = {
            number: Region(
                size=region.size,
                readable=region.readable,
                writable=region.writable,
                areas=region.areas if doorbells == "page" else (),
                file_offset=region.file_offset,
            )
            for number, region in device.regions.items()
        }
        self._device = device
        self._doorbells = doorbells
        self._bound: dict[int, OwnedFd] = {}
        self._mapped: dict[int, DmaRange] = {}

    async def read(self, region: int, offset: int, width: int) -> int:
        return int.from_bytes(await self.read_block(region, offset, width), "little")

    async def write(self, region: int, offset: int, width: int, value: int) -> None:
        await self.write_block(region, offset, value.to_bytes(width, "little"))

    async def read_block(self, region: int, offset: int, size: int) -> bytes:
        data = await self._device.read(region, offset, size)
        assert len(data) == size
        return data

    async def write_block(self, region: int, offset: int, data: bytes) -> None:
        await self._device.write(region, offset, data)

    def map_area(self, region: int, offset: int, size: int) -> MappedArea | None:
        fd = self._device.regions[region].fd
        if fd is None or not any(area.holds(offset, size) for area in self.regions[region].areas):
            return None
        return MappedArea(fd, offset, size)

    def share_area(self, region: int, offset: int, size: int) -> NotifyArea:
        fd = self._device.regions[region].fd
        if fd is None or not any(area.holds(offset, size) for area in self.regions[region].areas):
            raise AcceleratorError("this part of the device cannot be mapped")
        return NotifyArea(fd=fd.duplicate(), offset=offset, size=size)

    async def doorbell_fd(self, region: int, offset: int, width: int, value: int) -> OwnedFd | None:
        if self._doorbells == "message":
            return None
        for each in self._device.io_fds(region):
            if (each.offset, each.size, each.datamatch) == (offset, width, value):
                return each.fd.duplicate()
        return None

    async def set_vectors(self, fds: Mapping[int, OwnedFd | None]) -> None:
        for vector, fd in fds.items():
            mine = None if fd is None else fd.duplicate()
            await self._device.set_irqs(MSIX_IRQ, vector, [mine])
            old = self._bound.pop(vector, None)
            if old is not None:
                old.close()
            if mine is not None:
                self._bound[vector] = mine

    async def map_memory(self, region: MappedRegion) -> None:
        described = region.region
        fd = None if region.fd is None else region.fd.duplicate()
        dma = DmaRange(
            address=described.gpa,
            size=described.size,
            readable=True,
            writable=True,
            fd=fd,
            offset=described.offset,
        )
        await self._device.map(dma)
        self._mapped[described.gpa] = dma

    async def unmap_memory(self, region: MappedRegion) -> None:
        dma = self._mapped.pop(region.region.gpa)
        await self._device.unmap(dma)
        if dma.fd is not None:
            dma.fd.close()

    async def reset(self) -> None:
        await self._device.reset()
        await self.enable()

    async def enable(self) -> None:
        """Let it decode its BARs and reach memory."""
        command = PciCommand.MEMORY | PciCommand.BUS_MASTER
        await self.write(CONFIG_REGION, PciHeader.COMMAND, 2, command)

    def group(self) -> OwnedFd | None:
        return None

    async def gone(self) -> str:
        await trio.sleep_forever()
        raise AssertionError

    async def leave(self) -> None:
        """Do what a server does when its client is gone."""
        with trio.CancelScope(shield=True):
            await self._device.disconnected()
            for dma in self._mapped.values():
                await self._device.unmap(dma)
                if dma.fd is not None:
                    dma.fd.close()
            for fd in self._bound.values():
                fd.close()


@contextlib.asynccontextmanager
async def connected(device: EmulatedDevice, doorbells: str = "page") -> AsyncIterator[DirectDevice]:
    """Be a client of the device for the length of the block."""
    await device.connected(_NoMemory())
    direct = DirectDevice(device, doorbells)
    try:
        await direct.enable()
        yield direct
    finally:
        await direct.leave()


class _NoMemory:
    """The client's memory by messages, which no simulated device asks for."""

    async def read(self, address: int, size: int) -> bytes:
        raise AssertionError

    async def write(self, address: int, data: bytes) -> None:
        raise AssertionError


class RungQueue(DriverQueue):
    """A driver's queue that rings a doorbell of the device instead of a back-end's kick fd."""

    ring: Callable[[], None]
    rings = 0

    def notify(self) -> None:
        self.rings += 1
        self.ring()


class Driven:
    """A guest's driver of a device; `driven` makes it.

    Args:
        accelerator: the device.
        memory: of the guest, mapped for the device.
        features: that were accepted.
        stack: closes what is opened.
        nursery: for doorbells that are rung by messages.

    Attributes:
        queues: rings that were started, by number.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        memory: GuestMemory,
        features: VirtioFeatures,
        stack: contextlib.ExitStack,
        nursery: trio.Nursery,
    ) -> None:
        self.accelerator = accelerator
        self.memory = memory
        self.features = features
        self.queues: dict[int, RungQueue] = {}
        self._stack = stack
        self._nursery = nursery

    async def open_queue(self, index: int, *, num: int = 64, poll: bool = False) -> RungQueue:
        """Make a ring and hand it to the device."""
        queue = RungQueue(self.memory, index, num=num, features=self.features, poll=poll)
        self.queues[index] = queue
        self._stack.callback(queue.close)
        await self.start_queue(queue)
        return queue

    async def start_queue(self, queue: RungQueue, state: RingState | None = None) -> None:
        """Hand a ring to the device, at its beginning or at `state`."""
        areas = queue.areas
        addresses = QueueAddresses(
            num=queue.num, desc=areas.desc.gpa, driver=areas.driver.gpa, device=areas.device.gpa
        )
        await self.accelerator.set_call(queue.index, queue.call)
        await self.accelerator.start_queue(queue.index, addresses, state)
        queue.ring = self._ringer(queue.index, self.accelerator.doorbell(queue.index))
        queue.ring()  # what was added meanwhile

    def _ringer(
        self, index: int, doorbell: MappedDoorbell | EventfdDoorbell | None
    ) -> Callable[[], None]:
        if doorbell is None:
            return lambda: self._nursery.start_soon(self.accelerator.ring, index)
        if isinstance(doorbell, MappedDoorbell):
            kind = ctypes.c_uint16 if doorbell.width == 2 else ctypes.c_uint32
            place = kind.from_address(doorbell.address)
            return lambda: setattr(place, "value", doorbell.value)
        fd = self._stack.enter_context(doorbell.fd)
        return lambda: os.eventfd_write(fd.fileno(), 1)


@contextlib.asynccontextmanager
async def driven(device: PciDevice, features: VirtioFeatures) -> AsyncIterator[Driven]:
    """Drive a device for the length of the block: reset, memory mapped, features negotiated.

    Args:
        device: how it is reached.
        features: what to accept, of what it offers.
    """
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(GuestMemory())
        async with open_virtio(device) as accelerator:
            regions = [
                MappedRegion(region.description, region.hva(region.layout.gpa), region.fd)
                for region in memory.regions
            ]
            accepted = features & accelerator.features
            await accelerator.set_features(accepted)
            for region in regions:
                await accelerator.map(region)
            async with trio.open_nursery() as nursery:
                with contextlib.ExitStack() as queues:
                    yield Driven(accelerator, memory, accepted, queues, nursery)
                    with trio.CancelScope(shield=True):
                        await accelerator.reset()
                nursery.cancel_scope.cancel()
            for region in regions:
                await accelerator.unmap(region)


@contextlib.asynccontextmanager
async def simulated_disk(
    *,
    queues: int = 2,
    faults: Sequence[FaultRequest] = (),
    options: SimulatorOptions | None = None,
) -> AsyncIterator[SimulatedDevice]:
    """Have a disk in memory whose sectors are zeros."""
    store = memory_store(DISK_SECTORS * 512)
    async with (
        BlkDevice.open(store, BlkOptions(queues=queues, queue_size=128)) as disk,
        SimulatedDevice.open(
            disk, options or SimulatorOptions(), name="simulated", faults=faults
        ) as device,
    ):
        yield device


@contextlib.asynccontextmanager
async def disk_guest(
    device: SimulatedDevice, *, ring: str = "split", doorbells: str = "page"
) -> AsyncIterator[Driven]:
    """Be a guest that drives the disk."""
    async with (
        connected(device, doorbells) as direct,
        driven(direct, DISK_FEATURES | RINGS[ring]) as guest,
    ):
        yield guest


def _pattern(seed: int) -> bytes:
    return random.Random(seed).randbytes(_PIECE)  # noqa: S311 - no secret


async def write_and_verify(driver: BlockDriver, seed: int, *, pieces: int = 32) -> None:
    """Write pieces all over the disk at once, then read them all at once."""
    sectors = random.Random(seed).sample(range(0, DISK_SECTORS, 8), pieces)  # noqa: S311 - no secret

    async def verify(sector: int) -> None:
        assert await driver.read(sector, _PIECE) == _pattern(seed + sector)

    with trio.fail_after(_SECONDS):
        async with trio.open_nursery() as nursery:
            for sector in sectors:
                nursery.start_soon(driver.write, sector, _pattern(seed + sector))
        async with trio.open_nursery() as nursery:
            for sector in sectors:
                nursery.start_soon(verify, sector)
