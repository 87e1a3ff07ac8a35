"""Eventfds: those that replace a region's writes, and those that interrupts signal.

Specification: vfio-user, DEVICE_GET_REGION_IO_FDS, DEVICE_GET_IRQ_INFO, DEVICE_SET_IRQS.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from protocol.messages import Message, require, require_range
from protocol.vfio_user.formats import (
    INFO_HEAD,
    IO_FD_STRIDES,
    IO_FDS_HEAD,
    SET_IRQS_HEAD,
    parse_entries,
)
from protocol.vfio_user.messages.base import Described, Query, require_argsz, require_needed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DeviceGetIrqInfo",
    "DeviceGetRegionIoFds",
    "DeviceSetIrqs",
    "IoFd",
    "IoFdType",
    "IrqInfo",
    "IrqInfoFlags",
    "IrqSetFlags",
    "RegionIoFds",
]

_STRIDE = 40
_U32 = (1 << 32) - 1


class IoFdType(enum.IntEnum):
    """What an I/O fd is; the last is libvfio-user's."""

    IOEVENTFD = 0
    IOREGIONFD = 1
    SHADOW_IOEVENTFD = 2


class IrqInfoFlags(enum.IntFlag):
    """What can be done with an interrupt index."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSetFlags(enum.IntFlag):
    """What a setting brings (one of the first three), and what it does (one of the others)."""

    DATA_NONE = 1
    DATA_BOOL = 2
    DATA_EVENTFD = 4
    MASK = 8
    UNMASK = 16
    TRIGGER = 32


# Plain numbers: what an IntFlag's `~` gives has none of the bits without a name.
_DATA = int(IrqSetFlags.DATA_NONE | IrqSetFlags.DATA_BOOL | IrqSetFlags.DATA_EVENTFD)
_ACTIONS = int(IrqSetFlags.MASK | IrqSetFlags.UNMASK | IrqSetFlags.TRIGGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGetRegionIoFds(Query):
    """Ask for fds that do the same as writes to a region.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        flags: Reserved, zero.
        index: The region.
        count: Without meaning here.
        data: Room without meaning.
    """

    argsz: int = IO_FDS_HEAD
    flags: int = 0
    index: int
    count: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, IO_FDS_HEAD)
        require(not self.flags, "flags are reserved and zero", field="flags", value=self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class IoFd:
    """An fd that does the same as writes to a part of a region.

    Attributes:
        offset: The part's first byte.
        size: The part's bytes; 0 for any width, as KVM has it.
        fd_index: Which of the reply's fds it is.
        type: 0 ioeventfd, 1 ioregionfd, 2 ioeventfd with shadow memory.
        flags: KVM's.
        shadow_index: With shadow memory: which of the reply's fds holds it.
        shadow_offset: With shadow memory: where in it the value is written.
        value: ioeventfd: the value that is written (datamatch). ioregionfd: the user data.

    Raises:
        LocalProtocolError: The part passes 2^64.
    """

    offset: int
    size: int
    fd_index: int
    type: int = IoFdType.IOEVENTFD
    flags: int = 0
    shadow_index: int = 0
    shadow_offset: int = 0
    value: int = 0

    def __post_init__(self) -> None:
        if self.size:
            require_range(self.offset, self.size, field="offset")

    def to_fields(self) -> dict[str, int]:
        """Return the fields of the entry's layout, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionIoFds(Described):
    """Say which fds do the same as writes to a region; they come along.

    Attributes:
        argsz: Bytes that the whole payload needs.
        flags: Reserved, zero.
        index: The region.
        count: How many entries there are; None when building it: as many as it has.
        entries: What each fd does; none if the payload is not complete.
        stride: Bytes of an entry: 40, or 48 as libvfio-user has it.
    """

    flags: int = 0
    index: int
    count: int | None = None
    entries: tuple[IoFd, ...] = ()
    stride: int = _STRIDE

    def __post_init__(self) -> None:
        if self.count is None:
            object.__setattr__(self, "count", len(self.entries))
        if self.argsz is None:
            object.__setattr__(self, "argsz", IO_FDS_HEAD + len(self.entries) * self.stride)
        require_needed(self.needed, IO_FDS_HEAD)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        layout = IO_FD_STRIDES[self.stride]
        return {
            "argsz": self.argsz,
            "flags": self.flags,
            "index": self.index,
            "count": self.count,
            "data": b"".join(layout.build(entry.to_fields()) for entry in self.entries),
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The entries do not fill the payload, or break a rule.
        """
        rest = dict(values)
        argsz, count, data = rest["argsz"], rest["count"], rest.pop("data")
        require_needed(argsz, IO_FDS_HEAD)
        size = argsz - IO_FDS_HEAD
        stride = size // count if count else _STRIDE
        require(
            stride in IO_FD_STRIDES and stride * count == size,
            f"argsz has room for count entries of {' or '.join(map(str, IO_FD_STRIDES))} bytes",
            field="count",
            value=count,
        )
        if not data:
            return cls(**rest, stride=stride)
        require(
            len(data) == size,
            f"the entries have the {size} bytes that argsz says, or are not there",
            field="argsz",
            value=argsz,
        )
        entries = parse_entries(IO_FD_STRIDES[stride], data)
        return cls(**rest, entries=tuple(IoFd(**entry) for entry in entries), stride=stride)

    @property
    def complete(self) -> bool:
        """Whether all of the payload is there."""
        return len(self.entries) == self.count

    def cut(self) -> Self:
        """Return the fixed part alone."""
        return replace(self, entries=())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGetIrqInfo(Query):
    """Ask about one interrupt index.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        flags: Without meaning here.
        index: 0 INTx, 1 MSI, 2 MSI-X, 3 error, 4 request.
        count: Without meaning here.
        data: Room without meaning.
    """

    argsz: int = INFO_HEAD
    flags: int = 0
    index: int
    count: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, INFO_HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class IrqInfo(Described):
    """Describe one interrupt index.

    Attributes:
        argsz: Bytes that the whole payload needs.
        flags: 1 eventfds, 2 maskable, 4 masked automatically, 8 vectors only all at once.
        index: As in the request.
        count: How many vectors it has; 0: the device does not have it.
        data: What newer versions say besides.
    """

    flags: int = 0
    index: int
    count: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.argsz is None:
            object.__setattr__(self, "argsz", INFO_HEAD + len(self.data))
        require_needed(self.needed, INFO_HEAD)

    def cut(self) -> Self:
        """Return the fixed part alone."""
        return replace(self, data=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSetIrqs(Message):
    """Have vectors signal eventfds, signal them, or mask them.

    Eventfds come along: as many as vectors, or none to take theirs away.

    Attributes:
        argsz: Bytes of this payload.
        flags: Data: 1 none, 2 bool, 4 eventfds. Action: 8 mask, 16 unmask, 32 trigger.
        index: 0 INTx, 1 MSI, 2 MSI-X, 3 error, 4 request.
        start: The first vector.
        count: How many vectors; 0 with no data and trigger: switch off the whole index.
        data: With bool: one byte a vector, whether to act on it.
    """

    argsz: int = SET_IRQS_HEAD
    flags: int
    index: int
    start: int = 0
    count: int
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, SET_IRQS_HEAD)
        kind, action = self.flags & _DATA, self.flags & _ACTIONS
        require(
            kind.bit_count() == action.bit_count() == 1 and not self.flags & ~(_DATA | _ACTIONS),
            "flags are one of 1, 2, 4 (data) and one of 8, 16, 32 (action)",
            field="flags",
            value=self.flags,
        )
        require(
            self.start + self.count <= _U32,
            f"start + count ({self.count:#x}) does not pass 2^32",
            field="start",
            value=self.start,
        )
        switch_off = IrqSetFlags.DATA_NONE | IrqSetFlags.TRIGGER
        require(
            self.count > 0 or (self.flags == switch_off and not self.start),
            "count 0 goes with start 0 and flags 0x21, and switches the index off",
            field="count",
            value=self.count,
        )
        expected = self.count if kind == IrqSetFlags.DATA_BOOL else 0
        require(
            len(self.data) == expected,
            f"{expected} bytes of bool follow",
            field="data",
            value=len(self.data),
        )

    @property
    def brings_eventfds(self) -> bool:
        """Whether it is about eventfds."""
        return bool(self.flags & IrqSetFlags.DATA_EVENTFD)

    @property
    def switches_off(self) -> bool:
        """Whether it switches the whole index off."""
        return self.count == 0
