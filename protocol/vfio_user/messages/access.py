"""The messages that move data: to and from regions, to and from the client's memory.

Their constructors are on the way of every access: they check in plain comparisons. Specification:
vfio-user, REGION_READ, REGION_WRITE, REGION_WRITE_MULTI, DMA_READ, DMA_WRITE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from protocol.errors import LocalProtocolError
from protocol.messages import Message, require
from protocol.vfio_user.formats import MAX_WRITES, WRITE, parse_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.addresses import Iova

__all__ = [
    "MAX_MULTI_WRITE",
    "DmaRead",
    "DmaReadReply",
    "DmaWrite",
    "DmaWriteReply",
    "RegionRead",
    "RegionReadReply",
    "RegionWrite",
    "RegionWriteMulti",
    "RegionWriteMultiReply",
    "RegionWriteReply",
]

_SPACE = 1 << 64
MAX_MULTI_WRITE = 8
"""Bytes of one write in REGION_WRITE_MULTI."""


def _check_range(start: int, count: int, field: str) -> None:
    if start + count > _SPACE:
        raise LocalProtocolError(
            f"{field} + count ({count:#x}) does not pass 2^64", field=field, value=start
        )


def _check_data(data: bytes, count: int) -> None:
    if len(data) != count:
        raise LocalProtocolError(
            f"count is the number of bytes that follow, here {len(data)}",
            field="count",
            value=count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RegionAccess(Message):
    offset: int
    region: int
    count: int

    def __post_init__(self) -> None:
        _check_range(self.offset, self.count, "offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class _RegionData(Message):
    offset: int
    region: int
    data: bytes

    def __post_init__(self) -> None:
        _check_range(self.offset, len(self.data), "offset")

    @property
    def count(self) -> int:
        """Bytes of data."""
        return len(self.data)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {
            "offset": self.offset,
            "region": self.region,
            "count": len(self.data),
            "data": self.data,
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The count is not that of the data.
        """
        _check_data(values["data"], values["count"])
        return cls(offset=values["offset"], region=values["region"], data=values["data"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRead(_RegionAccess):
    """Read from a region.

    Attributes:
        offset: Bytes from the region's beginning.
        region: The region.
        count: Bytes to read.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionReadReply(_RegionData):
    """Bring what was read from a region.

    Attributes:
        offset: As in the request.
        region: As in the request.
        data: The bytes, as many as were asked for.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionWrite(_RegionData):
    """Write to a region.

    Attributes:
        offset: Bytes from the region's beginning.
        region: The region.
        data: The bytes.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionWriteReply(_RegionAccess):
    """Say that a write to a region was carried out.

    Attributes:
        offset: As in the request.
        region: As in the request.
        count: Bytes written.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _DmaAccess(Message):
    address: Iova
    count: int

    def __post_init__(self) -> None:
        _check_range(self.address, self.count, "address")


@dataclass(frozen=True, slots=True, kw_only=True)
class _DmaData(Message):
    address: Iova
    data: bytes

    def __post_init__(self) -> None:
        _check_range(self.address, len(self.data), "address")

    @property
    def count(self) -> int:
        """Bytes of data."""
        return len(self.data)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {"address": self.address, "count": len(self.data), "data": self.data}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The count is not that of the data.
        """
        _check_data(values["data"], values["count"])
        return cls(address=values["address"], data=values["data"])


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaRead(_DmaAccess):
    """Read from the client's memory.

    Attributes:
        address: The first address, in the device's addresses.
        count: Bytes to read.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaReadReply(_DmaData):
    """Bring what was read from the client's memory.

    Attributes:
        address: As in the request.
        data: The bytes, as many as were asked for.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaWrite(_DmaData):
    """Write to the client's memory.

    Attributes:
        address: The first address, in the device's addresses.
        data: The bytes.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaWriteReply(_DmaAccess):
    """Say that a write to the client's memory was carried out.

    Attributes:
        address: As in the request.
        count: Bytes written.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionWriteMulti(Message):
    """Write to regions several times, in order.

    Attributes:
        writes: The writes, of 1 to 8 bytes each.
    """

    writes: tuple[RegionWrite, ...]

    def __post_init__(self) -> None:
        require(
            1 <= len(self.writes) <= MAX_WRITES,
            f"there are 1 to {MAX_WRITES} writes",
            field="wr_cnt",
            value=len(self.writes),
        )
        for write in self.writes:
            _check_multi(write.count)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        parts = []
        for write in self.writes:
            fields = write.to_fields()
            fields["data"] = write.data.ljust(MAX_MULTI_WRITE, b"\0")
            parts.append(WRITE.build(fields))
        return {"count": len(self.writes), "data": b"".join(parts)}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The count is not that of the writes, or one breaks a rule.
        """
        count, data = values["count"], values["data"]
        stride = WRITE.min_size
        require(
            count * stride == len(data),
            f"wr_cnt writes of {stride} bytes follow, here {len(data)} bytes",
            field="wr_cnt",
            value=count,
        )
        return cls(writes=tuple(map(_write_of, parse_entries(WRITE, data))))


def _check_multi(count: int) -> None:
    require(
        1 <= count <= MAX_MULTI_WRITE,
        f"each write has 1 to {MAX_MULTI_WRITE} bytes",
        field="count",
        value=count,
    )


def _write_of(entry: Mapping[str, Any]) -> RegionWrite:
    _check_multi(entry["count"])
    data = entry["data"][: entry["count"]]
    return RegionWrite(offset=entry["offset"], region=entry["region"], data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionWriteMultiReply(Message):
    """Say how many writes were carried out.

    Attributes:
        count: How many.
    """

    count: int
