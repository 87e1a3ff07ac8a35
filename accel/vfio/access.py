"""Reads and writes of a device's regions: by a mapping where there is one, else by its file.

An access of a register must have exactly the width that was asked for. A load or store in a mapping
has, and so has a pread or pwrite of that many bytes at a place aligned to them: the kernel makes
one access of it (two of 4 bytes, where it knows none of 8).
"""

from __future__ import annotations

import errno
import mmap
import weakref
from typing import TYPE_CHECKING

from accel.pci import Area, MappedArea, Region
from protocol.kernel import vfio
from vhostuser.errors import AcceleratorError
from vhostuser.fds import Closing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accel.vfio.kernel import Kernel
    from vhostuser.fds import OwnedFd

__all__ = ["RegionAccess", "describe"]

_WIDTHS = (1, 2, 4, 8)


def describe(info: vfio.RegionInfo, hole: Area | None) -> Region:
    """Say of a region what a driver wants to know.

    Args:
        info: what the kernel says of it.
        hole: where the MSI-X table is in it. The kernel writes that, so it is kept out of what can
            be mapped even where the kernel would allow it.
    """
    areas: tuple[Area, ...] = ()
    if vfio.RegionFlags.MMAP in info.flags:
        areas = (Area(0, info.size),)
        if info.sparse is not None:
            areas = tuple(Area(area.offset, area.size) for area in info.sparse if area.size)
    if hole is not None:
        areas = tuple(part for area in areas for part in _without(area, hole))
    return Region(
        size=info.size,
        readable=vfio.RegionFlags.READ in info.flags,
        writable=vfio.RegionFlags.WRITE in info.flags,
        areas=areas,
        file_offset=info.offset,
    )


def _without(area: Area, hole: Area) -> list[Area]:
    """Return what is left of an area without the pages of a hole."""
    page = mmap.PAGESIZE
    first = hole.offset // page * page
    last = -(-(hole.offset + hole.size) // page) * page
    end = area.offset + area.size
    parts = [
        Area(area.offset, min(first, end) - area.offset),
        Area(max(last, area.offset), end - max(last, area.offset)),
    ]
    return [part for part in parts if part.size > 0]


class RegionAccess(Closing):
    """The regions of an open device. Close it before the device.

    Args:
        kernel: whom to ask.
        fd: the device; stays the caller's.
        regions: by number.
        shared: somebody else may get the device's file. He could turn the device's memory off, and
            then a load from a mapping ends a process, but a read by the kernel only fails: so
            nothing is mapped here.
    """

    def __init__(
        self, kernel: Kernel, fd: OwnedFd, regions: Mapping[int, Region], *, shared: bool
    ) -> None:
        self._kernel = kernel
        self._fd = fd
        self._regions = regions
        self._shared = shared
        self._given: weakref.WeakSet[MappedArea] = weakref.WeakSet()
        self._own: dict[tuple[int, Area], MappedArea] = {}

    def map(self, number: int, offset: int, size: int) -> MappedArea | None:
        """Map part of a region; None: it is not to be mapped. Raises OSError: the host refused."""
        if self._shared or self.area(number, offset, size) is None:
            return None
        mapped = MappedArea(self._fd, self._regions[number].file_offset + offset, size)
        self._given.add(mapped)
        return mapped

    def area(self, number: int, offset: int, size: int) -> Area | None:
        """Return the part of a region that holds these bytes and can be mapped, if any."""
        region = self._regions.get(number)
        if region is None or offset < 0 or size <= 0:
            return None
        return next((area for area in region.areas if area.holds(offset, size)), None)

    def place(self, number: int, offset: int, width: int) -> tuple[MappedArea, int] | None:
        """Return where a register can be reached without the kernel: a mapping, and where in it.

        Raises:
            OSError: it cannot be mapped now.
        """
        area = self.area(number, offset, width)
        if self._shared or area is None:
            return None
        mapped = self._own.get((number, area))
        if mapped is None:
            mapped = MappedArea(
                self._fd, self._regions[number].file_offset + area.offset, area.size
            )
            self._own[number, area] = mapped
        return mapped, offset - area.offset

    def check(self, number: int, offset: int, size: int, *, width: int = 1) -> Region:
        """Return a region that holds these bytes.

        Raises:
            OSError: there are none, or they are not aligned: a device's own words led there.
        """
        region = self._regions.get(number)
        whole = Area(0, region.size if region is not None else 0)
        if region is None or offset < 0 or not whole.holds(offset, size):
            raise AcceleratorError(
                f"region {number} of the device has no {size} bytes at {offset:#x}", errno.EINVAL
            )
        if width not in _WIDTHS or offset % width:
            raise AcceleratorError(
                f"{width} bytes at {offset:#x} of region {number} are no register", errno.EINVAL
            )
        return region

    def pread(self, number: int, offset: int, size: int) -> bytes:
        """Read bytes by way of the kernel, which may be slow. Raises OSError."""
        region = self.check(number, offset, size)
        data = self._kernel.pread(self._fd, size, region.file_offset + offset)
        if len(data) != size:
            raise AcceleratorError(f"region {number} gave {len(data)} of {size} bytes")
        return data

    def pwrite(self, number: int, offset: int, data: bytes) -> None:
        """Write bytes by way of the kernel, which may be slow. Raises OSError."""
        region = self.check(number, offset, len(data))
        done = self._kernel.pwrite(self._fd, data, region.file_offset + offset)
        if done != len(data):
            raise AcceleratorError(f"region {number} took {done} of {len(data)} bytes")

    def close(self) -> None:
        """Unmap everything, also what was given out: a mapping keeps the device open."""
        for mapped in [*self._given, *self._own.values()]:
            mapped.close()
        self._own.clear()
