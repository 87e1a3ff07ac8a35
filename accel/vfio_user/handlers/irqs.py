"""The commands about interrupts.

Specification: vfio-user, DEVICE_GET_IRQ_INFO, DEVICE_SET_IRQS.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from accel.vfio_user.served import PCI_IRQS, Answer, Served
from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.fds import FdKind, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.fds import OwnedFd


async def get_irq_info(served: Served, message: wire.DeviceGetIrqInfo, _: list[OwnedFd]) -> Answer:
    """Say how many vectors an interrupt index has."""
    if message.index >= PCI_IRQS:
        raise AcceleratorError(f"there is no interrupt index {message.index}", errno.EINVAL)
    count = served.interrupts.count(message.index)
    flags = wire.IrqInfoFlags.EVENTFD if count else wire.IrqInfoFlags(0)
    return Answer(wire.IrqInfo(flags=flags, index=message.index, count=count))


async def set_irqs(served: Served, message: wire.DeviceSetIrqs, fds: list[OwnedFd]) -> Answer:
    """Have vectors signal eventfds, or signal them now."""
    index, start, count = message.index, message.start, message.count
    have = served.interrupts.count(index)
    if index >= PCI_IRQS or start + count > have:
        raise AcceleratorError(
            f"vectors {start} to {start + count - 1} of interrupt index {index}: it has {have}",
            errno.EINVAL,
        )
    if not message.flags & wire.IrqSetFlags.TRIGGER:
        raise AcceleratorError("no interrupt can be masked here", errno.EINVAL)
    if message.switches_off:
        if have:
            await _replace(served, index, 0, [None] * have)
    elif message.brings_eventfds:
        await _assign(served, message, fds)
    else:
        chosen = message.data or b"\1" * count
        served.interrupts.trigger(index, [start + at for at in range(count) if chosen[at]])
    return Answer()


async def _assign(served: Served, message: wire.DeviceSetIrqs, fds: list[OwnedFd]) -> None:
    if fds and len(fds) != message.count:
        raise AcceleratorError(
            f"{len(fds)} eventfds came for {message.count} vectors", errno.EINVAL
        )
    for fd in fds:
        if kind_of(fd) is not FdKind.EVENTFD:
            raise AcceleratorError(
                f"an interrupt signals an eventfd, not a {kind_of(fd).value}", errno.EINVAL
            )
    await _replace(served, message.index, message.start, fds or [None] * message.count)
    fds.clear()


async def _replace(served: Served, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
    # Whole: the device would otherwise hold eventfds that nobody keeps open.
    with trio.CancelScope(shield=True):
        await served.device.set_irqs(index, start, fds)
    served.interrupts.replace(index, start, fds)
