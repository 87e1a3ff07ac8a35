"""The features that this front-end takes where nothing else is asked for.

Those of a device type stand with its driver, those of a hand-over with its dialect.
"""

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import VirtioFeatures

__all__ = ["PROTOCOL_FEATURES", "TRANSPORT_FEATURES"]

TRANSPORT_FEATURES = (
    VirtioFeatures.PROTOCOL_FEATURES
    | VirtioFeatures.VERSION_1
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
)
"""Features of no particular device type that are taken unless others are asked for.

RING_PACKED and IN_ORDER are understood too."""

PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.STATUS
)
"""Protocol features that this front-end understands, besides those of a hand-over."""
