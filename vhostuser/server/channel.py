"""The back-end channel: requests of ours to the front-end.

Nothing on the front-end channel ever waits for an answer here: the front-end may serve this channel
only between its own requests. Requests are queued, one is under way at a time, and a channel that
breaks is given up while the session goes on. Specification: "Back-end communication".
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import Channel, Connection, RemoteProtocolError, Role
from vhostuser.stream import MessageStream

if TYPE_CHECKING:
    from protocol.vhost_user import Dialect, Message, Negotiated
    from vhostuser.fds import OwnedFd

__all__ = ["BackendChannel"]

_log = logging.getLogger(__name__)
_MOST_QUEUED = 64


class BackendChannel:
    """A socket on which this side asks.

    Args:
        fd: a connected UNIX stream socket; taken over.
        dialect: of the front-end channel.
        negotiated: shared with the front-end channel, which changes it.
        seconds: how long a message may take.

    Raises:
        OSError: it is no socket; the fd stays the caller's.
    """

    def __init__(
        self, fd: OwnedFd, *, dialect: Dialect, negotiated: Negotiated, seconds: float
    ) -> None:
        sock = socket.socket(fileno=fd.fileno())
        fd.detach()
        self._stream = MessageStream(trio.socket.from_stdlib_socket(sock), seconds=seconds)
        self._connection = Connection(
            Role.BACK_END, Channel.BACK_END, dialect=dialect, negotiated=negotiated
        )
        self._send, self._queue = trio.open_memory_channel["Message"](_MOST_QUEUED)
        self._scope = trio.CancelScope()

    def post(self, message: Message) -> None:
        """Queue a request that needs no answer; dropped with a log line when too many wait."""
        try:
            self._send.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            _log.warning("back-end channel: dropped %s: the front-end does not read", message)

    async def run(self) -> None:
        """Send what is posted, and watch for the front-end closing the channel.

        Returns when the channel ends. Cancellable; the socket is closed in every case.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self.close()

    async def _write(self) -> None:
        async for message in self._queue:
            try:
                await self._stream.send(self._connection.request(message))
            except (OSError, RemoteProtocolError) as error:
                _log.warning("back-end channel: cannot send %s: %s", message, error)
                return

    async def _read(self) -> None:
        try:
            begun = False
            while wanted := self._connection.wanted:
                data, fds = await self._stream.receive(wanted, begun=begun)
                if len(data) < wanted:
                    for fd in fds:
                        fd.close()
                    self._connection.receive_eof(len(data))
                    return
                begun = self._connection.receive(data, fds) is None
        except (OSError, RemoteProtocolError) as error:
            _log.warning("back-end channel closed: %s", error)

    def close(self) -> None:
        """Close the socket and forget what is queued; `run` returns."""
        self._scope.cancel()  # before the rest: nothing may wait on what is closed
        self._send.close()
        self._queue.close()
        self._stream.close()
        self._connection.close()
