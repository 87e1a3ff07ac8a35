"""The disks of a process: their options, and what serves them."""

from vhostuser.disks.check import check_disks
from vhostuser.disks.config import DiskConfig
from vhostuser.disks.diskset import Disk, DiskSet, ServedKind
from vhostuser.disks.opening import open_device

__all__ = [
    "Disk",
    "DiskConfig",
    "DiskSet",
    "ServedKind",
    "check_disks",
    "open_device",
]
