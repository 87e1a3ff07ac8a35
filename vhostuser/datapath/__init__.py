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
from vhostuser.datapath.software import IO_ENGINES, SoftwareDatapath, WorkerOptions

__all__ = [
    "IO_ENGINES",
    "Capabilities",
    "Datapath",
    "DatapathEvents",
    "RingActual",
    "RingFd",
    "RingStart",
    "RingStatistics",
    "SoftwareDatapath",
    "StopMode",
    "WorkerOptions",
]
