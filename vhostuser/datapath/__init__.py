"""Data paths: the seam and its implementations."""

from vhostuser.datapath.accelerator import (
    Accelerator,
    AcceleratorCapabilities,
    AcceleratorFactory,
    AcceleratorIdentity,
    AcceleratorNews,
    EventfdDoorbell,
    MappedDoorbell,
    NotifyArea,
    QueueAddresses,
)
from vhostuser.datapath.drivers import open_accelerator
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
from vhostuser.datapath.passthrough import PassthroughDatapath, Software
from vhostuser.datapath.software import IO_ENGINES, SoftwareDatapath, WorkerOptions

__all__ = [
    "IO_ENGINES",
    "Accelerator",
    "AcceleratorCapabilities",
    "AcceleratorFactory",
    "AcceleratorIdentity",
    "AcceleratorNews",
    "Capabilities",
    "Datapath",
    "DatapathEvents",
    "EventfdDoorbell",
    "MappedDoorbell",
    "NotifyArea",
    "PassthroughDatapath",
    "QueueAddresses",
    "RingActual",
    "RingFd",
    "RingStart",
    "RingStatistics",
    "Software",
    "SoftwareDatapath",
    "StopMode",
    "WorkerOptions",
    "open_accelerator",
]
