"""A PCI device in reach of this process, however it is reached.

`accel.vfio` (the kernel's VFIO) and `accel.vfio_user` (a socket) both give a `PciDevice`;
`accel.virtio_pci` drives any of them. Region numbers are VFIO's: 0 to 5 are the BARs, 7 is the
configuration space. Little-endian throughout, as PCI is.
"""

from __future__ import annotations

import abc
import ctypes
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.fds import Closing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vhostuser.datapath import NotifyArea
    from vhostuser.fds import OwnedFd
    from vhostuser.memory import MappedRegion

__all__ = ["CONFIG_REGION", "Area", "MappedArea", "PciDevice", "Region"]

CONFIG_REGION = 7
_WIDTHS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


@dataclass(frozen=True, slots=True)
class Area:
    """Part of a region.

    Attributes:
        offset: bytes from the region's beginning.
        size: bytes.
    """

    offset: int
    size: int

    def holds(self, offset: int, size: int) -> bool:
        """Whether all of [offset, offset + size) is in it."""
        return self.offset <= offset and offset + size <= self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What a device says of one of its regions.

    Attributes:
        size: bytes.
        readable: whether it can be read.
        writable: whether it can be written.
        areas: parts that can be mapped.
        file_offset: where the region begins in the file that is mapped.
    """

    size: int
    readable: bool
    writable: bool
    areas: tuple[Area, ...] = ()
    file_offset: int = 0


class MappedArea(Closing):
    """Part of a region, mapped: loads and stores of exact width. Close it before the device.

    Args:
        fd: what to map; stays the caller's (Python's mmap keeps a duplicate until it is closed).
        file_offset: where the area begins in it, bytes; need not be aligned.
        size: bytes.

    Raises:
        OSError: it cannot be mapped.
    """

    def __init__(self, fd: OwnedFd, file_offset: int, size: int) -> None:
        inset = file_offset % mmap.PAGESIZE
        self._map = mmap.mmap(
            fd.fileno(), inset + size, mmap.MAP_SHARED, offset=file_offset - inset
        )
        self._inset = inset
        self._size = size
        self._closed = False

    def _place(self, offset: int, width: int) -> ctypes._SimpleCData[int]:
        if self._closed or not 0 <= offset <= self._size - width or offset % width:
            raise ValueError(f"no {width} bytes at {offset:#x} of this area")
        return _WIDTHS[width].from_buffer(self._map, self._inset + offset)

    def load(self, offset: int, width: int) -> int:
        """Load 1, 2, 4 or 8 bytes at once from an aligned place."""
        return self._place(offset, width).value

    def store(self, offset: int, width: int, value: int) -> None:
        """Store 1, 2, 4 or 8 bytes at once to an aligned place."""
        self._place(offset, width).value = value

    def address(self, offset: int, width: int) -> int:
        """Where an aligned place is in this process, until the area is closed."""
        return ctypes.addressof(self._place(offset, width))

    def close(self) -> None:
        """Unmap it; no address of it may be used any more."""
        self._closed = True
        self._map.close()


class PciDevice(abc.ABC):
    """One PCI device. All methods may be slow; those that are not async must not be.

    It is ready for a driver as long as it is open, also after `reset`: its BARs are decoded, and it
    may reach memory (bus mastering).

    Attributes:
        name: for messages to people.
        regions: those that the device has, by number.
        vectors: how many MSI-X vectors it has.
    """

    name: str
    regions: Mapping[int, Region]
    vectors: int

    @abc.abstractmethod
    async def read(self, region: int, offset: int, width: int) -> int:
        """Read 1, 2, 4 or 8 bytes at once. Raises OSError: the device is gone or refused."""

    @abc.abstractmethod
    async def write(self, region: int, offset: int, width: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes at once. Raises as `read`."""

    @abc.abstractmethod
    async def read_block(self, region: int, offset: int, size: int) -> bytes:
        """Read bytes where the width does not matter. Raises as `read`."""

    @abc.abstractmethod
    async def write_block(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes where the width does not matter. Raises as `read`."""

    @abc.abstractmethod
    def map_area(self, region: int, offset: int, size: int) -> MappedArea | None:
        """Map part of a region; None: it cannot be mapped, use `read` and `write`."""

    @abc.abstractmethod
    def share_area(self, region: int, offset: int, size: int) -> NotifyArea:
        """Return part of a region as another process can map it.

        Raises:
            AcceleratorError: it cannot be shared, in words that tell the user what to do.
        """

    @abc.abstractmethod
    async def doorbell_fd(self, region: int, offset: int, width: int, value: int) -> OwnedFd | None:
        """Return an eventfd that does the same as this write, or None."""

    @abc.abstractmethod
    async def set_vectors(self, fds: Mapping[int, OwnedFd | None]) -> None:
        """Have MSI-X vectors signal eventfds, or nothing; others stay as they are.

        Args:
            fds: by vector; they stay the caller's.

        Raises:
            OSError: the device refused.
        """

    @abc.abstractmethod
    async def map_memory(self, region: MappedRegion) -> None:
        """Let the device reach a region at its guest-physical address. Raises OSError."""

    @abc.abstractmethod
    async def unmap_memory(self, region: MappedRegion) -> None:
        """Take a region away from the device. Not cancellable."""

    @abc.abstractmethod
    async def reset(self) -> None:
        """Reset the function. Raises OSError: it cannot be reset, or is gone."""

    @abc.abstractmethod
    def group(self) -> OwnedFd | None:
        """Return a duplicate of the VFIO group it is in; None: it is in none."""

    @abc.abstractmethod
    async def gone(self) -> str:
        """Wait until the device is gone; return why. Cancellable."""
