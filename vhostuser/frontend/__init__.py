"""The driver's side of vhost-user: client, guest memory, driver queues, block driver."""

from vhostuser.frontend.blk import BLK_DRIVER_FEATURES, BlockDriver, BlockResult
from vhostuser.frontend.channel import MessageChannel
from vhostuser.frontend.client import PROTOCOL_FEATURES, TRANSPORT_FEATURES, FrontendClient
from vhostuser.frontend.errors import (
    BackendClosedError,
    BlockError,
    FrontendError,
    RequestRefusedError,
    RingError,
)
from vhostuser.frontend.memory import GuestBuffer, GuestMemory, GuestRegion, RegionLayout
from vhostuser.frontend.orders import LIBBLKIO, QEMU, VIRTIO_USER, Order, Step
from vhostuser.frontend.queue import DriverQueue, RingAreas

__all__ = [
    "BLK_DRIVER_FEATURES",
    "LIBBLKIO",
    "PROTOCOL_FEATURES",
    "QEMU",
    "TRANSPORT_FEATURES",
    "VIRTIO_USER",
    "BackendClosedError",
    "BlockDriver",
    "BlockError",
    "BlockResult",
    "DriverQueue",
    "FrontendClient",
    "FrontendError",
    "GuestBuffer",
    "GuestMemory",
    "GuestRegion",
    "MessageChannel",
    "Order",
    "RegionLayout",
    "RequestRefusedError",
    "RingAreas",
    "RingError",
    "Step",
]
