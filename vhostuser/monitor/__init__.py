"""The control socket: QMP commands and events."""

from vhostuser.monitor.common import COMMON
from vhostuser.monitor.disks import DISK_COMMANDS, OF_DISKS
from vhostuser.monitor.monitor import Monitor
from vhostuser.monitor.ports import OF_PORTS, PORT_COMMANDS
from vhostuser.monitor.qmp import CommandError
from vhostuser.monitor.table import CommandRow

__all__ = [
    "COMMON",
    "DISK_COMMANDS",
    "OF_DISKS",
    "OF_PORTS",
    "PORT_COMMANDS",
    "CommandError",
    "CommandRow",
    "Monitor",
]
