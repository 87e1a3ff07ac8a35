"""The commands about the device itself and its regions, reset included.

Specification: vfio-user, DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS,
REGION_READ, REGION_WRITE, REGION_WRITE_MULTI, DEVICE_RESET.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from accel.vfio_user.describe import describe_io_fds, describe_region
from accel.vfio_user.served import PCI_IRQS, PCI_REGIONS, Answer, Served
from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from accel.vfio_user.emulated import EmulatedRegion
    from vhostuser.fds import OwnedFd


async def get_info(served: Served, _message: wire.DeviceGetInfo, _: list[OwnedFd]) -> Answer:
    """Say how many regions and interrupts the device has."""
    return Answer(
        wire.DeviceInfo(
            flags=wire.DeviceFlags.RESET | wire.DeviceFlags.PCI,
            num_regions=_num_regions(served),
            num_irqs=PCI_IRQS,
        )
    )


def _num_regions(served: Served) -> int:
    return max([PCI_REGIONS, *(index + 1 for index in served.device.regions)])


def _require_region(served: Served, index: int) -> EmulatedRegion | None:
    if index >= _num_regions(served):
        raise AcceleratorError(f"there is no region {index}", errno.EINVAL)
    return served.device.regions.get(index)


async def get_region_info(
    served: Served, message: wire.DeviceGetRegionInfo, _: list[OwnedFd]
) -> Answer:
    """Describe a region; its fd goes along unless there is no room for the whole description."""
    region = _require_region(served, message.index)
    info = describe_region(message.index, region)
    return Answer(info, () if region is None or region.fd is None else (region.fd,))


async def get_io_fds(
    served: Served, message: wire.DeviceGetRegionIoFds, _: list[OwnedFd]
) -> Answer:
    """Offer eventfds that do the same as writes to a region."""
    if _require_region(served, message.index) is None:
        raise AcceleratorError(f"region {message.index} is empty", errno.EINVAL)
    offered = served.device.io_fds(message.index)
    info, along = describe_io_fds(message.index, offered, served.most_fds())
    return Answer(info, along)


async def read(served: Served, message: wire.RegionRead, _: list[OwnedFd]) -> Answer:
    """Read from a region."""
    count = message.count
    region = _require_access(served, message)
    if not region.readable:
        raise AcceleratorError(f"region {message.region} cannot be read", errno.EINVAL)
    data = await served.device.read(message.region, message.offset, count) if count else b""
    if len(data) != count:
        raise RuntimeError(f"{served.device.name} read {len(data)} bytes instead of {count}")
    return Answer(
        wire.RegionReadReply(offset=message.offset, region=message.region, data=bytes(data))
    )


async def write(served: Served, message: wire.RegionWrite, _: list[OwnedFd]) -> Answer:
    """Write to a region."""
    await _write_one(served, message)
    return Answer(
        wire.RegionWriteReply(offset=message.offset, region=message.region, count=message.count)
    )


async def _write_one(served: Served, message: wire.RegionWrite) -> None:
    region = _require_access(served, message)
    if not region.writable:
        raise AcceleratorError(f"region {message.region} cannot be written", errno.EINVAL)
    if message.data:
        await served.device.write(message.region, message.offset, message.data)


async def write_multi(served: Served, message: wire.RegionWriteMulti, _: list[OwnedFd]) -> Answer:
    """Write to regions in order, as far as they let it."""
    done = 0
    for write in message.writes:
        try:
            await _write_one(served, write)
        except OSError:
            if not done:
                raise
            break
        done += 1
    return Answer(wire.RegionWriteMultiReply(count=done))


def _require_access(served: Served, message: wire.RegionRead | wire.RegionWrite) -> EmulatedRegion:
    offset, count = message.offset, message.count
    region = served.device.regions.get(message.region)
    if region is None or offset + count > region.size:
        size = 0 if region is None else region.size
        raise AcceleratorError(
            f"{count} bytes at {offset:#x} are not inside region {message.region}, which has "
            f"{size:#x}",
            errno.EINVAL,
        )
    return region


async def reset(served: Served, _message: wire.DeviceReset, _: list[OwnedFd]) -> Answer:
    """Reset the device."""
    await served.device.reset()
    return Answer()
