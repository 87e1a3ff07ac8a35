"""What the messages share: the base classes, the checks of values, and the memory region.

Rules that depend on features, on ring states or on the device are not known here.
Specification: vhost-user, "Payload".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from protocol.messages import Message, require, require_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.addresses import Gpa, Uva

__all__ = [
    "MAX_RING_SIZE",
    "FdMessage",
    "MemRegion",
    "Message",
    "RingMessage",
    "require",
    "require_range",
    "require_uuid",
]

MAX_RING_SIZE = 32768
"""Entries of the largest ring that virtio allows."""

_INDEX_BITS = 0xFF
_NO_FD = 0x100
_UUID_SIZE = 16


def require_uuid(uuid: bytes) -> None:
    """Check that a UUID has its 16 bytes.

    Raises:
        LocalProtocolError: It has another number of bytes.
    """
    require(len(uuid) == _UUID_SIZE, "a UUID has 16 bytes", field="uuid", value=uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingMessage(Message):
    """A message about one ring.

    Attributes:
        index: The ring's index; checked against the number of rings by the connection.
    """

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FdMessage(RingMessage):
    """A message that brings one fd for a ring, or says that there is none.

    Attributes:
        index: The ring's index, 0 to 255: the layout has eight bits for it.
        no_fd: Whether no fd comes along (bit 8).
    """

    no_fd: bool = False

    def __post_init__(self) -> None:
        require(
            0 <= self.index <= _INDEX_BITS,
            "a ring index in this message is 0 to 255 (bits 0-7)",
            field="index",
            value=self.index,
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        values = Message.to_fields(self)
        flags = _NO_FD if values.pop("no_fd") else 0
        values["index_and_flags"] = values.pop("index") | flags
        return values

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: A value breaks a rule.
        """
        rest = dict(values)
        word = rest.pop("index_and_flags")
        require(
            not word & ~(_INDEX_BITS | _NO_FD),
            "bits 9-63 are reserved and zero",
            field="index_and_flags",
            value=word,
        )
        return cls(index=word & _INDEX_BITS, no_fd=bool(word & _NO_FD), **rest)

    def fd_count(self) -> int:
        """Return how many fds must come along."""
        return 0 if self.no_fd else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemRegion:
    """A region of guest memory.

    Attributes:
        gpa: Guest physical address of its first byte.
        size: Bytes.
        uva: Address of its first byte in the front-end's process.
        offset: Bytes from the start of the fd to its first byte.

    Raises:
        LocalProtocolError: The region is empty or one of its ranges passes 2^64.
    """

    gpa: Gpa
    size: int
    uva: Uva
    offset: int = 0

    def __post_init__(self) -> None:
        require_range(self.gpa, self.size, field="gpa")
        require_range(self.uva, self.size, field="uva")
        require_range(self.offset, self.size, field="offset")

    def to_fields(self) -> dict[str, int]:
        """Return the fields of the region's layout, by name."""
        return {"gpa": self.gpa, "size": self.size, "uva": self.uva, "offset": self.offset}
