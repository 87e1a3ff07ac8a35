"""The 12-byte header in front of every message, and a message ready to be sent.

Only the frame lives here: what may stand in a payload is the business of `formats` and `messages`,
whether a message is legal now of `connection`. Specification: vhost-user, "Header".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from protocol.messages import Closeable

__all__ = ["HEADER_SIZE", "REPLY_FLAGS", "VERSION", "Header", "Outgoing", "frame"]

_HEADER = struct.Struct("=III")
HEADER_SIZE = _HEADER.size
"""Bytes of a header."""

VERSION = 1
_VERSION_MASK = 0x3
_REPLY = 0x4
_NEED_REPLY = 0x8
_KNOWN_FLAGS = _VERSION_MASK | _REPLY | _NEED_REPLY
REPLY_FLAGS = VERSION | _REPLY
"""The flags of every reply, exactly: an echoed need_reply bit is an error to QEMU."""

SECTION = "Header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A message's header; building one checks its flags.

    Attributes:
        number: The message's number.
        flags: Version, reply and need_reply bits.
        size: Bytes of payload that follow.

    Raises:
        LocalProtocolError: The version is not 1 or a reserved flag bit is set.
    """

    number: int
    flags: int
    size: int

    def __post_init__(self) -> None:
        if self.flags & _VERSION_MASK != VERSION:
            raise LocalProtocolError(
                "the version in flag bits 0-1 is 1", field="flags", value=self.flags
            )
        if self.flags & ~_KNOWN_FLAGS:
            raise LocalProtocolError(
                "flag bits 4-31 are reserved and zero", field="flags", value=self.flags
            )

    @property
    def is_reply(self) -> bool:
        """Whether this is a reply to an earlier request."""
        return bool(self.flags & _REPLY)

    @property
    def need_reply(self) -> bool:
        """Whether the sender asks for an acknowledgement."""
        return bool(self.flags & _NEED_REPLY)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Return the header in exactly `HEADER_SIZE` bytes.

        Raises:
            LocalProtocolError: The flags break a rule.
        """
        number, flags, size = _HEADER.unpack(data)
        return cls(number=number, flags=flags, size=size)

    def build(self) -> bytes:
        """Return the header's bytes."""
        return _HEADER.pack(self.number, self.flags, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Bytes to send in one go; the fds ride on the first byte and remain the caller's.

    Attributes:
        data: Header and payload.
        fds: The descriptors to pass along, in order.
    """

    data: bytes
    fds: tuple[Closeable, ...] = ()


def frame(
    number: int,
    payload: bytes,
    *,
    reply: bool = False,
    need_reply: bool = False,
    fds: tuple[Closeable, ...] = (),
) -> Outgoing:
    """Return a message ready to be sent.

    Args:
        number: The message's number.
        payload: The payload, already built.
        reply: Whether this answers a request; the flags are then exactly `REPLY_FLAGS`.
        need_reply: Whether an acknowledgement is asked for; never together with `reply`.
        fds: Descriptors to pass along.
    """
    flags = REPLY_FLAGS if reply else VERSION | (_NEED_REPLY if need_reply else 0)
    header = Header(number=number, flags=flags, size=len(payload))
    return Outgoing(data=header.build() + payload, fds=fds)
