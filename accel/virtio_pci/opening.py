"""Opening a virtio PCI device: look at all that it says, and refuse early and in words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from accel.pci import PciDevice
    from vhostuser.datapath import Accelerator

__all__ = ["open_virtio"]


@contextlib.asynccontextmanager
async def open_virtio(device: PciDevice, *, name: str | None = None) -> AsyncIterator[Accelerator]:
    """Drive a virtio PCI device for the length of the block: reset before and after.

    Args:
        device: stays the caller's, open until the block has ended. Nothing of it is mapped, and
            none of its vectors is bound, after that.
        name: for messages to people; the device's own unless given.

    Raises (on entering):
        UsageError: it is no virtio device, or one that cannot be driven; the text says why.
        OSError: the device is gone, or breaks the rules of virtio.
    """
    raise AcceleratorError(f"{name or device.name} cannot be driven yet")
    yield
