"""Devices: what is served to a front-end."""

from vhostuser.devices.base import Device, DeviceProfile
from vhostuser.devices.blk import (
    SERIAL_BYTES,
    BlkDevice,
    BlkOptions,
    Store,
    memory_store,
    null_store,
    open_store,
)
from vhostuser.devices.default_disk import (
    DEFAULT_SECTORS,
    GREETING,
    default_sector,
    default_store,
)

__all__ = [
    "DEFAULT_SECTORS",
    "GREETING",
    "SERIAL_BYTES",
    "BlkDevice",
    "BlkOptions",
    "Device",
    "DeviceProfile",
    "Store",
    "default_sector",
    "default_store",
    "memory_store",
    "null_store",
    "open_store",
]
