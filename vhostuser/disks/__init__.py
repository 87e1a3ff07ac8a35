"""The disks of a process: the table of options, configurations, and what serves them."""

from vhostuser.disks.check import check_disks
from vhostuser.disks.config import DiskConfig, ProgramConfig
from vhostuser.disks.diskset import Disk, DiskSet
from vhostuser.disks.file import ConfigFile, Finding, read_config
from vhostuser.disks.opening import missing_socket
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
    "Source",
    "add_arguments",
    "check_disks",
    "given",
    "missing_socket",
    "option",
    "options",
    "read",
    "read_config",
]
