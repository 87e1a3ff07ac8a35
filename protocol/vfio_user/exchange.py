"""What passes between a connection and its user: limits and events.

Data only; `connection` makes and consumes it. Specification: vfio-user, "Header".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vfio_user.capabilities import DEFAULT_DATA_XFER_SIZE
from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.formats import MAX_TRANSFER

if TYPE_CHECKING:
    from protocol.messages import Closeable, Message
    from protocol.vfio_user.errors import RemoteProtocolError
    from protocol.vfio_user.framing import Outgoing
    from protocol.vfio_user.rows import CommandRow

__all__ = ["Event", "Limits", "Pending", "Rejected", "Reply", "Request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to accept of a peer at most; announce no more in VERSION.

    Attributes:
        max_data_xfer_size: Bytes of data that one message may move.
        max_msg_fds: Fds that one message may bring.
        max_pending: Our own requests that may wait for their answers, forgotten ones included.

    Raises:
        LocalProtocolError: A limit is beyond what this implementation can do.
    """

    max_data_xfer_size: int = DEFAULT_DATA_XFER_SIZE
    max_msg_fds: int = 16
    max_pending: int = 1024

    def __post_init__(self) -> None:
        for name, most in (
            ("max_data_xfer_size", MAX_TRANSFER),
            ("max_msg_fds", 253),
            ("max_pending", 1 << 15),
        ):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise LocalProtocolError(f"{name} is 1 to {most}", field=name, value=value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A command of the peer that broke no rule of the protocol; answer it, or refuse it.

    Attributes:
        id: The peer's number for it; ids may repeat.
        message: The typed message.
        no_reply: Whether the peer wants no answer (a posted write, as a rule).
        fds: The descriptors that came along; they are the receiver's now.
        size: Bytes of the whole message.
        row: The command's row.
    """

    id: int
    message: Message
    no_reply: bool
    fds: tuple[Closeable, ...]
    size: int
    row: CommandRow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """The peer's answer to one of our commands.

    Attributes:
        id: Our number for the command.
        request_message: Our command.
        message: The answer; None if the command failed, or if there is nothing to say.
        error: None: the command was carried out. Else why it failed: an error number, or 0 if the
            peer did not say.
        fds: The descriptors that came along; they are the receiver's now.
    """

    id: int
    request_message: Message
    message: Message | None
    error: int | None
    fds: tuple[Closeable, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rejected:
    """A message of the peer that broke a rule; it changed nothing, its fds are closed.

    Attributes:
        error: Which rule.
        answer: What to send; None if the peer wants no answer, or can be told nothing.
        fatal: Whether the connection is closed; send the answer before.
        fds: Always none.
    """

    error: RemoteProtocolError
    answer: Outgoing | None
    fatal: bool
    fds: tuple[Closeable, ...] = ()


Event = Request | Reply | Rejected


@dataclass(frozen=True, slots=True)
class Pending:
    """A command of ours that waits for its answer."""

    row: CommandRow
    message: Message
