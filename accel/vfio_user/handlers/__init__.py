"""Which function carries out which command of a client. Commands without one are refused.

Each is checked against what the device has before the device hears of it. Whatever raises OSError
becomes the client's answer; fds that a function keeps it removes from the list it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.vfio_user.handlers import irqs, memory, regions
from protocol import vfio_user as wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from accel.vfio_user.served import Answer, Served
    from protocol.messages import Message
    from vhostuser.fds import OwnedFd

__all__ = ["HANDLERS"]

HANDLERS: dict[type[Message], Callable[[Served, Any, list[OwnedFd]], Awaitable[Answer]]] = {
    wire.DeviceGetInfo: regions.get_info,
    wire.DeviceGetRegionInfo: regions.get_region_info,
    wire.DeviceGetRegionIoFds: regions.get_io_fds,
    wire.DeviceGetIrqInfo: irqs.get_irq_info,
    wire.DeviceSetIrqs: irqs.set_irqs,
    wire.DeviceReset: regions.reset,
    wire.DmaMap: memory.map_,
    wire.DmaUnmap: memory.unmap,
    wire.RegionRead: regions.read,
    wire.RegionWrite: regions.write,
    wire.RegionWriteMulti: regions.write_multi,
}
