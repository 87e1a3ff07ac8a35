"""DEVICE_FEATURE with its payloads, and the two messages that move a device's state.

Specification: vfio-user, DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from protocol.messages import Message, require
from protocol.vfio_user.messages.base import (
    Described,
    Query,
    require_argsz,
    require_data,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DeviceFeature",
    "DeviceFeatureReply",
    "Feature",
    "FeatureFlags",
    "MigDataRead",
    "MigDataReadReply",
    "MigDataWrite",
]

_FEATURE_HEAD = 8
_DATA_HEAD = 8
_INDEX = 0xFFFF


class FeatureFlags(enum.IntFlag):
    """What is wanted of a feature; the lower 16 bits are its number."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


_ACTIONS = int(FeatureFlags.GET | FeatureFlags.SET | FeatureFlags.PROBE)
_GET_AND_SET = int(FeatureFlags.GET | FeatureFlags.SET)


class Feature(enum.IntEnum):
    """The features that have a number here; `features` has their payloads."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8


def _require_flags(flags: int) -> None:
    action = flags & _ACTIONS
    require(
        not flags & ~(_INDEX | _ACTIONS) and action not in (0, _GET_AND_SET),
        "flags are a feature (bits 0-15), and get (16) or set (17), or probe (18) with any of them",
        field="flags",
        value=flags,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFeature(Query):
    """Get, set or probe a feature of the device.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        flags: Bits 0-15 feature, 16 get, 17 set, 18 probe whether that can be done.
        data: The feature's own payload.
    """

    argsz: int
    flags: int
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, _FEATURE_HEAD)
        _require_flags(self.flags)

    @property
    def feature(self) -> int:
        """The feature's number."""
        return self.flags & _INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFeatureReply(Described):
    """Say that it was done, and what was got.

    Attributes:
        argsz: Bytes that the whole payload needs.
        flags: As in the request.
        data: The feature's own payload.
    """

    flags: int
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.argsz is None:
            object.__setattr__(self, "argsz", _FEATURE_HEAD + len(self.data))
        # How long a bitmap may be is not known here: the request's sender set that bound.
        require_argsz(self.needed, _FEATURE_HEAD)
        _require_flags(self.flags)

    @property
    def feature(self) -> int:
        """The feature's number."""
        return self.flags & _INDEX

    @property
    def complete(self) -> bool:
        """Whether all of the payload is there."""
        return _FEATURE_HEAD + len(self.data) >= self.needed

    def cut(self) -> Self:
        """Return the fixed part alone."""
        return replace(self, data=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDataRead(Query):
    """Read the next part of the device's state.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        size: Bytes to read at most.
    """

    argsz: int
    size: int

    def __post_init__(self) -> None:
        require_argsz(self.argsz, _DATA_HEAD + self.size)

    @classmethod
    def of(cls, size: int) -> Self:
        """Return the message that reads so many bytes at most."""
        return cls(argsz=_DATA_HEAD + size, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MigData(Message):
    argsz: int | None = None
    data: bytes

    def __post_init__(self) -> None:
        if self.argsz is None:
            object.__setattr__(self, "argsz", _DATA_HEAD + len(self.data))
        require_argsz(self.argsz or 0, _DATA_HEAD)

    @property
    def size(self) -> int:
        """Bytes of state."""
        return len(self.data)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {"argsz": self.argsz, "size": len(self.data), "data": self.data}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The size is not that of the data.
        """
        require_data(values["data"], values["size"], field="size")
        return cls(argsz=values["argsz"], data=values["data"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDataReadReply(_MigData):
    """Bring a part of the device's state; less than was asked for: it was the last.

    Attributes:
        argsz: Bytes of this payload.
        data: The part.
        room: Bytes without meaning behind it: libvfio-user sends as many as were asked for.
    """

    room: bytes = b""

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {"argsz": self.argsz, "size": len(self.data), "data": self.data + self.room}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The size is more than there is data.
        """
        size, data = values["size"], values["data"]
        require(
            size <= len(data),
            f"size is at most the number of bytes that follow, here {len(data)}",
            field="size",
            value=size,
        )
        return cls(argsz=values["argsz"], data=data[:size], room=data[size:])


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDataWrite(_MigData):
    """Bring the next part of a device's state to the device.

    Attributes:
        argsz: Bytes of this payload.
        data: The part.
    """
