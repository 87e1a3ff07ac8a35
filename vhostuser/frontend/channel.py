"""One vhost-user channel: requests and their replies, or the requests of the other side.

What bytes mean is decided by `protocol.vhost_user.Connection`, how they are read and written by
`vhostuser.stream`; nothing here knows a message. Specification: "Communication".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from protocol.vhost_user import U64, Reply, ReplyKind
from vhostuser.frontend.errors import BackendClosedError, RequestRefusedError
from vhostuser.stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from protocol.vhost_user import Connection, Message, Outgoing, Request
    from vhostuser.fds import OwnedFd

__all__ = ["MessageChannel"]


class MessageChannel:
    """A socket and the protocol connection that speaks over it. Closing it closes the socket.

    Args:
        sock: a connected Unix stream socket; owned by this object from now on.
        connection: the protocol side, either role.
    """

    def __init__(self, sock: trio.socket.SocketType, connection: Connection) -> None:
        # No deadline: how long a back-end may take is for the caller's cancel scopes to say.
        self._stream = MessageStream(sock, seconds=math.inf)
        self.connection = connection

    async def request(
        self, message: Message, fds: Sequence[OwnedFd] = (), *, need_reply: bool = False
    ) -> Reply | None:
        """Send a request; return its reply, or None where none was asked for.

        Only one request at a time. Cancellation: the channel is closed, because a reply that nobody
        reads would be taken for the next one's.

        Args:
            message: what to ask.
            fds: sent along; they stay the caller's.
            need_reply: whether to ask for an acknowledgement.

        Raises:
            LocalProtocolError: the message is not legal now; nothing was sent.
            RemoteProtocolError: the reply breaks the protocol; the channel is closed.
            RequestRefusedError: the back-end acknowledged with something else than 0.
            BackendClosedError: the back-end closed the channel.
        """
        outgoing = self.connection.request(message, fds=tuple(fds), need_reply=need_reply)
        try:
            await self.send(outgoing)
            reply = await self._reply(message) if self.connection.pending else None
        except BaseException:
            self.close()
            raise
        if reply is not None:
            self._check_acknowledgement(message, reply)
        return reply

    async def send(self, outgoing: Outgoing) -> None:
        """Put a message on the wire; its fds stay the caller's.

        Raises:
            BackendClosedError: the back-end closed the channel.
        """
        try:
            await self._stream.send(outgoing)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise BackendClosedError("the back-end closed the connection; see its log") from error

    async def _reply(self, message: Message) -> Reply:
        received = await self.receive()
        if isinstance(received, Reply):
            return received
        raise BackendClosedError(
            f"the back-end closed the connection instead of answering {type(message).__name__}; "
            "see its log"
        )

    async def receive(self) -> Request | Reply | None:
        """Read one whole message; None at the end of the stream.

        Cancellation: only between two messages is nothing lost.

        Raises:
            RemoteProtocolError: the message breaks the protocol. Where the protocol allows going
                on, the error's `answer` is to be sent.
        """
        begun = False
        while True:
            wanted = self.connection.wanted
            try:
                data, fds = await self._stream.receive(wanted, begun=begun)
            except ConnectionResetError:
                data, fds = b"", ()
            if len(data) < wanted:
                for fd in fds:
                    fd.close()
                self.connection.receive_eof(len(data))
                return None
            received = self.connection.receive(data, fds)
            if received is not None:
                return received
            begun = True

    def _check_acknowledgement(self, message: Message, reply: Reply) -> None:
        """Raise if `reply` is a mere acknowledgement and not 0."""
        row = self.connection.dialect.row_of(type(message))
        own_reply = row is not None and row.reply.kind not in {ReplyKind.NONE, ReplyKind.POSTCOPY}
        if not own_reply and isinstance(reply.message, U64) and reply.message.value:
            raise RequestRefusedError(message, reply.message.value)

    def close(self) -> None:
        """Close the socket; a task that waits on it gets trio.ClosedResourceError."""
        self.connection.close()
        self._stream.close()
