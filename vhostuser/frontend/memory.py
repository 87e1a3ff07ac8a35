"""Guest memory as a front-end owns it: memfd regions, an allocator for buffers, access by address.

A region has three addresses: guest-physical (descriptors use it), the front-end's own (ring
addresses use it unless another was asked for) and ours. Everything here trusts its caller, who
plays the guest; what a back-end may do with the memory is not this module's business.
Specification: "Memory region description".
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vhost_user import Gpa, MemRegion, Uva
from vhostuser.fds import Closing, OwnedFd
from vhostuser.native import ffi

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GuestBuffer", "GuestMemory", "GuestRegion", "RegionLayout"]

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLayout:
    """Where a region of guest memory shall lie.

    Attributes:
        gpa: guest-physical address of its first byte, a multiple of 4096.
        size: bytes, a multiple of 4096.
        uva: address that the back-end is told; None: where the region is mapped here.
        margin: bytes of the memfd before and after the region that are not part of it, a multiple
            of 4096: the back-end must leave them alone.
        sealed: whether the memfd can no longer shrink, so that nobody who maps it dies of SIGBUS.
    """

    gpa: int
    size: int
    uva: int | None = None
    margin: int = 0
    sealed: bool = True


@dataclass(frozen=True, slots=True)
class GuestBuffer:
    """A piece of guest memory.

    Attributes:
        gpa: guest-physical address of its first byte.
        length: bytes.
    """

    gpa: Gpa
    length: int

    def part(self, start: int, length: int) -> GuestBuffer:
        """Return `length` bytes of it from byte `start` on; not checked against its end."""
        return GuestBuffer(Gpa(self.gpa + start), length)


class GuestRegion:
    """One memfd, mapped here.

    Args:
        layout: where it shall lie.

    Raises:
        OSError: the host is out of memory or file descriptors.
    """

    def __init__(self, layout: RegionLayout) -> None:
        self.layout = layout
        total = layout.size + 2 * layout.margin
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.fd = OwnedFd(os.memfd_create("guest-memory", flags))
        try:
            os.ftruncate(self.fd.fileno(), total)
            if layout.sealed:
                fcntl.fcntl(self.fd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._map = mmap.mmap(self.fd.fileno(), total)
        except OSError:
            self.fd.close()
            raise
        # The address of the mapping; released again before the mapping can be closed.
        self._pointer = ffi.from_buffer("char[]", self._map, require_writable=True)
        self._first = int(ffi.cast("uintptr_t", self._pointer)) + layout.margin
        uva = self._first if layout.uva is None else layout.uva
        self.description = MemRegion(
            gpa=Gpa(layout.gpa), size=layout.size, uva=Uva(uva), offset=layout.margin
        )
        """As the back-end is told."""

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of [gpa, gpa + length) lies in this region."""
        start = gpa - self.layout.gpa
        return start >= 0 and start + length <= self.layout.size

    def hva(self, gpa: int) -> int:
        """Return where a guest-physical address of this region is mapped here."""
        return self._first + gpa - self.layout.gpa

    def uva(self, gpa: int) -> Uva:
        """Return the front-end address of a guest-physical address of this region."""
        return Uva(self.description.uva + gpa - self.layout.gpa)

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of `length` bytes."""
        start = self.layout.margin + gpa - self.layout.gpa
        return self._map[start : start + length]

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Overwrite guest memory."""
        start = self.layout.margin + gpa - self.layout.gpa
        self._map[start : start + len(data)] = data

    def contents(self) -> bytes:
        """Return a copy of the whole file, margins included."""
        return self._map[:]

    def close(self) -> None:
        """Unmap the region and close its memfd. Closing it twice is harmless."""
        if not self._map.closed:
            ffi.release(self._pointer)
            self._map.close()
        self.fd.close()


class GuestMemory(Closing):
    """The memory of one guest.

    Use it as a context manager, or close it.

    Args:
        layout: regions, in the order in which the back-end is told of them; they must not overlap.

    Raises:
        OSError: the host is out of memory or file descriptors.
    """

    def __init__(
        self, layout: Sequence[RegionLayout] = (RegionLayout(gpa=0, size=16 * MEBIBYTE),)
    ) -> None:
        self.regions: tuple[GuestRegion, ...] = ()
        self._free: list[tuple[int, int]] = []
        try:
            for wanted in layout:
                self.add_region(wanted)
        except OSError:
            self.close()
            raise

    def add_region(self, layout: RegionLayout) -> GuestRegion:
        """Plug in more memory; tell the back-end of it with `FrontendClient.add_region`.

        Raises:
            OSError: the host is out of memory or file descriptors.
        """
        region = GuestRegion(layout)
        self.regions = (*self.regions, region)
        # Address 0 is never handed out: too many mistakes look like it.
        self._free.append((max(layout.gpa, 1), layout.gpa + layout.size))
        return region

    def alloc(self, size: int, *, alignment: int = 16) -> GuestBuffer:
        """Take a free piece of guest memory, which lies in one region. Its bytes are as they were.

        Args:
            size: bytes, at least 1.
            alignment: what its guest-physical address is a multiple of; a power of two.

        Raises:
            MemoryError: no region has such a piece; free some buffers or ask for more memory.
        """
        for index, (start, end) in enumerate(self._free):
            gpa = -(-start // alignment) * alignment
            if gpa + size <= end:
                rest = [(start, gpa), (gpa + size, end)]
                self._free[index : index + 1] = [(low, high) for low, high in rest if low < high]
                return GuestBuffer(Gpa(gpa), size)
        raise MemoryError(f"no region has {size} bytes of guest memory left")

    def free(self, buffer: GuestBuffer) -> None:
        """Give back what `alloc` returned."""
        self._free.append((buffer.gpa, buffer.gpa + buffer.length))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for start, end in self._free:
            # Pieces of adjacent regions stay apart: a buffer never spans two memfds.
            if merged and merged[-1][1] == start and self._region_of(start - 1, 2) is not None:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self._free = merged

    def _region_of(self, gpa: int, length: int) -> GuestRegion | None:
        return next((region for region in self.regions if region.holds(gpa, length)), None)

    def region_of(self, gpa: int, length: int = 1) -> GuestRegion:
        """Return the region that holds all of [gpa, gpa + length).

        Raises:
            ValueError: no single region does.
        """
        region = self._region_of(gpa, length)
        if region is None:
            raise ValueError(f"no region holds the {length} bytes at gpa {gpa:#x}")
        return region

    def hva(self, gpa: int, length: int = 1) -> int:
        """Return where [gpa, gpa + length) is mapped in this process.

        Raises:
            ValueError: it does not lie in one region.
        """
        return self.region_of(gpa, length).hva(gpa)

    def uva(self, gpa: int, length: int = 1) -> Uva:
        """Return the address of [gpa, gpa + length) for messages that want a front-end address.

        Raises:
            ValueError: it does not lie in one region.
        """
        return self.region_of(gpa, length).uva(gpa)

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of `length` bytes, which may lie in several adjacent regions.

        Raises:
            ValueError: some of it is not guest memory.
        """
        return b"".join(
            region.read(start, size) for region, start, size in self._pieces(gpa, length)
        )

    def write(self, gpa: int, data: bytes | bytearray) -> None:
        """Overwrite guest memory, which may lie in several adjacent regions.

        Raises:
            ValueError: some of it is not guest memory; nothing was written.
        """
        pieces = self._pieces(gpa, len(data))
        view = memoryview(data)
        for region, start, size in pieces:
            region.write(start, view[start - gpa : start - gpa + size])

    def _pieces(self, gpa: int, length: int) -> list[tuple[GuestRegion, int, int]]:
        pieces = []
        end = gpa + length
        while gpa < end:
            region = self.region_of(gpa)
            size = min(end, region.layout.gpa + region.layout.size) - gpa
            pieces.append((region, gpa, size))
            gpa += size
        return pieces

    def close(self) -> None:
        """Unmap all regions and close their memfds. Closing it twice is harmless."""
        for region in self.regions:
            region.close()
