"""VERSION, the two messages about memory, and DEVICE_RESET.

Specification: vfio-user, the commands' own sections.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

from protocol.addresses import Iova
from protocol.messages import Message, require, require_range
from protocol.vfio_user.capabilities import (
    Capabilities,
    build_capabilities,
    parse_capabilities,
)
from protocol.vfio_user.messages.base import require_argsz

__all__ = [
    "MAJOR",
    "MINOR",
    "DeviceReset",
    "DmaFlags",
    "DmaMap",
    "DmaUnmap",
    "DmaUnmapReply",
    "Version",
    "VersionReply",
]

MAJOR = 0
MINOR = 2
"""What we speak: as libvfio-user does."""

_DMA_MAP_SIZE = 32
_DMA_UNMAP_SIZE = 24
_NOWHERE = Iova(0)


class DmaFlags(enum.IntFlag):
    """What the device may do with a mapping; the last two are libvfio-user's."""

    READ = 1
    WRITE = 2
    MMAP = 4
    FILE_IO = 8


_DMA_FLAGS = 0xF
_UNMAP_ALL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version(Message):
    major: int = MAJOR
    minor: int = MINOR
    data: bytes = b""

    def __post_init__(self) -> None:
        require(
            self.major == MAJOR,
            f"the major version is {MAJOR}: others are not compatible",
            field="major",
            value=self.major,
        )
        parse_capabilities(self.data)

    @classmethod
    def offering(cls, capabilities: Capabilities, minor: int = MINOR) -> Self:
        """Return a message that says what its sender can do."""
        return cls(minor=minor, data=build_capabilities(capabilities))

    @property
    def capabilities(self) -> Capabilities:
        """What the sender can do."""
        return parse_capabilities(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(_Version):
    """Propose a version, and say what the client can do; the first message.

    Attributes:
        major: Major version.
        minor: The newest minor version that the client speaks.
        data: Capabilities: JSON and a NUL, or nothing.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionReply(_Version):
    """Agree on a version, and say what the server can do.

    Attributes:
        major: Major version.
        minor: Minor version to speak, at most the proposed one.
        data: Capabilities: JSON and a NUL, or nothing.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaMap(Message):
    """Let the device reach memory; it can be mapped if its fd comes along.

    Attributes:
        argsz: Bytes of this payload.
        flags: 1 read, 2 write; libvfio-user's 4 by mapping, 8 by file reads and writes.
        offset: Bytes from the start of the fd to the memory.
        address: The memory's first address for the device.
        size: Bytes.
    """

    argsz: int = _DMA_MAP_SIZE
    flags: int = DmaFlags.READ | DmaFlags.WRITE
    offset: int = 0
    address: Iova
    size: int

    def __post_init__(self) -> None:
        require_argsz(self.argsz, _DMA_MAP_SIZE)
        require(
            not self.flags & ~_DMA_FLAGS,
            "flags are 1 (read), 2 (write), 4 and 8; the others are reserved and zero",
            field="flags",
            value=self.flags,
        )
        require_range(self.address, self.size, field="address")
        require_range(self.offset, self.size, field="offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class _DmaUnmap(Message):
    argsz: int = _DMA_UNMAP_SIZE
    flags: int = 0
    address: Iova = _NOWHERE
    size: int = 0

    def __post_init__(self) -> None:
        require_argsz(self.argsz, _DMA_UNMAP_SIZE)
        require(
            not self.flags & ~_UNMAP_ALL,
            "flags are 0 or 2 (all)",
            field="flags",
            value=self.flags,
        )
        if self.everything:
            require(
                not self.address and not self.size,
                "address and size are 0 where everything is unmapped",
                field="address",
                value=self.address,
            )
        else:
            require_range(self.address, self.size, field="address")

    @property
    def everything(self) -> bool:
        """Whether all mappings are meant."""
        return bool(self.flags & _UNMAP_ALL)

    @classmethod
    def all(cls) -> Self:
        """Return the message that means all mappings."""
        return cls(flags=_UNMAP_ALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaUnmap(_DmaUnmap):
    """Take memory away from the device: exactly one mapping, or all.

    Attributes:
        argsz: Bytes of this payload.
        flags: 2: all mappings; address and size are 0 then.
        address: The mapping's first address.
        size: The mapping's bytes.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaUnmapReply(_DmaUnmap):
    """Say that the device does not use the memory any more: the request's payload again.

    Attributes:
        argsz: As in the request.
        flags: As in the request.
        address: As in the request.
        size: As in the request.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReset(Message):
    """Reset the device."""
