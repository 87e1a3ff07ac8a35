"""The payloads inside DEVICE_FEATURE, and the states of a device that migrates.

Specification: vfio-user, DEVICE_FEATURE and its features.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from protocol.messages import Message, require, require_range
from protocol.vfio_user import formats as f

if TYPE_CHECKING:
    from protocol.addresses import Iova

__all__ = [
    "DeviceState",
    "LoggedRange",
    "LoggingReport",
    "LoggingStart",
    "MigrationFlags",
    "MigrationState",
    "MigrationSupport",
]


class MigrationFlags(enum.IntFlag):
    """How a device can migrate."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


class DeviceState(enum.IntEnum):
    """The states of a device that migrates."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSupport(Message):
    """MIGRATION: how the device can migrate.

    Attributes:
        flags: 1 stop and copy, 2 peer to peer, 4 pre-copy.
    """

    flags: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what the payload says. Raises LocalProtocolError: it does not fit."""
        return cls.from_fields(f.FEATURE_MIGRATION.parse(data))

    def build(self) -> bytes:
        """Return the payload."""
        return f.FEATURE_MIGRATION.build(self.to_fields())


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState(Message):
    """MIG_DEVICE_STATE: the device's state.

    Attributes:
        state: One of `DeviceState`.
        data_fd: Without meaning here.
    """

    state: DeviceState
    data_fd: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what the payload says. Raises LocalProtocolError: it does not fit."""
        fields = f.FEATURE_STATE.parse(data)
        known = [int(state) for state in DeviceState]
        require(
            fields["state"] in known,
            f"the state is from {known[0]} to {known[-1]}",
            field="state",
            value=fields["state"],
        )
        return cls(state=DeviceState(fields["state"]), data_fd=fields["data_fd"])

    def build(self) -> bytes:
        """Return the payload."""
        return f.FEATURE_STATE.build(self.to_fields())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRange:
    """A range of the device's addresses.

    Attributes:
        address: The first.
        length: Bytes.

    Raises:
        LocalProtocolError: The range is empty or passes 2^64.
    """

    address: Iova
    length: int

    def __post_init__(self) -> None:
        require_range(self.address, self.length, field="address")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingStart:
    """DMA_LOGGING_START: note which pages the device writes.

    Attributes:
        page_size: Bytes of a page, as a hint.
        ranges: Where; none: everywhere.
    """

    page_size: int
    ranges: tuple[LoggedRange, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what the payload says. Raises LocalProtocolError: it does not fit."""
        fields = f.FEATURE_LOGGING.parse(data)
        count, room = fields["count"], fields["data"]
        require(
            count * f.LOGGED_RANGE.min_size == len(room),
            f"num_ranges ranges follow, here {len(room)} bytes",
            field="num_ranges",
            value=count,
        )
        _require_page_size(fields["page_size"])
        entries = f.parse_entries(f.LOGGED_RANGE, room)
        ranges = tuple(LoggedRange(**entry) for entry in entries)
        return cls(page_size=fields["page_size"], ranges=ranges)

    def build(self) -> bytes:
        """Return the payload."""
        entries = (
            f.LOGGED_RANGE.build({"address": each.address, "length": each.length})
            for each in self.ranges
        )
        fields = {"page_size": self.page_size, "count": len(self.ranges), "data": b"".join(entries)}
        return f.FEATURE_LOGGING.build(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingReport(Message):
    """DMA_LOGGING_REPORT: which pages the device has written since the last report.

    Attributes:
        address: The first address asked about.
        length: Bytes asked about.
        page_size: Bytes that one bit stands for.
        bitmap: In the reply: one bit a page, in u64s, the first page in the lowest bit.
    """

    address: Iova
    length: int
    page_size: int
    bitmap: bytes = b""

    def __post_init__(self) -> None:
        require_range(self.address, self.length, field="address")
        _require_page_size(self.page_size)

    @property
    def bitmap_size(self) -> int:
        """Bytes of the bitmap that answers it."""
        pages = -(-self.length // self.page_size)
        return -(-pages // 64) * 8

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what the payload says. Raises LocalProtocolError: it does not fit."""
        return cls.from_fields(f.FEATURE_REPORT.parse(data))

    def build(self) -> bytes:
        """Return the payload."""
        fields: dict[str, Any] = self.to_fields()
        return f.FEATURE_REPORT.build(fields)


def _require_page_size(size: int) -> None:
    require(size.bit_count() == 1, "a page size is a power of two", field="page_size", value=size)
