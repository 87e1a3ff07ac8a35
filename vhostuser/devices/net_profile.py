"""What a network device says of itself: options, features, configuration space.

It has all features that the engine serves. Front-ends that keep a part to themselves, as QEMU and
virtio-user do with the control queue, do not negotiate it with us.
Specification: VIRTIO 1.2, sections 5.1.3 and 5.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import (
    NET_MAX_MTU,
    NET_MIN_MTU,
    NetConfig,
    NetFeatures,
    NetStatus,
    VirtioFeatures,
)
from vhostuser.devices.base import DeviceProfile

__all__ = ["MAX_PAIRS", "NetOptions", "net_config", "net_profile", "require_station"]

MAX_PAIRS = 128
"""Queue pairs of a port; the engine has room for no more."""

_FEATURES = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.IN_ORDER
    | VirtioFeatures.ANY_LAYOUT
    | VirtioFeatures.PROTOCOL_FEATURES
)
_NET_FEATURES = (
    NetFeatures.MAC
    | NetFeatures.STATUS
    | NetFeatures.MTU
    | NetFeatures.SPEED_DUPLEX
    | NetFeatures.MRG_RXBUF
    | NetFeatures.CSUM
    | NetFeatures.HOST_TSO4
    | NetFeatures.HOST_TSO6
    | NetFeatures.HOST_ECN
    | NetFeatures.HOST_USO
    | NetFeatures.GUEST_CSUM
    | NetFeatures.GUEST_TSO4
    | NetFeatures.GUEST_TSO6
    | NetFeatures.GUEST_ECN
    | NetFeatures.GUEST_USO4
    | NetFeatures.GUEST_USO6
    | NetFeatures.CTRL_VQ
    | NetFeatures.CTRL_RX
    | NetFeatures.CTRL_RX_EXTRA
    | NetFeatures.CTRL_VLAN
    | NetFeatures.CTRL_MAC_ADDR
    | NetFeatures.CTRL_GUEST_OFFLOADS
    | NetFeatures.GUEST_ANNOUNCE
)
_PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.RARP
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.MTU
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.STATUS
)
_ADDRESS_BYTES = 6
_GROUP = 1
_FULL_DUPLEX, _UNKNOWN_DUPLEX = 1, 0xFF
_UNKNOWN_SPEED = 0xFFFF_FFFF
_MAX_SPEED = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """How a network device is served.

    Attributes:
        mac: its address, 6 bytes; None: 02:00:00:00 and a number that no other device of the
            switch has.
        mtu: largest payload of a frame that it announces, bytes; larger ones are not refused.
        queue_pairs: most that its driver may use, 1 to `MAX_PAIRS`.
        queue_size: largest ring size accepted, in descriptors.
        locked: drop what the guest sends from another address than `mac`.
        addresses: most addresses that are learned at its port.
        speed: of the link as the driver sees it, Mbit/s; None: unknown.

    Raises:
        ValueError: a value is not in its range.
    """

    mac: bytes | None = None
    mtu: int = 1500
    queue_pairs: int = 1
    queue_size: int = 1024
    locked: bool = False
    addresses: int = 1024
    speed: int | None = None

    def __post_init__(self) -> None:
        _require_range("mtu", self.mtu, NET_MIN_MTU, NET_MAX_MTU)
        _require_range("queue_pairs", self.queue_pairs, 1, MAX_PAIRS)
        if self.speed is not None:
            _require_range("speed", self.speed, 0, _MAX_SPEED)
        if self.mac is not None:
            require_station(self.mac)

    @property
    def queues(self) -> int:
        """Rings: the pairs, and the control queue behind them."""
        return 2 * self.queue_pairs + 1


def _require_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: a number from {least} to {most}, not {value}")


def require_station(mac: bytes) -> None:
    """Check that one station can have an address.

    Raises:
        ValueError: it has not 6 bytes, is all zero, or is a group's.
    """
    if len(mac) != _ADDRESS_BYTES or mac[0] & _GROUP or not any(mac):
        text = mac.hex(":") or "nothing"
        raise ValueError(f"{text} is not the address of one station, as 02:00:00:00:00:01 is")


def net_profile(options: NetOptions) -> DeviceProfile:
    """Return what a network device offers to a front-end."""
    features = int(_FEATURES) | int(_NET_FEATURES)
    if options.queue_pairs > 1:
        features |= int(NetFeatures.MQ)
    return DeviceProfile(
        kind="net",
        queues=options.queues,
        queue_size=options.queue_size,
        features=VirtioFeatures(features),
        protocol_features=_PROTOCOL_FEATURES,
        queue_num=options.queue_pairs,
        mtu=options.mtu,
    )


def net_config(options: NetOptions, mac: bytes, status: NetStatus) -> NetConfig:
    """Return the configuration space of a network device.

    Args:
        options: how it is served.
        mac: its address of now.
        status: of its link.
    """
    known = options.speed is not None
    return NetConfig(
        mac=mac,
        status=status,
        max_virtqueue_pairs=options.queue_pairs,
        mtu=options.mtu,
        speed=_UNKNOWN_SPEED if options.speed is None else options.speed,
        duplex=_FULL_DUPLEX if known else _UNKNOWN_DUPLEX,
    )
