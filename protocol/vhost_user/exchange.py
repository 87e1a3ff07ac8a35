"""What passes between a connection and its user: roles, requests and replies.

Data only; `connection` makes and consumes it. Specification: vhost-user, "Communication".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.messages import Closeable
    from protocol.vhost_user.errors import LocalProtocolError
    from protocol.vhost_user.framing import Header
    from protocol.vhost_user.messages import Message
    from protocol.vhost_user.rows import MessageRow, ReplyRule

__all__ = ["Incoming", "Pending", "Reply", "Request", "Role"]


class Role(enum.Enum):
    """Which side of the connection we are."""

    FRONT_END = "front-end"
    BACK_END = "back-end"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A request of the peer that broke no rule of the protocol.

    Attributes:
        message: The typed message.
        fds: The descriptors that came along; they are the receiver's now.
        need_reply: Whether the peer asked for an acknowledgement.
        row: The message's row.
        ack: Whether an acknowledgement will be sent: asked for, and REPLY_ACK negotiated, by this
            very message at the latest.
    """

    message: Message
    fds: tuple[Closeable, ...]
    need_reply: bool
    row: MessageRow
    ack: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The peer's answer to one of our requests.

    Attributes:
        request_message: Our request.
        message: The answer; U64 with 0 for success if it is an acknowledgement.
        fds: The descriptors that came along; they are the receiver's now.
    """

    request_message: Message
    message: Message
    fds: tuple[Closeable, ...]


@dataclass(slots=True, kw_only=True)
class Incoming:
    """A message of which the header has arrived."""

    header: Header
    fds: tuple[Closeable, ...]
    row: MessageRow | None = None
    message: Message | None = None
    problem: LocalProtocolError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A request of ours that waits for its answer."""

    row: MessageRow
    message: Message
    rule: ReplyRule
