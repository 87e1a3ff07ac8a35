"""The control socket: QMP commands and events.

What can be done with disks is `vhostuser.monitor.disks`', with ports `vhostuser.monitor.ports`': a
server imports the one that it needs.
"""

from vhostuser.monitor.common import COMMON
from vhostuser.monitor.monitor import Monitor
from vhostuser.monitor.qmp import CommandError
from vhostuser.monitor.table import CommandRow

__all__ = ["COMMON", "CommandError", "CommandRow", "Monitor"]
