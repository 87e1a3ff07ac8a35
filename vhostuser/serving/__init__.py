"""What all that serves has in common: options, a file of them, and a set of what is served."""

from vhostuser.serving.check import Placed, check_served
from vhostuser.serving.config import (
    ID,
    LONGEST_POLL_US,
    MOST_WORKERS,
    NAMED,
    ProgramConfig,
    ServedConfig,
)
from vhostuser.serving.file import ConfigFile, Finding, read_config
from vhostuser.serving.places import missing_place, open_endpoint
from vhostuser.serving.servedset import Notify, Served, ServedSet

__all__ = [
    "ID",
    "LONGEST_POLL_US",
    "MOST_WORKERS",
    "NAMED",
    "ConfigFile",
    "Finding",
    "Notify",
    "Placed",
    "ProgramConfig",
    "Served",
    "ServedConfig",
    "ServedSet",
    "check_served",
    "missing_place",
    "open_endpoint",
    "read_config",
]
