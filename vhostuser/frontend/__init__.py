"""The driver's side of vhost-user: client, memory, queues, notify areas, drivers of devices."""

from vhostuser.frontend.area_rules import MAX_AREA
from vhostuser.frontend.areas import AreaState, NotifyAreas
from vhostuser.frontend.blk import BLK_DRIVER_FEATURES, BlockDriver, BlockResult
from vhostuser.frontend.channel import MessageChannel
from vhostuser.frontend.client import FrontendClient
from vhostuser.frontend.errors import (
    BackendClosedError,
    BlockError,
    CommandError,
    FrontendError,
    RequestRefusedError,
    RingError,
)
from vhostuser.frontend.features import PROTOCOL_FEATURES, TRANSPORT_FEATURES
from vhostuser.frontend.groups import GroupIdentity, VfioGroups, identify_group
from vhostuser.frontend.hand_over import Host
from vhostuser.frontend.memory import GuestBuffer, GuestMemory, GuestRegion, RegionLayout
from vhostuser.frontend.net import NET_DRIVER_FEATURES, NetDriver, NetFrame
from vhostuser.frontend.net_control import NetControl
from vhostuser.frontend.orders import LIBBLKIO, QEMU, VIRTIO_USER, Order, Step
from vhostuser.frontend.queue import DriverQueue
from vhostuser.frontend.ring_areas import RingAreas
from vhostuser.frontend.ringing import Doorbell, Kicks

__all__ = [
    "BLK_DRIVER_FEATURES",
    "LIBBLKIO",
    "MAX_AREA",
    "NET_DRIVER_FEATURES",
    "PROTOCOL_FEATURES",
    "QEMU",
    "TRANSPORT_FEATURES",
    "VIRTIO_USER",
    "AreaState",
    "BackendClosedError",
    "BlockDriver",
    "BlockError",
    "BlockResult",
    "CommandError",
    "Doorbell",
    "DriverQueue",
    "FrontendClient",
    "FrontendError",
    "GroupIdentity",
    "GuestBuffer",
    "GuestMemory",
    "GuestRegion",
    "Host",
    "Kicks",
    "MessageChannel",
    "NetControl",
    "NetDriver",
    "NetFrame",
    "NotifyAreas",
    "Order",
    "RegionLayout",
    "RequestRefusedError",
    "RingAreas",
    "RingError",
    "Step",
    "VfioGroups",
    "identify_group",
]
