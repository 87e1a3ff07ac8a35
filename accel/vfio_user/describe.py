"""What a served device says of its regions and eventfds, as the protocol's messages.

Pure: from what the device offers to what travels. Specification: vfio-user,
DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.vfio_user import (
    IoFd,
    MmapArea,
    RegionFlags,
    RegionInfo,
    RegionIoFds,
    SparseMmap,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accel.vfio_user import emulated
    from accel.vfio_user.emulated import EmulatedRegion
    from vhostuser.fds import OwnedFd

__all__ = ["IOEVENTFD_DATAMATCH", "describe_io_fds", "describe_region"]

IOEVENTFD_DATAMATCH = 1
"""KVM's flag of an ioeventfd that stands for one value only."""

_MOST_ENTRIES = 256


def describe_region(index: int, region: EmulatedRegion | None) -> RegionInfo:
    """Return the description of a region; None: the device does not have it."""
    if region is None or not region.size:
        return RegionInfo(index=index)
    flags = RegionFlags(0)
    if region.readable:
        flags |= RegionFlags.READ
    if region.writable:
        flags |= RegionFlags.WRITE
    if region.fd is not None:
        flags |= RegionFlags.MMAP
    areas = tuple(MmapArea(area.offset, area.size) for area in region.areas)
    return RegionInfo.describing(
        index,
        size=region.size,
        flags=flags,
        offset=region.file_offset,
        capabilities=(SparseMmap(areas),) if areas and region.fd is not None else (),
    )


def describe_io_fds(
    index: int, offered: Sequence[emulated.IoFd], most: int
) -> tuple[RegionIoFds, list[OwnedFd]]:
    """Return the description of eventfds, and those that go along, each once.

    Args:
        index: the region.
        offered: what the device has.
        most: fds that the client takes with one message; the others are left out.
    """
    fds: list[OwnedFd] = []
    entries: list[IoFd] = []
    for each in offered[:_MOST_ENTRIES]:
        if each.fd not in fds:
            if len(fds) >= most:
                continue
            fds.append(each.fd)
        entries.append(
            IoFd(
                offset=each.offset,
                size=each.size,
                fd_index=fds.index(each.fd),
                flags=0 if each.datamatch is None else IOEVENTFD_DATAMATCH,
                value=each.datamatch or 0,
            )
        )
    return RegionIoFds(index=index, entries=tuple(entries)), fds
