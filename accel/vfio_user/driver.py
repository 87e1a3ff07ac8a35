"""The entry point of accelerators behind a vfio-user socket: `--accel vfio-user:PATH`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from accel.vfio_user.device import open_device
from accel.virtio_pci import open_virtio
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.datapath import Accelerator

__all__ = ["open_accelerator"]


@contextlib.asynccontextmanager
async def open_accelerator(address: str) -> AsyncIterator[Accelerator]:
    """Open the virtio device that a vfio-user server has, for the length of the block.

    See `vhostuser.datapath.AcceleratorFactory`.

    Args:
        address: path of the server's socket.
    """
    if not address:
        raise UsageError("name the server's socket, for example vfio-user:/run/disk.sock")
    async with open_device(address) as device, open_virtio(device) as accelerator:
        yield accelerator
