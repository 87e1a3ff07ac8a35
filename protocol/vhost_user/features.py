"""Protocol features: numbers, masks, what depends on what, and what was negotiated.

A number (`ProtocolFeature`) and a set (`ProtocolFeatures`) are different types and cannot be mixed.
Bits that nobody has named yet are kept, never dropped. Virtio's own feature bits live in
`protocol.virtio.features`. Specification: vhost-user, "Protocol features".
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from protocol.masks import complement
from protocol.virtio.features import VirtioFeature, VirtioFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEPENDENCIES",
    "NUMBERED_SINCE",
    "Feature",
    "Negotiated",
    "ProtocolFeature",
    "ProtocolFeatures",
    "Rfc1Feature",
    "Rfc2Feature",
    "feature_names",
]


class ProtocolFeature(enum.Enum):
    """The number of a protocol feature (its bit's position)."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_INFLIGHT = 20
    GPA_ADDRESSES = 21
    SHMEM = 22
    GET_VRING_BASE_SKIP_DRAIN = 23

    @property
    def mask(self) -> ProtocolFeatures:
        """The set that holds this feature alone."""
        return ProtocolFeatures(1 << self.value)


class ProtocolFeatures(enum.IntFlag, boundary=enum.KEEP):
    """A set of protocol features, as the 64-bit masks on the wire; unknown bits are kept."""

    __invert__ = complement

    MQ = 1 << ProtocolFeature.MQ.value
    LOG_SHMFD = 1 << ProtocolFeature.LOG_SHMFD.value
    RARP = 1 << ProtocolFeature.RARP.value
    REPLY_ACK = 1 << ProtocolFeature.REPLY_ACK.value
    MTU = 1 << ProtocolFeature.MTU.value
    BACKEND_REQ = 1 << ProtocolFeature.BACKEND_REQ.value
    CROSS_ENDIAN = 1 << ProtocolFeature.CROSS_ENDIAN.value
    CRYPTO_SESSION = 1 << ProtocolFeature.CRYPTO_SESSION.value
    PAGEFAULT = 1 << ProtocolFeature.PAGEFAULT.value
    CONFIG = 1 << ProtocolFeature.CONFIG.value
    BACKEND_SEND_FD = 1 << ProtocolFeature.BACKEND_SEND_FD.value
    HOST_NOTIFIER = 1 << ProtocolFeature.HOST_NOTIFIER.value
    INFLIGHT_SHMFD = 1 << ProtocolFeature.INFLIGHT_SHMFD.value
    RESET_DEVICE = 1 << ProtocolFeature.RESET_DEVICE.value
    INBAND_NOTIFICATIONS = 1 << ProtocolFeature.INBAND_NOTIFICATIONS.value
    CONFIGURE_MEM_SLOTS = 1 << ProtocolFeature.CONFIGURE_MEM_SLOTS.value
    STATUS = 1 << ProtocolFeature.STATUS.value
    XEN_MMAP = 1 << ProtocolFeature.XEN_MMAP.value
    SHARED_OBJECT = 1 << ProtocolFeature.SHARED_OBJECT.value
    DEVICE_STATE = 1 << ProtocolFeature.DEVICE_STATE.value
    GET_VRING_BASE_INFLIGHT = 1 << ProtocolFeature.GET_VRING_BASE_INFLIGHT.value
    GPA_ADDRESSES = 1 << ProtocolFeature.GPA_ADDRESSES.value
    SHMEM = 1 << ProtocolFeature.SHMEM.value
    GET_VRING_BASE_SKIP_DRAIN = 1 << ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN.value


class Rfc2Feature(enum.Enum):
    """The one protocol feature that the second RFC of 2018 numbers differently."""

    VFIO = 8


class Rfc1Feature(enum.Enum):
    """The one protocol feature that the first RFC of 2017 numbers differently."""

    VFIO = 7


Feature: TypeAlias = ProtocolFeature | VirtioFeature | Rfc1Feature | Rfc2Feature
"""The number of any feature that can unlock a message."""

DEPENDENCIES: Mapping[Feature, tuple[ProtocolFeature, ...]] = MappingProxyType(
    {
        ProtocolFeature.INBAND_NOTIFICATIONS: (
            ProtocolFeature.BACKEND_REQ,
            ProtocolFeature.REPLY_ACK,
        ),
        ProtocolFeature.HOST_NOTIFIER: (
            ProtocolFeature.BACKEND_REQ,
            ProtocolFeature.BACKEND_SEND_FD,
        ),
        ProtocolFeature.SHMEM: (ProtocolFeature.BACKEND_REQ, ProtocolFeature.BACKEND_SEND_FD),
        ProtocolFeature.GET_VRING_BASE_INFLIGHT: (ProtocolFeature.INFLIGHT_SHMFD,),
        ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN: (ProtocolFeature.INFLIGHT_SHMFD,),
        VirtioFeature.ACCESS_PLATFORM: (ProtocolFeature.BACKEND_REQ, ProtocolFeature.REPLY_ACK),
    }
)
"""Features without which another one is of no use: it then unlocks nothing."""

NUMBERED_SINCE: Mapping[ProtocolFeature, str] = MappingProxyType(
    {
        ProtocolFeature.GET_VRING_BASE_INFLIGHT: "11.0",
        ProtocolFeature.GPA_ADDRESSES: "11.1",
        ProtocolFeature.SHMEM: "11.1",
        ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN: "after 11.1; number not settled",
    }
)
"""The QEMU release whose specification settled a feature's number; 10.0 has all that are not here.

Drafts numbered them otherwise: SHMEM was 20 up to the eleventh."""


_NO_VIRTIO = VirtioFeatures(0)
_NO_PROTOCOL = ProtocolFeatures(0)


class Negotiated:
    """What both sides have agreed on; written by the front-end channel's connection alone.

    Attributes:
        features: Virtio features of the last SET_FEATURES that was accepted.
        protocol_features: The same of SET_PROTOCOL_FEATURES.
    """

    __slots__ = ("features", "protocol_features")

    def __init__(
        self,
        features: VirtioFeatures = _NO_VIRTIO,
        protocol_features: ProtocolFeatures = _NO_PROTOCOL,
    ) -> None:
        self.features = features
        self.protocol_features = protocol_features

    def __repr__(self) -> str:
        return (
            f"Negotiated(features={int(self.features):#x}, "
            f"protocol_features={int(self.protocol_features):#x})"
        )

    def has(self, feature: Feature) -> bool:
        """Return whether this one feature was negotiated."""
        held: int = self.features if isinstance(feature, VirtioFeature) else self.protocol_features
        return bool(held >> feature.value & 1)

    def missing(self, feature: Feature) -> tuple[Feature, ...]:
        """Return what is not negotiated of a feature and of those that it depends on."""
        needed = (feature, *DEPENDENCIES.get(feature, ()))
        return tuple(each for each in needed if not self.has(each))


def feature_names(bits: int, names: Mapping[int, str]) -> str:
    """Return the set bits of a mask by name, joined by "|"; unknown bits as bit<number>.

    Args:
        bits: A mask, never negative.
        names: Name of each known bit, by number.
    """
    numbers = (number for number in range(bits.bit_length()) if bits >> number & 1)
    return "|".join(names.get(number, f"bit{number}") for number in numbers) or "none"
