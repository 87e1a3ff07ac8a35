"""What a network driver says by its control queue: commands, what comes with them, the answer.

A command is a chain: class and command, what comes with it, and one writable byte for the answer.
Specification: VIRTIO 1.2, section 5.1.6.5 "Control Virtqueue".
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

import construct as c

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NET_CONTROL_HEADER_SIZE",
    "NetCommand",
    "NetControlClass",
    "NetControlStatus",
    "net_address_table",
    "net_offloads",
    "net_on_off",
    "net_pairs",
    "net_vlan",
]

NET_CONTROL_HEADER_SIZE = 2
"""Bytes that a command begins with: its class and its number there."""


class NetControlClass(enum.IntEnum):
    """What a command is about, each with the feature that unlocks it."""

    RX = 0
    """What is received: CTRL_RX, CTRL_RX_EXTRA."""
    MAC = 1
    """Addresses that are received: CTRL_RX for the table, CTRL_MAC_ADDR for the device's own."""
    VLAN = 2
    """VLANs that are received: CTRL_VLAN."""
    ANNOUNCE = 3
    """GUEST_ANNOUNCE."""
    MQ = 4
    """Queue pairs in use: MQ."""
    GUEST_OFFLOADS = 5
    """CTRL_GUEST_OFFLOADS."""


class NetCommand(enum.Enum):
    """A command: its class, and its number there. `bytes(command)` is how it begins."""

    PROMISCUOUS = (NetControlClass.RX, 0)
    """Receive everything, or not: `net_on_off`."""
    ALL_MULTICAST = (NetControlClass.RX, 1)
    ALL_UNICAST = (NetControlClass.RX, 2)
    NO_MULTICAST = (NetControlClass.RX, 3)
    NO_UNICAST = (NetControlClass.RX, 4)
    NO_BROADCAST = (NetControlClass.RX, 5)
    MAC_TABLE = (NetControlClass.MAC, 0)
    """Receive what goes to these addresses: `net_address_table` of unicast, then of multicast."""
    MAC_ADDRESS = (NetControlClass.MAC, 1)
    """The device's address is this: 6 bytes."""
    VLAN_ADD = (NetControlClass.VLAN, 0)
    """Receive frames of a VLAN: `net_vlan`."""
    VLAN_REMOVE = (NetControlClass.VLAN, 1)
    ANNOUNCED = (NetControlClass.ANNOUNCE, 0)
    """The driver has announced itself; nothing comes with it."""
    PAIRS = (NetControlClass.MQ, 0)
    """Use so many queue pairs: `net_pairs`."""
    OFFLOADS = (NetControlClass.GUEST_OFFLOADS, 0)
    """Use these offloads of received frames: `net_offloads`."""

    def __bytes__(self) -> bytes:
        return bytes(self.value)


class NetControlStatus(enum.IntEnum):
    """The device's answer."""

    OK = 0
    ERR = 1


_ADDRESS_SIZE = 6
_TABLE = c.PrefixedArray(c.Int32ul, c.Bytes(_ADDRESS_SIZE))
_U16 = struct.Struct("<H")
_U64 = struct.Struct("<Q")


def net_on_off(*, on: bool) -> bytes:
    """Return what comes with a command that switches something."""
    return bytes([on])


def net_address_table(addresses: Sequence[bytes]) -> bytes:
    """Return one of the two tables that come with MAC_TABLE.

    Raises:
        ValueError: an address has not 6 bytes.
    """
    for address in addresses:
        if len(address) != _ADDRESS_SIZE:
            raise ValueError(f"an address has {_ADDRESS_SIZE} bytes, got {len(address)}")
    return bytes(_TABLE.build(list(addresses)))


def net_vlan(number: int) -> bytes:
    """Return what comes with VLAN_ADD and VLAN_REMOVE."""
    return _U16.pack(number)


def net_pairs(count: int) -> bytes:
    """Return what comes with PAIRS."""
    return _U16.pack(count)


def net_offloads(features: int) -> bytes:
    """Return what comes with OFFLOADS: GUEST_* features in the places that they have there."""
    return _U64.pack(features)
