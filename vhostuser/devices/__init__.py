"""Devices: what is served to a front-end."""

from vhostuser.devices.base import Device, DeviceProfile
from vhostuser.devices.blk import (
    BlkDevice,
    BlkOptions,
    Store,
    memory_store,
    null_store,
    open_store,
)

__all__ = [
    "BlkDevice",
    "BlkOptions",
    "Device",
    "DeviceProfile",
    "Store",
    "memory_store",
    "null_store",
    "open_store",
]
