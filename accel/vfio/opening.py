"""Opening an accelerator by the address on the command line."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

from accel.vfio.device import KernelVfioDevice
from accel.vfio.sysfs import full_address
from accel.virtio_pci import open_virtio
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.datapath import Accelerator

__all__ = ["DeviceAddress", "open_accelerator", "open_device"]

_SHARE = "share-device-fd"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAddress:
    """Which device, and how.

    Attributes:
        address: where on the PCI bus, in full.
        share_fd: whether the device's file may be handed to the front-end with a doorbell page.
            Its receiver can then do with the device whatever its driver could: write any register
            and its configuration space, reset it, take its interrupts. It reaches no memory but
            what is mapped for the device, its own guest's; and it keeps the device from being given
            back for as long as it holds the file. Nothing of the device is mapped here then, so
            that a receiver that turns the device's registers off ends no process of ours.
    """

    address: str
    share_fd: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Understand `0000:01:00.0` or `0000:01:00.0,share-device-fd=on`.

        Raises:
            UsageError: it is neither.
        """
        first, *options = text.split(",")
        address = full_address(first)
        share = False
        for option in options:
            name, _, value = option.partition("=")
            if name != _SHARE or value not in {"on", "off"}:
                raise UsageError(
                    f"{option!r} is no option of a vfio accelerator; there is {_SHARE}=on|off"
                )
            share = value == "on"
        return cls(address=address, share_fd=share)


@contextlib.asynccontextmanager
async def open_device(where: DeviceAddress) -> AsyncIterator[KernelVfioDevice]:
    """Hold a PCI device for the length of the block.

    Raises (on entering):
        UsageError: it cannot be used, and what to do about it.
        OSError: the host refused.
    """

    def opened() -> KernelVfioDevice:
        return KernelVfioDevice(where.address, share_fd=where.share_fd)

    device = await trio.to_thread.run_sync(opened)
    try:
        yield device
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(device.close)


@contextlib.asynccontextmanager
async def open_accelerator(address: str) -> AsyncIterator[Accelerator]:
    """Open a virtio PCI device by the kernel's VFIO, reset, for the length of the block.

    Args:
        address: see `DeviceAddress.parse`.

    Raises (on entering):
        UsageError: there is no such device, or it cannot be used; the text says what to do.
        OSError: the host refused.
    """
    async with (
        open_device(DeviceAddress.parse(address)) as device,
        open_virtio(device) as accelerator,
    ):
        yield accelerator
