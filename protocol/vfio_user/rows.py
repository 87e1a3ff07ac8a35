"""The columns of the command table: what a row says about its command.

No command is listed here, see `table`. Specification: vfio-user, "Commands".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vfio_user import formats as f
from protocol.vfio_user.quick import BUILDERS, PARSERS

if TYPE_CHECKING:
    from protocol.layouts import Format
    from protocol.messages import Message

__all__ = ["CommandRow", "Part", "Role"]


class Role(enum.Enum):
    """Which side of the connection somebody is."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Role:
        """The other side."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


@dataclass(frozen=True, slots=True)
class Part:
    """A command's request, or its reply.

    Attributes:
        message: Its typed class; None: there is no payload, and nothing to say.
        payload: Its layout.
        fds: Fewest and most fds that come along; the message itself may narrow this.
    """

    message: type[Message] | None = None
    payload: Format = f.NOTHING
    fds: tuple[int, int] = (0, 0)

    def parse(self, data: bytes) -> Message | None:
        """Return the message that a payload makes.

        Raises:
            LocalProtocolError: The payload has not this layout, or a value breaks a rule.
        """
        if self.message is None:
            self.payload.parse(data)
            return None
        quick = PARSERS.get(self.message)
        if quick is not None and self.payload.accepts(len(data)):
            return quick(data)
        return self.message.from_fields(self.payload.parse(data))

    def build(self, message: Message | None) -> bytes:
        """Return a message's payload.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        if message is None:
            return b""
        quick = BUILDERS.get(type(message))
        if quick is not None:
            return quick(message)
        return self.payload.build(message.to_fields())


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """One command of the table.

    Attributes:
        number: Its number in the header.
        name: Its name in the specification, without prefix.
        sender: Who sends it; the other side answers.
        request: What it carries.
        reply: What answers it, if it succeeds.
    """

    number: int
    name: str
    sender: Role
    request: Part
    reply: Part

    @property
    def section(self) -> str:
        """Where the command is specified."""
        return f"VFIO_USER_{self.name}"

    @property
    def summary(self) -> str:
        """What the command is for: the first line of its class."""
        return (self.request.message.__doc__ or "").partition("\n")[0]
