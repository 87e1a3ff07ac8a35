"""vfio-user: devices of other processes by a UNIX socket, and our own for other processes."""

from accel.vfio_user.blocking import BlockingClient
from accel.vfio_user.client import VfioUserClient, connect, over
from accel.vfio_user.device import VfioUserDevice, open_device, open_over
from accel.vfio_user.driver import open_accelerator
from accel.vfio_user.emulated import (
    MSIX_IRQ,
    ClientMemory,
    DmaRange,
    EmulatedDevice,
    EmulatedRegion,
    IoFd,
)
from accel.vfio_user.server import serve, serve_connection

__all__ = [
    "MSIX_IRQ",
    "BlockingClient",
    "ClientMemory",
    "DmaRange",
    "EmulatedDevice",
    "EmulatedRegion",
    "IoFd",
    "VfioUserClient",
    "VfioUserDevice",
    "connect",
    "open_accelerator",
    "open_device",
    "open_over",
    "over",
    "serve",
    "serve_connection",
]
