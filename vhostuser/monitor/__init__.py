"""The control socket: QMP commands and events."""

from vhostuser.monitor.monitor import Monitor
from vhostuser.monitor.qmp import CommandError

__all__ = ["CommandError", "Monitor"]
