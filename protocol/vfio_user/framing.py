"""The 16-byte header in front of every message, and a message ready to be sent.

Only the frame lives here: what may stand in a payload is the business of `formats` and `messages`.
Specification: vfio-user, "Header".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.hot import HEADER

if TYPE_CHECKING:
    from protocol.messages import Closeable

__all__ = [
    "ERROR",
    "HEADER_SIZE",
    "MAX_ERRNO",
    "NO_REPLY",
    "REPLY",
    "Header",
    "Outgoing",
    "error_frame",
    "frame",
    "is_reply",
]

HEADER_SIZE = HEADER.size
"""Bytes of a header."""

REPLY = 0x1
NO_REPLY = 0x10
ERROR = 0x20
_TYPE = 0xF
_KNOWN_FLAGS = _TYPE | NO_REPLY | ERROR
MAX_ERRNO = 4095
"""The largest error number that Linux can have."""

SECTION = "Header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A message's header.

    Attributes:
        id: The sender's number for this message; a reply repeats it.
        command: The command's number.
        size: Bytes of the message, header included.
        flags: Type (bits 0-3: 0 command, 1 reply), no-reply (bit 4), error (bit 5).
        error: In an error reply: why.
    """

    id: int
    command: int
    size: int
    flags: int = 0
    error: int = 0

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Header:
        """Return the header at the beginning of some bytes, of which there must be enough."""
        number, command, size, flags, error = HEADER.unpack_from(data)
        return cls(id=number, command=command, size=size, flags=flags, error=error)

    def build(self) -> bytes:
        """Return the header's bytes."""
        return HEADER.pack(self.id, self.command, self.size, self.flags, self.error)

    @property
    def is_reply(self) -> bool:
        """Whether this answers a command."""
        return is_reply(self.flags)

    @property
    def no_reply(self) -> bool:
        """Whether the sender wants no answer."""
        return bool(self.flags & NO_REPLY)

    @property
    def is_error(self) -> bool:
        """Whether it says that the command failed."""
        return bool(self.flags & ERROR)

    def check_flags(self) -> None:
        """Check that the flags make sense.

        Raises:
            LocalProtocolError: The type is unknown, or a reserved bit is set.
        """
        if self.flags & _TYPE > REPLY:
            raise LocalProtocolError(
                "the type in flag bits 0-3 is 0 (command) or 1 (reply)",
                field="flags",
                value=self.flags,
            )
        if self.flags & ~_KNOWN_FLAGS:
            raise LocalProtocolError(
                "flag bits 6-31 are reserved and zero", field="flags", value=self.flags
            )
        if self.is_reply and self.no_reply:
            raise LocalProtocolError(
                "no-reply (bit 4) belongs to commands", field="flags", value=self.flags
            )


def is_reply(flags: int) -> bool:
    """Whether a message with these flags answers a command.

    An error always does: some peers forget the type bit in it.
    """
    return flags & _TYPE == REPLY or bool(flags & ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Bytes to send; the fds ride on the first byte and remain the caller's.

    Send a message with fds by a `sendmsg` of its own: its receiver knows whose fds they are by
    where that write begins. Messages without fds may be sent together.

    Attributes:
        id: The message's id.
        data: Header and payload.
        fds: The descriptors to pass along, in order.
    """

    id: int
    data: bytes
    fds: tuple[Closeable, ...] = ()


def frame(
    number: int, command: int, flags: int, payload: bytes, fds: tuple[Closeable, ...]
) -> Outgoing:
    """Return a message ready to be sent.

    Args:
        number: Its id.
        command: Its command.
        flags: As in the header.
        payload: The payload, already built.
        fds: Descriptors to pass along.
    """
    head = HEADER.pack(number, command, HEADER_SIZE + len(payload), flags, 0)
    return Outgoing(id=number, data=head + payload, fds=fds)


def error_frame(number: int, command: int, error: int) -> Outgoing:
    """Return a reply that says that a command failed.

    Args:
        number: The command's id.
        command: The command.
        error: Why: an error number.
    """
    return Outgoing(id=number, data=HEADER.pack(number, command, HEADER_SIZE, REPLY | ERROR, error))
