"""VERSION: what the two sides agree on, and what may be said before and after.

Specification: vfio-user, "VERSION".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocol.vfio_user import messages as m
from protocol.vfio_user.capabilities import (
    DEFAULT_DATA_XFER_SIZE,
    DEFAULT_DMA_MAPS,
    DEFAULT_MSG_FDS,
    DEFAULT_PGSIZES,
    Capabilities,
)
from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.framing import NO_REPLY
from protocol.vfio_user.rows import Role

if TYPE_CHECKING:
    from protocol.vfio_user.capabilities import MigrationCapability
    from protocol.vfio_user.exchange import Limits
    from protocol.vfio_user.rows import CommandRow

__all__ = ["Handshake", "Negotiated", "agree"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """What both sides agreed on in VERSION, as one of them must heed it.

    Attributes:
        minor: The minor version to speak.
        max_data_xfer_size: Bytes of data that one of our messages may move, whichever way: what
            the peer takes, and we do.
        max_msg_fds: Fds that one of our messages may bring: what the peer takes.
        max_dma_maps: Mappings that the device keeps at a time.
        pgsizes: Page sizes of mappings, one bit each, as the server says.
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


def agree(role: Role, proposal: m.Version, answer: m.VersionReply, fds: int) -> Negotiated:
    """Return what a proposal and its answer agree on.

    Args:
        role: Which side we are.
        proposal: What the client said.
        answer: What the server said.
        fds: Number of fds that come with the answer.

    Raises:
        LocalProtocolError: The answer does not fit the proposal.
    """
    if answer.minor > proposal.minor:
        raise LocalProtocolError(
            f"the minor version is at most the proposed one, {proposal.minor}",
            field="minor",
            value=answer.minor,
        )
    client, server = proposal.capabilities, answer.capabilities
    peer = server if role is Role.CLIENT else client
    maps = (_or(client.max_dma_maps, DEFAULT_DMA_MAPS), _or(server.max_dma_maps, DEFAULT_DMA_MAPS))
    return Negotiated(
        minor=answer.minor,
        max_data_xfer_size=_or(peer.max_data_xfer_size, DEFAULT_DATA_XFER_SIZE),
        max_msg_fds=_or(peer.max_msg_fds, DEFAULT_MSG_FDS),
        max_dma_maps=min(maps),
        pgsizes=_or(server.pgsizes, DEFAULT_PGSIZES),
        write_multiple=bool(client.write_multiple and server.write_multiple),
        twin_socket=_twin_socket(client, server, fds),
        migration=server.migration,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _twin_socket(client: Capabilities, server: Capabilities, fds: int) -> int | None:
    given = server.twin_socket is not None and server.twin_socket.supported
    asked = client.twin_socket is not None and client.twin_socket.supported
    if given and not asked:
        raise LocalProtocolError(
            "a twin socket is given to clients that ask for one", field="twin_socket", value=given
        )
    if fds != int(given):
        raise LocalProtocolError(
            "the twin socket comes along as the only fd, and no other does", field="fds", value=fds
        )
    if server.twin_socket is None or not given:
        return None
    index = server.twin_socket.fd_index or 0
    if index:
        raise LocalProtocolError(
            "fd_index is 0: the twin socket is the only fd", field="fd_index", value=index
        )
    return index


class Handshake:
    """Whether VERSION was sent, and what it led to.

    Args:
        role: Which side we are.
        limits: What we accept of the peer at most.
        negotiated: What was agreed elsewhere, for a twin socket.

    Attributes:
        negotiated: What was agreed; None before.
    """

    def __init__(self, role: Role, limits: Limits, negotiated: Negotiated | None) -> None:
        self._role = role
        self._limits = limits
        self.negotiated = negotiated
        self._proposed = negotiated is not None

    def check(self, row: CommandRow, *, no_reply: bool) -> None:
        """Check that a command may be sent now.

        Raises:
            LocalProtocolError: VERSION comes first, once, and wants an answer.
        """
        if row.request.message is m.Version:
            self._check_version(row, no_reply=no_reply)
        elif self.negotiated is None:
            raise LocalProtocolError(
                "VERSION comes first, and is answered", field="command", value=row.number
            )
        elif row.request.message is m.RegionWriteMulti and not self.negotiated.write_multiple:
            raise LocalProtocolError(
                "write_multiple is agreed in VERSION before it is used",
                field="command",
                value=row.number,
            )

    def _check_version(self, row: CommandRow, *, no_reply: bool) -> None:
        if self._proposed:
            raise LocalProtocolError("VERSION comes once", field="command", value=row.number)
        if no_reply:
            raise LocalProtocolError("VERSION wants an answer", field="flags", value=NO_REPLY)

    def note(self, request: m.Message) -> None:
        """Note a request that is on its way."""
        if isinstance(request, m.Version):
            self._proposed = True

    def settle(self, request: m.Message, reply: m.Message | None, fds: int) -> None:
        """Note a reply, which may be the one that agrees.

        Raises:
            LocalProtocolError: It does not fit the proposal; nothing has changed.
        """
        if isinstance(request, m.Version) and isinstance(reply, m.VersionReply):
            agreed = agree(self._role, request, reply, fds)
            most = min(agreed.max_data_xfer_size, self._limits.max_data_xfer_size)
            self.negotiated = replace(agreed, max_data_xfer_size=most)
