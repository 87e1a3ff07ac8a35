"""Virtio's device-independent feature bits: numbers and masks.

A number (`VirtioFeature`) and a set (`VirtioFeatures`) are different types and cannot be mixed.
Bits that nobody has named here are kept, never dropped: 0 to 23 and 50 to 127 mean something else
for each kind of device (see `protocol.virtio.blk`). Specification: VIRTIO 1.2, section 6 "Reserved
Feature Bits"; vhost-user, VHOST_USER_F_PROTOCOL_FEATURES and VHOST_F_LOG_ALL.
"""

from __future__ import annotations

import enum

from protocol.masks import complement

__all__ = ["OF_THE_BUS", "VirtioFeature", "VirtioFeatures"]


class VirtioFeature(enum.Enum):
    """The number of a feature (its bit's position)."""

    NOTIFY_ON_EMPTY = 24
    """Legacy: call when the ring runs empty, whatever the driver asked for."""
    LOG_ALL = 26
    """vhost: log every write to guest memory. Never seen by the guest."""
    ANY_LAYOUT = 27
    """Legacy: a message may be cut into buffers anywhere. VERSION_1 implies it."""
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    """vhost-user: protocol features can be negotiated. Never seen by the guest."""
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    """Virtio 1.3: the device has administration queues, which are the host's."""

    @property
    def mask(self) -> VirtioFeatures:
        """The set that holds this feature alone."""
        return VirtioFeatures(1 << self.value)


class VirtioFeatures(enum.IntFlag, boundary=enum.KEEP):
    """A set of features, as the 64-bit masks on the wire; unknown bits are kept."""

    __invert__ = complement

    NOTIFY_ON_EMPTY = 1 << VirtioFeature.NOTIFY_ON_EMPTY.value
    LOG_ALL = 1 << VirtioFeature.LOG_ALL.value
    ANY_LAYOUT = 1 << VirtioFeature.ANY_LAYOUT.value
    INDIRECT_DESC = 1 << VirtioFeature.INDIRECT_DESC.value
    EVENT_IDX = 1 << VirtioFeature.EVENT_IDX.value
    PROTOCOL_FEATURES = 1 << VirtioFeature.PROTOCOL_FEATURES.value
    VERSION_1 = 1 << VirtioFeature.VERSION_1.value
    ACCESS_PLATFORM = 1 << VirtioFeature.ACCESS_PLATFORM.value
    RING_PACKED = 1 << VirtioFeature.RING_PACKED.value
    IN_ORDER = 1 << VirtioFeature.IN_ORDER.value
    ORDER_PLATFORM = 1 << VirtioFeature.ORDER_PLATFORM.value
    SR_IOV = 1 << VirtioFeature.SR_IOV.value
    NOTIFICATION_DATA = 1 << VirtioFeature.NOTIFICATION_DATA.value
    NOTIF_CONFIG_DATA = 1 << VirtioFeature.NOTIF_CONFIG_DATA.value
    RING_RESET = 1 << VirtioFeature.RING_RESET.value
    ADMIN_VQ = 1 << VirtioFeature.ADMIN_VQ.value


OF_THE_BUS = (
    VirtioFeatures.ACCESS_PLATFORM
    | VirtioFeatures.SR_IOV
    | VirtioFeatures.NOTIFICATION_DATA
    | VirtioFeatures.NOTIF_CONFIG_DATA
    | VirtioFeatures.RING_RESET
    | VirtioFeatures.ADMIN_VQ
)
"""What is between a device and whoever drives it on its bus: its way to memory, its doorbells, its
queues. Nobody behind a relayed or handed-over ring negotiates any of it."""
