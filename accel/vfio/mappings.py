"""Guest memory that a device can reach: what the host's IOMMU does not do, said in words.

The kernel would refuse each of these cases, too, but with a number that does not tell the user
whether to give the guest less memory or the process a higher limit.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
from typing import TYPE_CHECKING

from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from accel.vfio.container import Container
    from protocol.kernel.vfio import IovaRange
    from vhostuser.memory import MappedRegion

__all__ = ["Mappings"]

_KIB = 1024


class Mappings:
    """What is mapped into a container. All methods may take long: call them in a thread.

    Args:
        container: where to; it must have its group.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._sizes: dict[int, int] = {}

    def add(self, mapped: MappedRegion) -> None:
        """Let the device reach a region at its guest-physical address.

        Raises:
            OSError: the IOMMU cannot map it, or the host refused; nothing has changed.
        """
        region = mapped.region
        self._check_pages(region.gpa, mapped.hva, region.size)
        self._check_place(region.gpa, region.size)
        try:
            self._container.map(iova=region.gpa, address=mapped.hva, size=region.size)
        except OSError as error:
            raise self._in_words(region.gpa, region.size, error) from error
        self._sizes[region.gpa] = region.size

    def remove(self, mapped: MappedRegion) -> None:
        """Take a region away. Raises OSError: it was not mapped, or not with these bounds."""
        gpa, size = mapped.region.gpa, mapped.region.size
        try:
            self._container.unmap(iova=gpa, size=size)
        except AcceleratorError:
            raise
        except OSError as error:
            raise AcceleratorError(
                f"{_span(gpa, size)} cannot be taken away from the device: {error.strerror}",
                error.errno or errno.EIO,
            ) from error
        self._sizes.pop(gpa, None)

    def clear(self) -> None:
        """Take everything away: a receiver of the device's file could use it for longer."""
        while self._sizes:
            gpa, size = self._sizes.popitem()
            with contextlib.suppress(OSError):  # the container's end takes it away, then
                self._container.unmap(iova=gpa, size=size)

    def _check_pages(self, gpa: int, hva: int, size: int) -> None:
        sizes = self._container.info.page_sizes
        page = sizes & -sizes or mmap.PAGESIZE
        if (gpa | hva | size) % page:
            raise AcceleratorError(
                f"{_span(gpa, size)} is not made of whole pages of {page // _KIB} KiB, the "
                "smallest that the host's IOMMU maps: align the guest's memory to that",
                errno.EINVAL,
            )

    def _check_place(self, gpa: int, size: int) -> None:
        ranges = self._container.info.iova_ranges
        last = gpa + size - 1
        if ranges is None or any(each.first <= gpa and last <= each.last for each in ranges):
            return
        highest = max((each.last for each in ranges), default=-1)
        if last > highest:
            raise AcceleratorError(
                f"{_span(gpa, size)} lies above {highest:#x}, the last address that the host's "
                "IOMMU maps: give the guest less memory, or a smaller physical address space",
                errno.ERANGE,
            )
        holes = ", ".join(_holes(ranges, gpa, last))
        raise AcceleratorError(
            f"{_span(gpa, size)} covers addresses that the host does not map for devices "
            f"({holes}; interrupts go there, or the firmware keeps it): lay the guest's memory "
            "out without them",
            errno.ERANGE,
        )

    def _in_words(self, gpa: int, size: int, error: OSError) -> AcceleratorError:
        where = _span(gpa, size)
        match error.errno:
            case errno.ENOMEM:
                text = f"{where} cannot be locked: {self._lock_limit(size)}"
            case errno.ENOSPC:
                text = (
                    f"{where} is one mapping more than the host allows a device: raise the "
                    "limit (modprobe vfio_iommu_type1 dma_entry_limit=N), or give the guest its "
                    "memory in fewer pieces"
                )
            case errno.EEXIST:
                text = f"{where} overlaps with memory that the device already reaches"
            case errno.EFAULT:
                text = f"{where} cannot be locked: there is no memory behind all of it"
            case _:
                text = f"{where} cannot be mapped for the device: {error.strerror}"
        return AcceleratorError(text, error.errno or errno.EIO)

    def _lock_limit(self, size: int) -> str:
        limit, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        needed = (sum(self._sizes.values()) + size) // _KIB
        if limit == resource.RLIM_INFINITY or os.geteuid() == 0:
            return f"the host has not {needed} KiB free for it"
        return (
            f"a device needs all {needed} KiB of the guest's memory locked, and this process may "
            f"lock {limit // _KIB} KiB; raise the limit (ulimit -l, or LimitMEMLOCK=infinity in a "
            "systemd unit)"
        )


def _span(gpa: int, size: int) -> str:
    return f"guest memory {gpa:#x} to {gpa + size - 1:#x}"


def _holes(ranges: tuple[IovaRange, ...], first: int, last: int) -> list[str]:
    """Say which parts of [first, last] are in no range."""
    found = []
    place = first
    for each in sorted(ranges, key=lambda each: each.first):
        if each.last < place:
            continue
        if each.first > place:
            found.append(f"{place:#x} to {min(each.first - 1, last):#x}")
        place = each.last + 1
        if place > last:
            break
    return found
