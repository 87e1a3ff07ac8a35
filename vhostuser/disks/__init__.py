"""The disks of a process: the table of options, configurations, and what serves them."""

from vhostuser.disks.check import check_disks
from vhostuser.disks.config import DiskConfig, ProgramConfig
from vhostuser.disks.diskset import Disk, DiskSet, ServedKind
from vhostuser.disks.file import ConfigFile, Finding, read_config
from vhostuser.disks.opening import missing_socket, open_device
from vhostuser.disks.options import (
    Option,
    OptionTable,
    Problem,
    Source,
    add_arguments,
    given,
    option,
    options,
    read,
)

__all__ = [
    "ConfigFile",
    "Disk",
    "DiskConfig",
    "DiskSet",
    "Finding",
    "Option",
    "OptionTable",
    "Problem",
    "ProgramConfig",
    "ServedKind",
    "Source",
    "add_arguments",
    "check_disks",
    "given",
    "missing_socket",
    "open_device",
    "option",
    "options",
    "read",
    "read_config",
]
