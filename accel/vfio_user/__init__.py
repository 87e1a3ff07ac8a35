"""vfio-user: devices of other processes by a UNIX socket, and our own for other processes."""

from accel.vfio_user.emulated import (
    MSIX_IRQ,
    ClientMemory,
    DmaRange,
    EmulatedDevice,
    EmulatedRegion,
    IoFd,
)

__all__ = [
    "MSIX_IRQ",
    "ClientMemory",
    "DmaRange",
    "EmulatedDevice",
    "EmulatedRegion",
    "IoFd",
]
