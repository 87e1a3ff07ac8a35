"""One end of a connection, whichever: our commands and the peer's, on the same socket at once.

A reader task takes in whatever comes and never waits for anything but room; answers go to whoever
waits for them, the peer's commands into a backlog that somebody else works off. Only one task at a
time writes, and what it has begun it finishes: half a message would put the peer out of step.
Specification: vfio-user, "Header".
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, cast

import trio

from accel.vfio_user.backlog import Backlog
from protocol.vfio_user import LocalProtocolError, Rejected, Reply, Request
from vhostuser.errors import AcceleratorError
from vhostuser.stream import receive_with_fds, send_with_fds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.messages import Message
    from protocol.vfio_user import Connection, Event, Outgoing
    from vhostuser.fds import OwnedFd

__all__ = ["Channel", "refusal"]

_log = logging.getLogger(__name__)
_READ_SIZE = 64 << 10


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command of ours that waits for its answer."""

    id: int | None = None
    answered: trio.Event = field(default_factory=trio.Event)
    reply: Reply | None = None

    def drop(self) -> None:
        """Close what came with an answer that came too late."""
        for fd in self.reply.fds if self.reply is not None else ():
            fd.close()


class Channel:
    """A socket and the protocol connection that speaks over it; `run` must be running. Close it.

    Args:
        sock: a connected UNIX stream socket; taken over.
        connection: the protocol's side, either role.
        peer: who is at the other end, for messages to people.
        seconds: how long an answer, or the peer's reading of a message, may take.

    Attributes:
        commands: of the peer, in order.
        ended: why nothing comes any more; None: it still may.
    """

    def __init__(
        self, sock: trio.socket.SocketType, connection: Connection, *, peer: str, seconds: float
    ) -> None:
        self.connection = connection
        self.commands = Backlog["Request | Rejected"]()
        self.ended: str | None = None
        self._socket = sock
        self._peer = peer
        self._seconds = seconds
        self._over = trio.Event()
        self._writing = trio.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._room = select.poll()
        self._room.register(sock.fileno(), select.POLLOUT)

    # Reading

    async def run(self) -> None:
        """Read until the peer closes the connection or breaks the protocol for good."""
        try:
            while self.ended is None:
                await self._room_for_more()
                data, fds, whole = await receive_with_fds(self._socket, _READ_SIZE)
                fatal = self._take(data, fds, whole=whole)
                if fatal is not None:
                    _log.warning("%s broke the protocol: %s", self._peer, fatal.error)
                    with contextlib.suppress(AcceleratorError):
                        await self.refuse(fatal)
                    self.end(f"{self._peer} broke the protocol: {fatal.error}")
        except OSError as error:
            self.end(f"{self._peer} is gone: {error.strerror or error}")
        except trio.ClosedResourceError:
            self.end("the connection was closed here")

    async def _room_for_more(self) -> None:
        while self.commands.busy and not self._waiting and self.ended is None:
            await self.commands.changed()

    def _take(self, data: bytes, fds: list[OwnedFd], *, whole: bool) -> Rejected | None:
        """Take in what was read; return what makes it impossible to go on."""
        fatal = None
        if not whole:
            for fd in fds:
                fd.close()
            self.end("file descriptors were lost: raise the limit of open files (ulimit -n)")
        elif not data:
            unfinished = self.connection.receive_eof()
            where = "" if unfinished is None else " in the middle of a message"
            self.end(f"{self._peer} closed the connection{where}")
        else:
            fatal = self._dispatch(self.connection.receive(data, fds))
            if self.commands.full:
                self.end(f"{self._peer} sends commands, but answers none")
        return fatal

    def _dispatch(self, events: Sequence[Event]) -> Rejected | None:
        for event in events:
            if isinstance(event, Reply):
                waiting = self._waiting.pop(event.id)
                waiting.reply = event
                waiting.answered.set()
            elif isinstance(event, Request):
                self.commands.put(event, event.size)
            elif event.fatal:
                return event
            else:
                _log.warning("%s broke the protocol: %s", self._peer, event.error)
                self.commands.put(event, 0)
        return None

    def end(self, reason: str) -> None:
        """Note that nothing comes any more; whoever waits for an answer is told.

        Args:
            reason: for people.
        """
        if self.ended is not None:
            return
        self.ended = reason
        self._over.set()
        for waiting in self._waiting.values():
            waiting.answered.set()
        self.commands.finish()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def wait_ended(self) -> str:
        """Wait until nothing comes any more; return why. Cancellable."""
        await self._over.wait()
        assert self.ended is not None  # set together
        return self.ended

    # Our commands

    async def call(self, message: Message, fds: Sequence[OwnedFd] = ()) -> Reply:
        """Send a command; return the answer, whose fds are the caller's.

        Cancellable: the peer may carry it out all the same; its answer is dropped.

        Args:
            message: what to ask.
            fds: sent along; they stay the caller's.

        Raises:
            AcceleratorError: the peer refused, is gone, did not answer in time (ETIMEDOUT), or
                takes no such message (EINVAL).
        """
        name = type(message).__name__
        waiting = _Waiting()
        try:
            with trio.fail_after(self._seconds):
                await self._begin(message, fds, waiting)
                await waiting.answered.wait()
        except BaseException as error:
            waiting.drop()
            if isinstance(error, trio.TooSlowError):
                raise AcceleratorError(
                    f"{self._peer} did not answer {name} within {self._seconds:g} s",
                    errno.ETIMEDOUT,
                ) from None
            raise
        finally:
            self._forget(waiting)
        reply = waiting.reply
        if reply is None:
            raise AcceleratorError(self.ended or "the connection is over", errno.ENODEV)
        if reply.error is not None:
            raise refusal(self._peer, name, reply.error)
        return reply

    async def post(self, message: Message) -> None:
        """Send a command that is not answered: whether it was carried out is not known.

        Cancellable: then it was not sent.

        Raises: as `call`.
        """
        try:
            with trio.fail_after(self._seconds):
                await self._begin(message, (), None)
        except trio.TooSlowError:
            raise AcceleratorError(
                f"{self._peer} reads nothing within {self._seconds:g} s", errno.ETIMEDOUT
            ) from None

    async def _begin(
        self, message: Message, fds: Sequence[OwnedFd], waiting: _Waiting | None
    ) -> None:
        await self._my_turn()
        try:
            # Not made before it can be sent: it would count as one that will be answered.
            await self._writable()
            try:
                outgoing = self.connection.request(
                    message, fds=tuple(fds), no_reply=waiting is None
                )
            except LocalProtocolError as error:
                raise AcceleratorError(
                    f"{self._peer} cannot be asked: {error}", errno.EINVAL
                ) from error
            if waiting is not None:
                waiting.id = outgoing.id
                self._waiting[outgoing.id] = waiting
                self.commands.wake()
            await self._send(outgoing)
        finally:
            self._writing.release()

    def _forget(self, waiting: _Waiting) -> None:
        if waiting.id is not None and self._waiting.pop(waiting.id, None) is not None:
            self.connection.forget(waiting.id)

    # The peer's commands

    async def answer(
        self, request: Request, message: Message | None = None, fds: Sequence[OwnedFd] = ()
    ) -> None:
        """Answer a command, if it is to be answered.

        Args:
            request: the command.
            message: the answer's payload, where it has one.
            fds: sent along; they stay the caller's.

        Raises:
            AcceleratorError: the peer is gone.
        """
        await self._send_in_turn(self.connection.reply(request, message, fds=tuple(fds)))

    async def refuse(self, request: Request | Rejected, number: int = errno.EIO) -> None:
        """Answer a command with an errno, if it is to be answered.

        Args:
            request: the command; one that was rejected knows its answer.
            number: the errno, for another.

        Raises:
            AcceleratorError: the peer is gone.
        """
        if isinstance(request, Rejected):
            await self._send_in_turn(request.answer)
        else:
            await self._send_in_turn(self.connection.refuse(request, number))

    async def _send_in_turn(self, outgoing: Outgoing | None) -> None:
        if outgoing is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(self._seconds) as scope:
            await self._my_turn()
            try:
                await self._writable()
                await self._send(outgoing)
            finally:
                self._writing.release()
        if scope.cancelled_caught:
            self._reads_nothing()

    # Writing

    async def _my_turn(self) -> None:
        """Wait until nobody else writes; where nobody does, let no other task run before."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()

    async def _writable(self) -> None:
        if self.ended is not None:
            raise AcceleratorError(self.ended, errno.ENODEV)
        if not self._room.poll(0):
            await trio.lowlevel.wait_writable(self._socket)

    async def _send(self, outgoing: Outgoing) -> None:
        fds = cast("tuple[OwnedFd, ...]", outgoing.fds)
        deadline = trio.current_time() + self._seconds
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                await send_with_fds(self._socket, outgoing.data, fds)
            except OSError as error:
                self.end(f"{self._peer} is gone: {error.strerror or error}")
                raise AcceleratorError(self.ended or "", errno.ENODEV) from error
        if scope.cancelled_caught:
            self._reads_nothing()

    def _reads_nothing(self) -> NoReturn:
        self.end(f"{self._peer} did not read a message within {self._seconds:g} s")
        raise AcceleratorError(self.ended or "", errno.ENODEV)

    def close(self) -> None:
        """Close the socket, and what was received and not used."""
        self.end("the connection was closed here")
        self.commands.close()
        self.connection.close()
        self._socket.close()


def refusal(peer: str, name: str, number: int) -> AcceleratorError:
    """Say that a peer refused a command.

    Args:
        peer: who, for people.
        name: of the command.
        number: the errno that it gave; 0: none.
    """
    if not number:
        return AcceleratorError(f"{peer} refused {name} without a reason")
    return AcceleratorError(f"{peer} refused {name}: {os.strerror(number)}", number)
