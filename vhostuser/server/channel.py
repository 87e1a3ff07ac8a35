"""The back-end channel: requests of ours to the front-end.

Nothing on the front-end channel ever waits for an answer here: the front-end may serve this channel
only between its own requests. Requests are queued, one is under way at a time, and a channel that
breaks, or on which an answer does not come, is given up while the session goes on.
Specification: "Back-end communication".
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import (
    U64,
    Channel,
    Connection,
    ProtocolError,
    ProtocolFeature,
    RemoteProtocolError,
    Reply,
    Role,
)
from vhostuser.stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import Dialect, Message, Negotiated
    from vhostuser.fds import OwnedFd

__all__ = ["BackendChannel"]

_log = logging.getLogger(__name__)
_MOST_QUEUED = 600
"""Requests that wait: two for each of 256 rings, and some."""
_ANSWER_SECONDS = 60.0
"""How long an answer may take: front-ends look at this channel between their other work."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A request, until it was answered or cannot be."""

    message: Message
    fds: tuple[OwnedFd, ...] = ()
    matters: bool = True
    settled: trio.Event = field(default_factory=trio.Event)
    done: bool = False

    def settle(self, *, done: bool) -> None:
        if not self.settled.is_set():
            self.done = done
            self.settled.set()


class BackendChannel:
    """A socket on which this side asks.

    Args:
        fd: a connected UNIX stream socket; taken over.
        dialect: of the front-end channel.
        negotiated: shared with the front-end channel, which changes it.
        seconds: how long a message may take.
        answer_seconds: how long an answer may take.

    Raises:
        OSError: it is no socket; the fd stays the caller's.
    """

    def __init__(
        self,
        fd: OwnedFd,
        *,
        dialect: Dialect,
        negotiated: Negotiated,
        seconds: float,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        sock = socket.socket(fileno=fd.fileno())
        fd.detach()
        self._stream = MessageStream(trio.socket.from_stdlib_socket(sock), seconds=seconds)
        self._connection = Connection(
            Role.BACK_END, Channel.BACK_END, dialect=dialect, negotiated=negotiated
        )
        self._answer_seconds = answer_seconds
        self._send, self._queue = trio.open_memory_channel[_Asked](_MOST_QUEUED)
        self._posted: set[Message] = set()
        self._current: _Asked | None = None
        self._scope = trio.CancelScope()
        self._closed = trio.Event()

    def post(self, message: Message) -> None:
        """Queue news whose answer does not matter; what waits already is not said twice."""
        if message not in self._posted:
            self._posted.add(message)
            self._enqueue(_Asked(message, matters=False))

    async def ask(self, message: Message, fds: Sequence[OwnedFd] = ()) -> bool:
        """Queue a request and wait until it was done.

        Where acknowledgements were not negotiated, done is what was sent. Cancellable: the request
        is sent all the same, or its duplicates of the fds are closed.

        Args:
            message: what to ask.
            fds: sent along; they stay the caller's.

        Returns:
            Whether the front-end did it; not when it cannot be asked.

        Raises:
            OSError: the host is out of file descriptors.
        """
        asked = _Asked(message, tuple(fd.duplicate() for fd in fds))
        self._enqueue(asked)
        await asked.settled.wait()
        return asked.done

    def _enqueue(self, asked: _Asked) -> None:
        try:
            self._send.send_nowait(asked)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            _log.warning("back-end channel: dropped %s: the front-end does not read", asked.message)
            _drop(asked)

    async def run(self) -> None:
        """Send what is queued, one request after the other, until the channel ends.

        Cancellable; the socket is closed in every case.
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
        async for asked in self._queue:
            self._current = asked
            if not asked.matters:
                self._posted.discard(asked.message)
            try:
                await self._ask(asked)
            except (OSError, ProtocolError) as error:
                _log.warning("back-end channel: cannot send %s: %s", asked.message, error)
            except trio.TooSlowError:
                _log.warning(
                    "back-end channel closed: no answer to %s within %g s",
                    asked.message,
                    self._answer_seconds,
                )
                self._scope.cancel()
            finally:
                self._current = None
                _drop(asked)

    async def _ask(self, asked: _Asked) -> None:
        can_reply = self._connection.negotiated.has(ProtocolFeature.REPLY_ACK)
        need_reply = asked.matters and can_reply
        outgoing = self._connection.request(asked.message, fds=asked.fds, need_reply=need_reply)
        await self._stream.send(outgoing)
        for fd in asked.fds:
            fd.close()
        if not self._connection.pending:
            asked.settle(done=True)
            return
        with trio.fail_after(self._answer_seconds):
            await asked.settled.wait()

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
                answer = self._connection.receive(data, fds)
                begun = answer is None
                if isinstance(answer, Reply):
                    self._answered(answer)
        except (OSError, RemoteProtocolError) as error:
            _log.warning("back-end channel closed: %s", error)

    def _answered(self, answer: Reply) -> None:
        if self._current is not None:
            self._current.settle(done=answer.message == U64(value=0))

    def close(self) -> None:
        """Close the socket and give up what is queued; `run` returns."""
        self._scope.cancel()  # before the rest: nothing may wait on what is closed
        self._send.close()
        while True:
            try:
                _drop(self._queue.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
        self._queue.close()
        self._stream.close()
        self._connection.close()


def _drop(asked: _Asked) -> None:
    """Close what a request still holds, and let whoever waits for it go on."""
    for fd in asked.fds:
        fd.close()
    asked.settle(done=False)
