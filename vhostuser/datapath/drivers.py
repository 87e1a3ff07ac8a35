"""Finds the driver of an accelerator: by the entry points of `vhostuser.accelerators`."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from vhostuser.datapath.accelerator import Accelerator, AcceleratorFactory

__all__ = ["open_accelerator"]

_GROUP = "vhostuser.accelerators"


def open_accelerator(name: str) -> AbstractAsyncContextManager[Accelerator]:
    """Return the accelerator of this name; it is opened on entering, for the length of the block.

    Args:
        name: a driver's name, a colon and what the driver calls the address of a device, such as
            "vfio:0000:01:00.0" or "vfio-user:/tmp/device.sock".

    Raises:
        UsageError: there is no such driver; on entering, no such device. The text says what to do.
        OSError (on entering): the host refused.
    """
    driver, colon, address = name.partition(":")
    points = importlib.metadata.entry_points(group=_GROUP)
    if driver not in points.names or not colon or not address:
        known = ", ".join(f"{each}:ADDRESS" for each in sorted(points.names)) or "none"
        raise UsageError(
            f"'{name}' names no accelerator: give a driver and an address; installed: {known}"
        )
    factory: AcceleratorFactory = points[driver].load()
    return factory(address)
