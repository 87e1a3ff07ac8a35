"""A PCI device at the other end of a socket, as `accel.virtio_pci` drives it.

What the server says of its regions is read once, when the device is opened. Where it shares files
and eventfds, accesses go there and not over the socket.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Final

import trio

from accel.pci import CONFIG_REGION, Area, PciDevice, Region
from accel.vfio_user.area import GuardedArea, share
from accel.vfio_user.client import SECONDS, VfioUserClient, connect
from accel.vfio_user.doorbells import Doorbells
from accel.vfio_user.emulated import MSIX_IRQ
from accel.vfio_user.given import GivenMemory
from accel.vfio_user.served import PCI_REGIONS
from protocol import vfio_user as wire
from protocol.virtio.pci import PciCommand, PciHeader
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterator, Mapping

    from accel.pci import MappedArea
    from vhostuser.datapath import NotifyArea
    from vhostuser.memory import MappedRegion

__all__ = ["VfioUserDevice", "open_device", "open_over"]

_log = logging.getLogger(__name__)

_MOST_VECTORS = 2048
_ORDER: Final = "little"


class VfioUserDevice(PciDevice):
    """A device that a vfio-user server has. Make it with `open_device` or `open_over`; close it.

    Args:
        client: the connection; it stays the caller's.
    """

    def __init__(self, client: VfioUserClient) -> None:
        self.name = client.name
        self.regions: dict[int, Region] = {}
        self.vectors = 0
        self._client = client
        self._can_reset = False
        self._files: dict[int, OwnedFd] = {}
        self._doorbells: dict[int, Doorbells] = {}
        self._asking = trio.Lock()
        self._memory: dict[MappedRegion, GivenMemory] = {}

    async def discover(self) -> None:
        """Ask the server what the device has.

        Raises:
            AcceleratorError: it is no PCI device, or the server did not answer as it should.
        """
        info = await self._client.device_info()
        if not info.flags & wire.DeviceFlags.PCI:
            raise AcceleratorError(f"{self.name} is no PCI device", errno.ENODEV)
        self._can_reset = bool(info.flags & wire.DeviceFlags.RESET)
        for index in range(min(info.num_regions, PCI_REGIONS)):
            await self._discover_region(index)
        if info.num_irqs > MSIX_IRQ:
            irqs = await self._client.irq_info(MSIX_IRQ)
            self.vectors = min(irqs.count, _MOST_VECTORS)
        await self._let_it_work()

    async def _let_it_work(self) -> None:
        """Let it answer to its registers, and reach what it is given of memory."""
        config = self.regions.get(CONFIG_REGION)
        if config is not None and config.writable:
            command = await self.read(CONFIG_REGION, PciHeader.COMMAND, 2)
            command |= PciCommand.MEMORY | PciCommand.BUS_MASTER
            await self.write(CONFIG_REGION, PciHeader.COMMAND, 2, command)

    async def _discover_region(self, index: int) -> None:
        info, fd = await self._client.region_info(index)
        if not info.size:
            if fd is not None:
                fd.close()
            return
        if fd is not None:
            self._files[index] = fd
        can_map = fd is not None and info.flags & wire.RegionFlags.MMAP
        self.regions[index] = Region(
            size=info.size,
            readable=bool(info.flags & wire.RegionFlags.READ),
            writable=bool(info.flags & wire.RegionFlags.WRITE),
            areas=_areas(info) if can_map else (),
            file_offset=info.offset,
        )

    async def read(self, region: int, offset: int, width: int) -> int:
        """Read 1, 2, 4 or 8 bytes at once. See `PciDevice.read`."""
        return int.from_bytes(await self._client.read(region, offset, width), _ORDER)

    async def write(self, region: int, offset: int, width: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes at once. See `PciDevice.write`."""
        await self._client.write(region, offset, value.to_bytes(width, _ORDER))

    async def read_block(self, region: int, offset: int, size: int) -> bytes:
        """Read bytes where the width does not matter. See `PciDevice.read_block`."""
        return await self._client.read(region, offset, size)

    async def write_block(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes where the width does not matter. See `PciDevice.write_block`."""
        await self._client.write(region, offset, data)

    def _mappable(self, region: int, offset: int, size: int) -> tuple[OwnedFd, int] | None:
        """Return the file that holds a part of a region, and where, if it may be mapped."""
        found = self.regions.get(region)
        if found is None or not any(area.holds(offset, size) for area in found.areas):
            return None
        return self._files[region], found.file_offset + offset

    def map_area(self, region: int, offset: int, size: int) -> MappedArea | None:
        """Map part of a region. See `PciDevice.map_area`."""
        place = self._mappable(region, offset, size)
        if place is None:
            return None
        try:
            return GuardedArea(*place, size)
        except AcceleratorError as error:
            _log.warning("%s: %s; messages are used instead", self.name, error.strerror)
            return None

    def share_area(self, region: int, offset: int, size: int) -> NotifyArea:
        """Return part of a region as another process can map it. See `PciDevice.share_area`."""
        place = self._mappable(region, offset, size)
        if place is None:
            raise AcceleratorError(
                f"{self.name} shares no file for {size:#x} bytes at {offset:#x} of region "
                f"{region}: they can only be reached by messages"
            )
        return share(*place, size)

    async def doorbell_fd(self, region: int, offset: int, width: int, value: int) -> OwnedFd | None:
        """Return an eventfd that does the same as this write. See `PciDevice.doorbell_fd`."""
        async with self._asking:
            if region not in self._doorbells:
                self._doorbells[region] = await self._ask_doorbells(region)
        return self._doorbells[region].find(offset, width, value)

    async def _ask_doorbells(self, region: int) -> Doorbells:
        try:
            entries, fds = await self._client.io_fds(region)
        except AcceleratorError:
            return Doorbells()  # many servers do not know this command
        return Doorbells(entries, fds)

    async def set_vectors(self, fds: Mapping[int, OwnedFd | None]) -> None:
        """Have MSI-X vectors signal eventfds, or nothing. See `PciDevice.set_vectors`."""
        for vector in fds:
            if not 0 <= vector < self.vectors:
                raise AcceleratorError(
                    f"{self.name} has no MSI-X vector {vector}: it has {self.vectors}", errno.EINVAL
                )
        for start, run in _runs(fds):
            given = [fd for fd in run if fd is not None]
            if given:
                await self._client.set_irqs(MSIX_IRQ, start, given)
            else:
                await self._client.unset_irqs(MSIX_IRQ, start, len(run))

    async def map_memory(self, region: MappedRegion) -> None:
        """Let the device reach a region. See `PciDevice.map_memory`."""
        memory = GivenMemory(address=region.region.gpa, size=region.region.size, hva=region.hva)
        await self._client.map(memory, region.fd, region.region.offset)
        self._memory[region] = memory

    async def unmap_memory(self, region: MappedRegion) -> None:
        """Take a region away from the device. See `PciDevice.unmap_memory`."""
        memory = self._memory.pop(region, None)
        if memory is not None:
            await self._client.unmap(memory)

    async def reset(self) -> None:
        """Reset the function. See `PciDevice.reset`."""
        if not self._can_reset:
            raise AcceleratorError(f"{self.name} cannot be reset", errno.EOPNOTSUPP)
        await self._client.reset()
        await self._let_it_work()

    def group(self) -> OwnedFd | None:
        """There is no VFIO group. See `PciDevice.group`."""
        return None

    async def gone(self) -> str:
        """Wait until the device is gone; return why. See `PciDevice.gone`."""
        why = await self._client.gone()
        return f"{why}; when it is served again, start this program anew"

    def close(self) -> None:
        """Close the fds that the server shared; areas that were mapped are closed before."""
        for held in (*self._files.values(), *self._doorbells.values()):
            held.close()


def _areas(info: wire.RegionInfo) -> tuple[Area, ...]:
    """Return what can be mapped of a region: all of it, unless it says which parts."""
    for capability in info.capabilities:
        if isinstance(capability, wire.SparseMmap):
            return tuple(Area(area.offset, area.size) for area in capability.areas)
    return (Area(0, info.size),)


def _runs(
    fds: Mapping[int, OwnedFd | None],
) -> Iterator[tuple[int, list[OwnedFd | None]]]:
    """Yield vectors that follow each other and all get an eventfd, or all none: first, fds."""
    start, run = -1, list[OwnedFd | None]()
    for vector in sorted(fds):
        fd = fds[vector]
        if run and (vector != start + len(run) or (fd is None) != (run[0] is None)):
            yield start, run
            run = []
        if not run:
            start = vector
        run.append(fd)
    if run:
        yield start, run


@contextlib.asynccontextmanager
async def open_device(
    path: str | os.PathLike[str], *, seconds: float = SECONDS
) -> AsyncIterator[VfioUserDevice]:
    """Connect to a server and hold its device for the length of the block.

    Args:
        path: the server's socket.
        seconds: how long each answer may take.

    Raises:
        UsageError: nobody serves a device there; the text says what to do.
        AcceleratorError: the device cannot be used.
    """
    async with connect(path, seconds=seconds) as client, open_over(client) as device:
        yield device


@contextlib.asynccontextmanager
async def open_over(client: VfioUserClient) -> AsyncIterator[VfioUserDevice]:
    """Hold the device of a server for the length of the block.

    Args:
        client: the connection; it stays the caller's.

    Raises:
        AcceleratorError: the device cannot be used.
    """
    device = VfioUserDevice(client)
    try:
        await device.discover()
        yield device
    finally:
        device.close()
