"""Devices: what is served to a front-end."""

from vhostuser.devices.accelerated import AcceleratedDevice
from vhostuser.devices.base import Device, DeviceProfile, SizedDevice
from vhostuser.devices.blk import BlkDevice
from vhostuser.devices.blk_profile import BLOCK_SIZES, SERIAL_BYTES, BlkOptions
from vhostuser.devices.block_device import BlockSizes, known_use
from vhostuser.devices.default_disk import (
    DEFAULT_SECTORS,
    GREETING,
    default_sector,
    default_store,
)
from vhostuser.devices.net import NetCounters, NetDevice, NetOptions, NetPorts
from vhostuser.devices.store import Store, memory_store, null_store, open_store

__all__ = [
    "BLOCK_SIZES",
    "DEFAULT_SECTORS",
    "GREETING",
    "SERIAL_BYTES",
    "AcceleratedDevice",
    "BlkDevice",
    "BlkOptions",
    "BlockSizes",
    "Device",
    "DeviceProfile",
    "NetCounters",
    "NetDevice",
    "NetOptions",
    "NetPorts",
    "SizedDevice",
    "Store",
    "default_sector",
    "default_store",
    "known_use",
    "memory_store",
    "null_store",
    "open_store",
]
