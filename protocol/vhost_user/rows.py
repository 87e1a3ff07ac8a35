"""The columns of the message table: what a row says about its message.

No message is listed here, see `table`. Specification: vhost-user, "Communication".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vhost_user import formats as f
from protocol.vhost_user import messages as m
from protocol.vhost_user.states import legal_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.vhost_user.features import Feature
    from protocol.vhost_user.states import DeviceRun, Event, Postcopy, RingRun

__all__ = ["Channel", "MessageRow", "ReplyKind", "ReplyRule"]


class Channel(enum.Enum):
    """Whose messages a channel carries; the replies go the other way."""

    FRONT_END = "front-end"
    BACK_END = "back-end"


class ReplyKind(enum.Enum):
    """How a message is answered, apart from an acknowledgement that the sender asks for."""

    NONE = "none"
    PAYLOAD = "payload"
    PAYLOAD_AND_FD = "payload and fd"
    EMPTY = "empty payload"
    EMPTY_AND_FD = "fd alone"
    POSTCOPY = "payload in post-copy mode, else none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRule:
    """How a message is answered.

    Attributes:
        kind: In words.
        message: Class of the reply.
        payload: Layout of the reply.
        fds: Fewest and most fds that come with the reply.
        failure: Makes the reply that reports an error of a request, if there is such a reply; the
            request is None if it could not be decoded.
    """

    kind: ReplyKind
    message: type[m.Message] = m.Empty
    payload: f.Format = f.NOTHING
    fds: tuple[int, int] = (0, 0)
    failure: Callable[[m.Message | None], m.Message | None] | None = None


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One message of the table.

    Attributes:
        number: Its number in the header.
        name: Its name in the specification, without prefix.
        message: Its typed class.
        payload: Its layout.
        fds: Fewest and most fds that come along; the message itself may narrow this.
        drop_fds: Whether fds are tolerated and closed without being used.
        reply: How it is answered.
        feature: The feature that unlocks it, None if none is needed.
        event: What it does to a ring, to the device or to post-copy; decides when it is legal.
        since: The QEMU release whose specification first has it, or the draft.
        channel: Whose message it is.
        source: Where it is specified, if not in the current specification.
        needs: Features that must be negotiated besides.
    """

    number: int
    name: str
    message: type[m.Message]
    payload: f.Format
    fds: tuple[int, int] = (0, 0)
    reply: ReplyRule = ReplyRule(kind=ReplyKind.NONE)
    feature: Feature | None = None
    event: Event | None = None
    since: str = "2.1"
    drop_fds: bool = False
    channel: Channel = Channel.FRONT_END
    source: str = ""
    needs: tuple[Feature, ...] = ()

    @property
    def section(self) -> str:
        """Where the message is specified."""
        if self.source:
            return f"{self.source}, {self.name}"
        side = "Front-end" if self.channel is Channel.FRONT_END else "Back-end"
        return f"{side} message types, VHOST_USER_{self.name}"

    @property
    def summary(self) -> str:
        """What the message is for: the first line of its class."""
        return (self.message.__doc__ or "").partition("\n")[0]

    @property
    def legal_states(self) -> frozenset[RingRun | DeviceRun | Postcopy]:
        """The states in which it is legal; empty stands for "any"."""
        return legal_states(self.event)
