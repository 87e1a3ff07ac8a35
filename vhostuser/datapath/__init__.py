"""Data paths: the seam and its implementations."""

from vhostuser.datapath.interface import (
    Capabilities,
    Datapath,
    DatapathEvents,
    RingActual,
    RingFd,
    RingStart,
    RingStatistics,
    StopMode,
)
from vhostuser.datapath.software import SoftwareDatapath

__all__ = [
    "Capabilities",
    "Datapath",
    "DatapathEvents",
    "RingActual",
    "RingFd",
    "RingStart",
    "RingStatistics",
    "SoftwareDatapath",
    "StopMode",
]
