"""One PCI device, held by the kernel's VFIO for this process alone.

Its order of things: container, group, device, then what is mapped of it; closed the other way
round, because a mapping keeps a device open and an open device keeps its group and its reach into
memory. Config space, interrupts and DMA maps go through the kernel and are asked for in a thread;
registers are loaded and stored in a mapping.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import TYPE_CHECKING, TypeVar

import trio

from accel.pci import CONFIG_REGION, MappedArea, PciDevice
from accel.vfio.access import RegionAccess
from accel.vfio.container import Container
from accel.vfio.discovery import ask_device, ask_regions, ask_vectors
from accel.vfio.group import Group, refuse_unusable
from accel.vfio.interrupts import Departure, Vectors
from accel.vfio.kernel import Kernel
from accel.vfio.mappings import Mappings
from accel.vfio.sysfs import Sysfs
from protocol.kernel import vfio
from protocol.virtio.pci import PciCommand, PciHeader
from vhostuser.datapath import NotifyArea
from vhostuser.errors import AcceleratorError
from vhostuser.fds import Closing, OwnedFd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from accel.pci import Region
    from vhostuser.memory import MappedRegion

__all__ = ["KernelVfioDevice"]

_T = TypeVar("_T")


class KernelVfioDevice(PciDevice, Closing):
    """A device behind /dev/vfio. Making and closing one is slow: do it in a thread.

    Args:
        address: where on the PCI bus, in full.
        share_fd: whether the device's file may be handed to another process. Nothing of the device
            is mapped here then: see `RegionAccess`.
        kernel: whom to ask.
        sysfs: where to look for the device's group and driver.

    Raises:
        UsageError: it cannot be used, and what to do about it.
        OSError: the host refused.

    Attributes:
        iommu: what the host's IOMMU can do for it.
    """

    def __init__(
        self,
        address: str,
        *,
        share_fd: bool = False,
        kernel: Kernel | None = None,
        sysfs: Sysfs | None = None,
    ) -> None:
        self.name = f"vfio:{address}"
        self._address = address
        self._share_fd = share_fd
        self._kernel = kernel or Kernel()
        self._doorbells: dict[tuple[int, int, int], OwnedFd] = {}
        sysfs = sysfs or Sysfs()
        with contextlib.ExitStack() as stack:  # closes what there is when the rest cannot be had
            function = sysfs.function(address)
            refuse_unusable(sysfs, function)
            container = stack.enter_context(Container(self._kernel))
            self._group = stack.enter_context(Group(self._kernel, sysfs, container, function))
            self._fd = stack.enter_context(self._group.device())
            self._info = ask_device(self._kernel, self._fd, self.name)
            self._mappings = Mappings(container)
            self.iommu = container.info
            self.regions: Mapping[int, Region] = ask_regions(self._kernel, self._fd, self.name)
            self._access = stack.enter_context(
                RegionAccess(self._kernel, self._fd, self.regions, shared=share_fd)
            )
            self.vectors = ask_vectors(self._kernel, self._fd, self._info)
            self._vectors = Vectors(self._kernel, self._fd, self.vectors)
            self._departure = stack.enter_context(
                Departure(self._kernel, self._fd, self._info.irqs)
            )
            self._let_it_work()
            self._stack = stack.pop_all()

    def _let_it_work(self) -> None:
        """Let it answer to its registers, and reach what it is given of memory."""
        command = int.from_bytes(self._access.pread(CONFIG_REGION, PciHeader.COMMAND, 2), "little")
        command |= PciCommand.MEMORY | PciCommand.BUS_MASTER
        self._access.pwrite(CONFIG_REGION, PciHeader.COMMAND, command.to_bytes(2, "little"))

    async def _in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        """Call something slow; take the device for gone when the kernel says so."""
        try:
            return await trio.to_thread.run_sync(function, *args)
        except AcceleratorError:  # in words already
            raise
        except OSError as error:
            if error.errno == errno.ENODEV:
                self._departure.note("the kernel says that it is gone")
            raise AcceleratorError(
                f"{self.name}: {error.strerror or 'the kernel refused'}", error.errno or errno.EIO
            ) from error

    async def read(self, region: int, offset: int, width: int) -> int:
        """Read 1, 2, 4 or 8 bytes at once. Raises OSError: the device is gone or refused."""
        self._access.check(region, offset, width, width=width)
        place = self._access.place(region, offset, width)
        if place is None:
            data = await self._in_thread(self._access.pread, region, offset, width)
            value = int.from_bytes(data, "little")
        else:
            area, inset = place
            value = area.load(inset, width)
        if value == (1 << 8 * width) - 1 and region != CONFIG_REGION:
            await self._look_whether_it_is_there()
        await trio.lowlevel.checkpoint()
        return value

    async def _look_whether_it_is_there(self) -> None:
        """Raise when the device has left the bus: all its bits read as ones then."""
        revision = await self._in_thread(self._access.pread, CONFIG_REGION, PciHeader.REVISION, 4)
        if revision == b"\xff\xff\xff\xff":
            self._departure.note("it does not answer on its bus any more")
            raise AcceleratorError(
                f"{self.name} does not answer on its bus any more: it was unplugged, or its link "
                "is down",
                errno.ENODEV,
            )

    async def write(self, region: int, offset: int, width: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes at once. Raises as `read`."""
        self._access.check(region, offset, width, width=width)
        place = self._access.place(region, offset, width)
        if place is None:
            data = value.to_bytes(width, "little")
            await self._in_thread(self._access.pwrite, region, offset, data)
            return
        area, inset = place
        area.store(inset, width, value)
        await trio.lowlevel.checkpoint()

    async def read_block(self, region: int, offset: int, size: int) -> bytes:
        """Read bytes where the width does not matter. Raises as `read`."""
        return await self._in_thread(self._access.pread, region, offset, size)

    async def write_block(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes where the width does not matter. Raises as `read`."""
        await self._in_thread(self._access.pwrite, region, offset, data)

    def map_area(self, region: int, offset: int, size: int) -> MappedArea | None:
        """Map part of a region; None: it cannot be mapped, use `read` and `write`."""
        return self._access.map(region, offset, size)

    def share_area(self, region: int, offset: int, size: int) -> NotifyArea:
        """Return part of a region as another process can map it: the device's file and a place.

        Raises:
            AcceleratorError: it cannot be shared, in words that tell the user what to do.
        """
        if not self._share_fd:
            raise AcceleratorError(
                "the doorbell page would go to the front-end as the device's file, which gives "
                "its receiver the whole device; if you trust the front-end with that, say "
                f"--accel {self.name},share-device-fd=on",
                errno.EPERM,
            )
        page = mmap.PAGESIZE
        if offset % page or size % page or self._access.area(region, offset, size) is None:
            raise AcceleratorError(
                f"{self.name}: {size} bytes at {offset:#x} of region {region} are no pages of "
                f"{page} bytes that can be mapped",
                errno.EINVAL,
            )
        place = self.regions[region].file_offset + offset
        return NotifyArea(fd=self._fd.duplicate(), offset=place, size=size)

    async def doorbell_fd(self, region: int, offset: int, width: int, value: int) -> OwnedFd | None:
        """Return an eventfd that does the same as this write, or None."""
        place = self._access.check(region, offset, width, width=width).file_offset + offset
        key = (place, width, value)
        if key not in self._doorbells:
            fd = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            argument = vfio.ioeventfd(place, width, value, fd.fileno())
            try:
                await self._in_thread(
                    self._kernel.ioctl, self._fd, vfio.Request.DEVICE_IOEVENTFD, argument
                )
            except OSError:  # not for this region, or there are too many
                fd.close()
                return None
            except BaseException:
                fd.close()
                raise
            self._doorbells[key] = self._stack.enter_context(fd)
        return self._doorbells[key].duplicate()

    async def set_vectors(self, fds: Mapping[int, OwnedFd | None]) -> None:
        """Have MSI-X vectors signal eventfds, or nothing; others stay as they are.

        Args:
            fds: by vector; they stay the caller's.

        Raises:
            OSError: the device refused.
        """
        await self._in_thread(self._vectors.set, fds)

    async def map_memory(self, region: MappedRegion) -> None:
        """Let the device reach a region at its guest-physical address. Raises OSError."""
        await self._in_thread(self._mappings.add, region)

    async def unmap_memory(self, region: MappedRegion) -> None:
        """Take a region away from the device. Not cancellable."""
        with trio.CancelScope(shield=True):
            await self._in_thread(self._mappings.remove, region)

    async def reset(self) -> None:
        """Reset the function. Raises OSError: it cannot be reset, or is gone."""
        if vfio.DeviceFlags.RESET not in self._info.flags:
            raise AcceleratorError(
                f"{self.name} has no reset of its own (a device right on the root complex often "
                "has none); a virtio device can be reset by its status instead",
                errno.EOPNOTSUPP,
            )
        await self._in_thread(self._reset)

    def _reset(self) -> None:
        self._kernel.ioctl(self._fd, vfio.Request.DEVICE_RESET)
        self._let_it_work()

    def group(self) -> OwnedFd | None:
        """Return a duplicate of the VFIO group it is in."""
        return self._group.fd.duplicate()

    async def gone(self) -> str:
        """Wait until the device is gone; return why. Cancellable."""
        return await self._departure.wait()

    def close(self) -> None:
        """Give the device back: after this it reaches no memory, whoever else has its file."""
        with self._stack:
            # A device that is gone may refuse either; closing it does the same then.
            with contextlib.suppress(OSError):
                self._vectors.off()
            with contextlib.suppress(OSError):
                self._mappings.clear()
