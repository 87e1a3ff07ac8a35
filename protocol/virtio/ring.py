"""The layouts of split and packed rings, and the arithmetic of their indices, wraps and events.

Sizes, offsets, flags, descriptor formats and pure functions; who reads or writes guest memory with
them lives elsewhere (`vhostuser.virtqueue`; the engine has its own). All fields are little-endian.
Specification: VIRTIO 1.2, 2.7 "Split Virtqueues" and 2.8 "Packed Virtqueues".
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, Self

__all__ = [
    "DESCRIPTOR_SIZE",
    "MAX_RING_SIZE",
    "AvailFlags",
    "DescFlags",
    "EventFlags",
    "PackedDesc",
    "RingArea",
    "SplitDesc",
    "UsedElem",
    "UsedFlags",
    "avail_entry_offset",
    "avail_event_offset",
    "index_distance",
    "is_ring_size",
    "needs_event",
    "packed_advance",
    "packed_flags",
    "packed_is_available",
    "packed_is_used",
    "packed_needs_event",
    "ring_area_alignment",
    "ring_area_size",
    "used_entry_offset",
    "used_event_offset",
]

MAX_RING_SIZE = 32768
DESCRIPTOR_SIZE = 16
_INDEX_MODULUS = 1 << 16
_RING_HEADER = 4
"""Bytes before the entries of an available or used ring: flags and idx."""
_EVENT_SIZE = 2
_EVENT_STRUCTURE_SIZE = 4


class RingArea(enum.IntEnum):
    """The three parts of a ring; the numbers are the engine's."""

    DESC = 0
    DRIVER = 1
    """The available ring, or a packed ring's driver event suppression structure."""
    DEVICE = 2
    """The used ring, or a packed ring's device event suppression structure."""


class DescFlags(enum.IntFlag, boundary=enum.KEEP):
    """The flags of a descriptor; others are reserved and ignored."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAIL = 1 << 7
    """Packed rings only."""
    USED = 1 << 15
    """Packed rings only."""


class AvailFlags(enum.IntFlag, boundary=enum.KEEP):
    """The flags of an available ring, written by the driver."""

    NO_INTERRUPT = 1


class UsedFlags(enum.IntFlag, boundary=enum.KEEP):
    """The flags of a used ring, written by the device."""

    NO_NOTIFY = 1


class EventFlags(enum.IntEnum):
    """What a packed ring's event suppression structure asks for (the low two bits of its flags)."""

    ENABLE = 0
    DISABLE = 1
    DESC = 2
    """Only when a certain descriptor is reached; needs EVENT_IDX."""
    RESERVED = 3


class SplitDesc(NamedTuple):
    """A descriptor of a split ring, or of an indirect table."""

    address: int
    length: int
    flags: int
    next: int

    def __bytes__(self) -> bytes:
        return _SPLIT_DESC.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the descriptor that 16 bytes hold."""
        return cls(*_SPLIT_DESC.unpack(data))


class PackedDesc(NamedTuple):
    """A descriptor of a packed ring, or of an indirect table."""

    address: int
    length: int
    id: int
    flags: int

    def __bytes__(self) -> bytes:
        return _PACKED_DESC.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the descriptor that 16 bytes hold."""
        return cls(*_PACKED_DESC.unpack(data))


class UsedElem(NamedTuple):
    """An entry of a used ring."""

    id: int
    length: int

    def __bytes__(self) -> bytes:
        return _USED_ELEM.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the entry that 8 bytes hold."""
        return cls(*_USED_ELEM.unpack(data))


_SPLIT_DESC = struct.Struct("<QIHH")
_PACKED_DESC = struct.Struct("<QIHH")
_USED_ELEM = struct.Struct("<II")


def is_ring_size(num: int, *, packed: bool) -> bool:
    """Return whether a ring can have `num` descriptors: a split one only a power of two."""
    return 1 <= num <= MAX_RING_SIZE and (packed or num & (num - 1) == 0)


def ring_area_size(area: RingArea, num: int, *, packed: bool) -> int:
    """Return the bytes of one area of a ring of `num` descriptors, event fields included."""
    if area is RingArea.DESC:
        return DESCRIPTOR_SIZE * num
    if packed:
        return _EVENT_STRUCTURE_SIZE
    entry = 2 if area is RingArea.DRIVER else _USED_ELEM.size
    return _RING_HEADER + entry * num + _EVENT_SIZE


def ring_area_alignment(area: RingArea, *, packed: bool) -> int:
    """Return what the address of an area is a multiple of, in bytes."""
    if area is RingArea.DESC:
        return 16
    if area is RingArea.DRIVER and not packed:
        return 2
    return 4


def avail_entry_offset(index: int, num: int) -> int:
    """Return where in an available ring the entry of a free-running index lies."""
    return _RING_HEADER + 2 * (index % num)


def used_entry_offset(index: int, num: int) -> int:
    """Return where in a used ring the entry of a free-running index lies."""
    return _RING_HEADER + _USED_ELEM.size * (index % num)


def used_event_offset(num: int) -> int:
    """Return where in an available ring the driver says which used index it waits for."""
    return _RING_HEADER + 2 * num


def avail_event_offset(num: int) -> int:
    """Return where in a used ring the device says which available index it waits for."""
    return _RING_HEADER + _USED_ELEM.size * num


def index_distance(new: int, old: int) -> int:
    """Return how many steps a free-running 16-bit index took from `old` to `new`."""
    return (new - old) % _INDEX_MODULUS


def needs_event(event: int, new: int, old: int) -> bool:
    """Return whether the step from index `old` to `new` passed over `event`."""
    return index_distance(new - 1, event) < index_distance(new, old)


def packed_advance(position: tuple[int, bool], slots: int, num: int) -> tuple[int, bool]:
    """Return a packed ring's position after `slots` descriptors.

    Args:
        position: offset, below `num`, and wrap counter before.
        slots: steps, at most `num`.
        num: ring size in descriptors.
    """
    offset, wrap = position
    offset += slots
    return (offset - num, not wrap) if offset >= num else (offset, wrap)


def packed_flags(*, wrap: bool, used: bool) -> DescFlags:
    """Return the AVAIL and USED flags of a descriptor that a side whose counter is `wrap` writes.

    Args:
        wrap: the side's wrap counter.
        used: whether the descriptor becomes used (by the device) or available (by the driver).
    """
    avail_bit = DescFlags.AVAIL if wrap else DescFlags(0)
    used_bit = DescFlags.USED if wrap == used else DescFlags(0)
    return avail_bit | used_bit


def packed_is_available(flags: int, *, wrap: bool) -> bool:
    """Return whether a descriptor is available to a device whose counter is `wrap`."""
    return bool(flags & DescFlags.AVAIL) == wrap != bool(flags & DescFlags.USED)


def packed_is_used(flags: int, *, wrap: bool) -> bool:
    """Return whether a descriptor is used, to a driver whose counter is `wrap`."""
    return bool(flags & DescFlags.AVAIL) == wrap == bool(flags & DescFlags.USED)


def packed_needs_event(off_wrap: int, position: tuple[int, bool], slots: int, num: int) -> bool:
    """Return whether the last `slots` steps of a packed ring passed over the descriptor waited for.

    Args:
        off_wrap: what the other side waits for: offset in bits 0-14, wrap counter in bit 15.
        position: offset and wrap counter after the steps.
        slots: how many steps were taken.
        num: ring size in descriptors; an offset beyond it is no offset, and always an event.
    """
    offset, wrap = off_wrap & 0x7FFF, bool(off_wrap >> 15)
    if offset >= num:
        return True
    new, new_wrap = position
    event = offset if wrap == new_wrap else offset - num
    return needs_event(event, new, new - slots)
