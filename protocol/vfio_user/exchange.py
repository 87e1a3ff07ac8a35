"""What passes between a connection and its user: limits, what was agreed, and events.

Data only; `connection` makes and consumes it. Specification: vfio-user, "Header" and "VERSION".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vfio_user.capabilities import (
    DEFAULT_DATA_XFER_SIZE,
    DEFAULT_DMA_MAPS,
    DEFAULT_MSG_FDS,
    DEFAULT_PGSIZES,
)
from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.formats import MAX_TRANSFER

if TYPE_CHECKING:
    from protocol.messages import Closeable, Message
    from protocol.vfio_user.capabilities import MigrationCapability
    from protocol.vfio_user.errors import RemoteProtocolError
    from protocol.vfio_user.framing import Outgoing
    from protocol.vfio_user.messages import Version, VersionReply
    from protocol.vfio_user.rows import CommandRow

__all__ = ["Event", "Limits", "Negotiated", "Pending", "Rejected", "Reply", "Request", "agree"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """What both sides agreed on in VERSION.

    Attributes:
        minor: The minor version to speak.
        max_data_xfer_size: Bytes of data that one message may move.
        max_msg_fds: Fds that one message may bring.
        max_dma_maps: Mappings that the device keeps at a time.
        pgsizes: Page sizes of mappings, one bit each.
        write_multiple: Whether REGION_WRITE_MULTI may be sent.
        twin_socket: Which fd of the reply to VERSION carries the server's commands; None: they
            come on this connection.
        migration: How the server reports dirty pages.
    """

    minor: int
    max_data_xfer_size: int = DEFAULT_DATA_XFER_SIZE
    max_msg_fds: int = DEFAULT_MSG_FDS
    max_dma_maps: int = DEFAULT_DMA_MAPS
    pgsizes: int = DEFAULT_PGSIZES
    write_multiple: bool = False
    twin_socket: int | None = None
    migration: MigrationCapability | None = None


def agree(proposal: Version, answer: VersionReply, fds: int) -> Negotiated:
    """Return what a proposal and its answer agree on.

    Args:
        proposal: What the client said.
        answer: What the server said.
        fds: Number of fds that came with the answer.

    Raises:
        LocalProtocolError: The answer does not fit the proposal.
    """
    if answer.minor > proposal.minor:
        raise LocalProtocolError(
            f"the minor version is at most the proposed one, {proposal.minor}",
            field="minor",
            value=answer.minor,
        )
    mine, theirs = proposal.capabilities, answer.capabilities
    twin = theirs.twin_socket
    index = None
    if twin is not None and twin.supported:
        index = twin.fd_index or 0
        if mine.twin_socket is None or not mine.twin_socket.supported:
            raise LocalProtocolError(
                "a twin socket is given to clients that ask for one",
                field="twin_socket",
                value=twin.supported,
            )
    if fds != (0 if index is None else 1) or index:
        raise LocalProtocolError(
            "the twin socket comes along as the only fd, and no other does",
            field="fds",
            value=fds,
        )
    return Negotiated(
        minor=answer.minor,
        max_data_xfer_size=min(
            mine.max_data_xfer_size or DEFAULT_DATA_XFER_SIZE,
            theirs.max_data_xfer_size or DEFAULT_DATA_XFER_SIZE,
        ),
        max_msg_fds=min(
            _default(mine.max_msg_fds, DEFAULT_MSG_FDS),
            _default(theirs.max_msg_fds, DEFAULT_MSG_FDS),
        ),
        max_dma_maps=min(
            _default(mine.max_dma_maps, DEFAULT_DMA_MAPS),
            _default(theirs.max_dma_maps, DEFAULT_DMA_MAPS),
        ),
        pgsizes=theirs.pgsizes or DEFAULT_PGSIZES,
        write_multiple=bool(mine.write_multiple and theirs.write_multiple),
        twin_socket=index,
        migration=theirs.migration,
    )


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


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
