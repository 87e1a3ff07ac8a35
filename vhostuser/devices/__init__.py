"""Devices: what is served to a front-end."""

from vhostuser.devices.accelerated import AcceleratedDevice
from vhostuser.devices.base import AnnouncedDevice, Device, DeviceProfile, SizedDevice
from vhostuser.devices.blk import BlkDevice
from vhostuser.devices.blk_profile import BLOCK_SIZES, SERIAL_BYTES, BlkOptions
from vhostuser.devices.block_device import BlockSizes, known_use
from vhostuser.devices.default_disk import (
    DEFAULT_SECTORS,
    GREETING,
    default_sector,
    default_store,
)
from vhostuser.devices.net import NetDevice
from vhostuser.devices.net_port import (
    NET_DROPS,
    NetCounters,
    NetPort,
    NetPortOptions,
    NetPortState,
)
from vhostuser.devices.net_profile import MAX_PAIRS, NetOptions
from vhostuser.devices.net_switch import SWITCH_MODES, KnownAddress, NetSwitch, SwitchOptions
from vhostuser.devices.store import Store, memory_store, null_store, open_store

__all__ = [
    "BLOCK_SIZES",
    "DEFAULT_SECTORS",
    "GREETING",
    "MAX_PAIRS",
    "NET_DROPS",
    "SERIAL_BYTES",
    "SWITCH_MODES",
    "AcceleratedDevice",
    "AnnouncedDevice",
    "BlkDevice",
    "BlkOptions",
    "BlockSizes",
    "Device",
    "DeviceProfile",
    "KnownAddress",
    "NetCounters",
    "NetDevice",
    "NetOptions",
    "NetPort",
    "NetPortOptions",
    "NetPortState",
    "NetSwitch",
    "SizedDevice",
    "Store",
    "SwitchOptions",
    "default_sector",
    "default_store",
    "known_use",
    "memory_store",
    "null_store",
    "open_store",
]
