"""What both kinds of ring speak in: positions, configurations, chains, and the rules of a ring.

Plain data only; neither the engine nor guest memory is touched here. Where a ring breaks several
rules at once, the first in this order is reported, by the engine and by its pure-Python twin
alike:

* Split: distance of the available index (AVAIL_JUMP); head (HEAD, IN_FLIGHT); then the walk.
  Packed: the walk; then slots in use (AVAIL_JUMP), id (ID, IN_FLIGHT).
* The walk, for each descriptor in chain order: one more than the table has (CHAIN_LENGTH). An
  indirect one: inside a table (INDIRECT_NESTED), feature, NEXT, size, address of the table; then
  its entries. A direct one, unless its length is 0, which makes it as if it were not there:
  DIRECTION, then for each part ADDRESS and FRAGMENTED. Then the next index (NEXT).

A fault changes nothing: no byte was written, the position stays. Specification: VIRTIO 1.2, 2.7
and 2.8.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.virtio import VirtioFeatures

__all__ = [
    "Buffer",
    "Chain",
    "Fault",
    "IndirectTables",
    "RingConfig",
    "RingFaultError",
    "RingState",
    "UsedRingError",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RingState:
    """A ring's position. Plain data: it re-enters only through a ring, which checks it.

    Attributes:
        avail: split: the next available index, 0 to 65535; packed: offset of the next available
            descriptor.
        used: the same for used ones.
        avail_wrap: packed: the available wrap counter. Means nothing for a split ring.
        used_wrap: packed: the used wrap counter. Means nothing for a split ring.
    """

    avail: int
    used: int
    avail_wrap: bool = True
    used_wrap: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RingConfig:
    """A ring as this process sees it.

    Attributes:
        features: negotiated virtio features; they choose layout and notification.
        num: ring size in descriptors, 1 to 32768, a power of two for a split ring.
        desc_hva: host address of the descriptor area.
        driver_hva: host address of the available ring, or of a packed ring's driver events.
        device_hva: host address of the used ring, or of a packed ring's device events.
        state: where to go on.
    """

    features: VirtioFeatures
    num: int
    desc_hva: int
    driver_hva: int
    device_hva: int
    state: RingState


@dataclass(frozen=True, slots=True, kw_only=True)
class IndirectTables:
    """The indirect tables of a driver ring: `num` of them, one after the other, one for each slot.

    Attributes:
        entries: descriptors of each table.
        gpa: where the device sees the first.
        hva: where it lies in this process.
    """

    entries: int
    gpa: int
    hva: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory.

    Attributes:
        address: a guest-physical address where a driver adds it; where a device ring returns it,
            its host address (a guest-physical one in the pure-Python ring).
        length: bytes.
    """

    address: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain that a device took from its ring, until it pushes it back.

    A buffer that crosses from one region of guest memory into the next is several here; one of
    length 0 is left out.

    Attributes:
        id: head index, or a packed ring's buffer id.
        slots: descriptors of the ring that it occupies; only a packed ring counts them.
        readable: what the device may read, in order.
        writable: what it may write, in order.
    """

    id: int
    slots: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]


class Fault(enum.Enum):
    """The rule that a ring broke; the numbers are the engine's."""

    AVAIL_JUMP = 1
    HEAD = 2
    NEXT = 3
    CHAIN_LENGTH = 4
    DIRECTION = 5
    ADDRESS = 6
    INDIRECT_FEATURE = 7
    INDIRECT_NESTED = 8
    INDIRECT_NEXT = 9
    INDIRECT_SIZE = 10
    INDIRECT_ADDRESS = 11
    ID = 12
    IN_FLIGHT = 13
    FRAGMENTED = 14
    RING_ADDRESS = 15
    MEMORY = 16

    @property
    def rule(self) -> str:
        """What the driver should have kept to."""
        return _RULES[self][0]

    @property
    def section(self) -> str:
        """Where the rule stands; a limit that is ours is called so."""
        return _RULES[self][1]


_RULES: Mapping[Fault, tuple[str, str]] = MappingProxyType(
    {
        Fault.AVAIL_JUMP: (
            "no more entries are made available than the ring has",
            'VIRTIO 1.2 §2.7 "Updating idx", §2.8 "Supplying Buffers to The Device"',
        ),
        Fault.HEAD: (
            "a head index is below the ring size",
            'VIRTIO 1.2 §2.7 "The Virtqueue Available Ring"',
        ),
        Fault.NEXT: (
            "a next index is below the size of its table",
            'VIRTIO 1.2 §2.7 "The Virtqueue Descriptor Table"',
        ),
        Fault.CHAIN_LENGTH: (
            "a chain has no more descriptors than its table, so no loop",
            'VIRTIO 1.2 §2.7 "The Virtqueue Descriptor Table", §2.8 "Scatter-Gather Support"',
        ),
        Fault.DIRECTION: (
            "device-readable buffers come before device-writable ones",
            'VIRTIO 1.2 §2.7 "Message Framing", §2.8 "Scatter-Gather Support"',
        ),
        Fault.ADDRESS: (
            "a buffer lies inside guest memory",
            'VIRTIO 1.2 §2.7 "The Virtqueue Descriptor Table"',
        ),
        Fault.INDIRECT_FEATURE: (
            "indirect descriptors are negotiated (INDIRECT_DESC) before they are used",
            'VIRTIO 1.2 §2.7 and §2.8 "Indirect Descriptors"',
        ),
        Fault.INDIRECT_NESTED: (
            "an indirect table holds no indirect descriptor",
            'VIRTIO 1.2 §2.7 and §2.8 "Indirect Descriptors"',
        ),
        Fault.INDIRECT_NEXT: (
            "an indirect descriptor ends its chain, and in a packed ring is all of it",
            'VIRTIO 1.2 §2.7 and §2.8 "Indirect Descriptors"',
        ),
        Fault.INDIRECT_SIZE: (
            "an indirect table has whole descriptors: at least one, at most the ring size or 1024",
            'VIRTIO 1.2 §2.7 "Indirect Descriptors"; the limit is ours',
        ),
        Fault.INDIRECT_ADDRESS: (
            "an indirect table lies inside one region of guest memory",
            'VIRTIO 1.2 §2.7 "Indirect Descriptors"; that it is one region is ours',
        ),
        Fault.ID: (
            "a buffer id is below the ring size",
            'VIRTIO 1.2 §2.8 "Element Address and Length"; the limit is ours',
        ),
        Fault.IN_FLIGHT: (
            "a head or buffer id is made available again only after it was used",
            'VIRTIO 1.2 §2.7 and §2.8 "Supplying Buffers to The Device"',
        ),
        Fault.FRAGMENTED: (
            "a chain crosses few edges between regions of guest memory",
            "the limit is ours",
        ),
        Fault.RING_ADDRESS: (
            "the ring itself lies inside guest memory, and its position is one that it can have",
            "vhost-user, SET_VRING_ADDR and SET_VRING_BASE",
        ),
        Fault.MEMORY: (
            "a file that holds guest memory is not truncated while it is mapped",
            'vhost-user, "Memory region description"',
        ),
    }
)


class RingFaultError(Exception):
    """A driver broke a rule of its ring, which is of no use from now on.

    Attributes:
        fault: the rule.
        value: the number that broke it.
    """

    def __init__(self, fault: Fault, value: int) -> None:
        super().__init__(f"{fault.name}: got {value:#x}, but {fault.rule} ({fault.section})")
        self.fault = fault
        self.value = value


class UsedRingError(Exception):
    """A device broke the ring seen from the driver: it used a chain that it was not given."""

    def __init__(self) -> None:
        super().__init__("the device returned a chain that is not in flight; reset the device")
