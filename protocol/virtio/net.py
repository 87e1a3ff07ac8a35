"""The network device's formats: features, the header of a frame and the configuration space.

Only bytes and numbers, all little-endian (VERSION_1, or a legacy guest on a little-endian machine).
What goes through the control queue is in `protocol.virtio.net_control`. Specification: VIRTIO 1.2,
section 5.1 "Network Device".
"""

from __future__ import annotations

import enum
import struct
from dataclasses import asdict, dataclass
from typing import Self

import construct as c

from protocol.masks import complement
from protocol.virtio.features import VirtioFeatures

__all__ = [
    "NET_CONFIG_SIZE",
    "NET_HEADER_SIZE",
    "NET_MAX_MTU",
    "NET_MIN_MTU",
    "NetConfig",
    "NetFeature",
    "NetFeatures",
    "NetGso",
    "NetHeader",
    "NetHeaderFlags",
    "NetStatus",
    "net_header_size",
]

NET_HEADER_SIZE = 12
"""Bytes before each frame; a legacy device that does not merge buffers has two fewer."""
NET_CONFIG_SIZE = 17
"""Bytes of the configuration space up to the duplex field."""
NET_MIN_MTU, NET_MAX_MTU = 68, 65535
"""What a device may say that its MTU is, bytes (5.1.4.1)."""


class NetFeature(enum.Enum):
    """The number of a network feature (its bit's position)."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    RSC_EXT = 61
    STANDBY = 62
    SPEED_DUPLEX = 63

    @property
    def mask(self) -> NetFeatures:
        """The set that holds this feature alone."""
        return NetFeatures(1 << self.value)


class NetFeatures(enum.IntFlag, boundary=enum.KEEP):
    """A set of network features, in the places they have in the 64-bit masks on the wire."""

    __invert__ = complement

    CSUM = 1 << NetFeature.CSUM.value
    GUEST_CSUM = 1 << NetFeature.GUEST_CSUM.value
    CTRL_GUEST_OFFLOADS = 1 << NetFeature.CTRL_GUEST_OFFLOADS.value
    MTU = 1 << NetFeature.MTU.value
    MAC = 1 << NetFeature.MAC.value
    GUEST_TSO4 = 1 << NetFeature.GUEST_TSO4.value
    GUEST_TSO6 = 1 << NetFeature.GUEST_TSO6.value
    GUEST_ECN = 1 << NetFeature.GUEST_ECN.value
    GUEST_UFO = 1 << NetFeature.GUEST_UFO.value
    HOST_TSO4 = 1 << NetFeature.HOST_TSO4.value
    HOST_TSO6 = 1 << NetFeature.HOST_TSO6.value
    HOST_ECN = 1 << NetFeature.HOST_ECN.value
    HOST_UFO = 1 << NetFeature.HOST_UFO.value
    MRG_RXBUF = 1 << NetFeature.MRG_RXBUF.value
    STATUS = 1 << NetFeature.STATUS.value
    CTRL_VQ = 1 << NetFeature.CTRL_VQ.value
    CTRL_RX = 1 << NetFeature.CTRL_RX.value
    CTRL_VLAN = 1 << NetFeature.CTRL_VLAN.value
    CTRL_RX_EXTRA = 1 << NetFeature.CTRL_RX_EXTRA.value
    GUEST_ANNOUNCE = 1 << NetFeature.GUEST_ANNOUNCE.value
    MQ = 1 << NetFeature.MQ.value
    CTRL_MAC_ADDR = 1 << NetFeature.CTRL_MAC_ADDR.value
    GUEST_USO4 = 1 << NetFeature.GUEST_USO4.value
    GUEST_USO6 = 1 << NetFeature.GUEST_USO6.value
    HOST_USO = 1 << NetFeature.HOST_USO.value
    HASH_REPORT = 1 << NetFeature.HASH_REPORT.value
    GUEST_HDRLEN = 1 << NetFeature.GUEST_HDRLEN.value
    RSS = 1 << NetFeature.RSS.value
    RSC_EXT = 1 << NetFeature.RSC_EXT.value
    STANDBY = 1 << NetFeature.STANDBY.value
    SPEED_DUPLEX = 1 << NetFeature.SPEED_DUPLEX.value


class NetStatus(enum.IntFlag, boundary=enum.KEEP):
    """The status field of the configuration space."""

    LINK_UP = 1
    ANNOUNCE = 2


class NetHeaderFlags(enum.IntFlag, boundary=enum.KEEP):
    """The flags of a frame's header."""

    NEEDS_CSUM = 1
    """The checksum at csum_start + csum_offset covers the pseudo header alone."""
    DATA_VALID = 2
    """Only of a device: the checksum was verified."""


class NetGso(enum.IntEnum):
    """How a frame is to be cut into segments; `ECN` is added to one of TCP."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    """Into fragments; nobody is offered it."""
    TCPV6 = 4
    UDP_L4 = 5
    ECN = 0x80


_LEGACY_HEADER_SIZE = 10
_WITH_BUFFERS = VirtioFeatures(VirtioFeatures.VERSION_1 | int(NetFeatures.MRG_RXBUF))


def net_header_size(features: VirtioFeatures) -> int:
    """Return how many bytes stand before a frame, where these features were negotiated."""
    return NET_HEADER_SIZE if features & _WITH_BUFFERS else _LEGACY_HEADER_SIZE


_HEADER = struct.Struct("<BBHHHHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetHeader:
    """What stands before each frame. Without offloads all of it is 0 but the last field.

    Attributes:
        flags: `NetHeaderFlags`.
        gso_type: a `NetGso`, or what a peer made up.
        hdr_len: bytes of the frame's own headers, where it is cut.
        gso_size: bytes of a segment's payload.
        csum_start: where the checksum begins, counted from the frame's first byte.
        csum_offset: where it goes, counted from there.
        num_buffers: receive buffers that the frame takes; 1 unless they are merged.
    """

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def __bytes__(self) -> bytes:
        return _HEADER.pack(*(getattr(self, name) for name in self.__dataclass_fields__))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the header that 12 bytes hold.

        Raises:
            ValueError: there are fewer or more bytes.
        """
        if len(data) != NET_HEADER_SIZE:
            raise ValueError(f"a frame's header has {NET_HEADER_SIZE} bytes, got {len(data)}")
        return cls(**dict(zip(cls.__dataclass_fields__, _HEADER.unpack(data), strict=True)))


_CONFIG = c.Struct(
    "mac" / c.Bytes(6),
    "status" / c.Int16ul,
    "max_virtqueue_pairs" / c.Int16ul,
    "mtu" / c.Int16ul,
    "speed" / c.Int32ul,
    "duplex" / c.Int8ul,
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """The configuration space; `bytes(config)` are its 17 bytes.

    A field means something only with its feature.

    Attributes:
        mac: the device's address, 6 bytes (MAC).
        status: a `NetStatus` (STATUS).
        max_virtqueue_pairs: pairs of rings that the driver may use (MQ).
        mtu: largest payload of a frame, bytes (MTU).
        speed: Mbit/s; all ones: unknown (SPEED_DUPLEX).
        duplex: 0 half, 1 full, 0xFF unknown (SPEED_DUPLEX).
    """

    mac: bytes
    status: int = 0
    max_virtqueue_pairs: int = 1
    mtu: int = 0
    speed: int = 0xFFFF_FFFF
    duplex: int = 0xFF

    def __bytes__(self) -> bytes:
        return bytes(_CONFIG.build(asdict(self)))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the configuration that 17 bytes hold.

        Raises:
            ValueError: there are fewer or more bytes.
        """
        try:
            fields = _CONFIG.parse(data)
        except c.ConstructError as error:
            raise ValueError(
                f"a network configuration has {NET_CONFIG_SIZE} bytes, got {len(data)}"
            ) from error
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})
