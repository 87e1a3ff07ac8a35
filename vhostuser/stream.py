"""Exact reads with file descriptors, and bounded writes, on a connected UNIX socket.

A read never crosses a message boundary: the fds that came with a header then belong to that message
alone (reading greedily glues messages together and loses whose fd it was). Once a message has
begun, the rest must follow within a deadline, and so must the peer's reading of an answer.
Specification: "Communication", ancillary data.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING, cast

import trio

from protocol.vhost_user import RemoteProtocolError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import Outgoing

__all__ = ["MessageStream", "connect_unix", "receive_with_fds", "send_with_fds"]

_MOST_FDS = 253
"""What the kernel passes at most in one message (SCM_MAX_FD); room for all, so that none is cut
off."""
_ANCILLARY_SPACE = socket.CMSG_SPACE(_MOST_FDS * 4)


_BACKLOG_FULL_SECONDS = 0.01


async def connect_unix(path: str | os.PathLike[str]) -> trio.socket.SocketType:
    """Connect to whoever listens at `path`, waiting for a place in their backlog.

    Cancellable. The socket is the caller's.

    Raises:
        OSError: nobody listens there.
    """
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003 - no keyword
        try:
            # Not trio's connect: it takes the answer of a full backlog for a connection under way.
            sock.connect(os.fspath(path))
            await trio.lowlevel.checkpoint()
        except BlockingIOError:
            sock.close()
            await trio.sleep(_BACKLOG_FULL_SECONDS)
        except BaseException:
            sock.close()
            raise
        else:
            return trio.socket.from_stdlib_socket(sock)


async def receive_with_fds(
    sock: trio.socket.SocketType, most: int
) -> tuple[bytes, list[OwnedFd], bool]:
    """Read what is there, or wait for it; nothing is lost by cancellation.

    Args:
        sock: a connected UNIX stream socket.
        most: bytes to read at most.

    Returns:
        The bytes, none at the end of the stream; the fds that came along, which are the caller's;
        and whether those are all that were sent (else there was no room for more here).

    Raises:
        OSError: the connection was reset.
    """
    data, ancillary, flags, _ = await sock.recvmsg(most, _ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = [
        OwnedFd(number)
        for level, kind, payload in ancillary
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
        for number in array.array("i", payload[: len(payload) - len(payload) % 4])
    ]
    return data, fds, not flags & socket.MSG_CTRUNC


async def send_with_fds(
    sock: trio.socket.SocketType, data: bytes, fds: Sequence[OwnedFd] = ()
) -> None:
    """Write all of `data`; the fds ride on its first byte and stay the caller's.

    Cancelled: a part may have been written.

    Raises:
        OSError: the connection is gone.
    """
    numbers = array.array("i", [fd.fileno() for fd in fds])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
    rest = memoryview(data)
    while rest:
        sent = await sock.sendmsg([rest], rights)
        rest, rights = rest[sent:], []


class MessageStream:
    """One connected socket, used by one reader and one writer at a time.

    Args:
        sock: taken over.
        seconds: how long a message that has begun, or an answer, may take.
    """

    def __init__(self, sock: trio.socket.SocketType, *, seconds: float) -> None:
        self._socket = sock
        self._seconds = seconds

    async def receive(self, wanted: int, *, begun: bool) -> tuple[bytes, tuple[OwnedFd, ...]]:
        """Read exactly `wanted` bytes and the fds that ride on the first of them.

        Args:
            wanted: bytes, at least 1.
            begun: whether this continues a message, so that the deadline already runs.

        Returns:
            The bytes and the fds, which are the caller's. Fewer bytes than wanted mean that the
            peer closed the connection.

        Raises:
            RemoteProtocolError: the rest did not come in time, or fds came where none may.
            OSError: the connection was reset.
            Cancelled: fds that came with an unfinished read are closed.
        """
        data, fds = bytearray(), list[OwnedFd]()
        try:
            if not begun:
                await self._receive_some(wanted, data, fds)
            if begun or 0 < len(data) < wanted:
                with trio.fail_after(self._seconds):
                    while len(data) < wanted and await self._receive_some(wanted, data, fds):
                        pass
        except BaseException as error:
            for fd in fds:
                fd.close()
            if isinstance(error, trio.TooSlowError):
                raise RemoteProtocolError(
                    message="header" if not begun else "payload",
                    field="length",
                    value=len(data),
                    rule=f"all {wanted} bytes must follow within {self._seconds:g} s",
                    section="Header",
                ) from None
            raise
        return bytes(data), tuple(fds)

    async def _receive_some(self, wanted: int, data: bytearray, fds: list[OwnedFd]) -> bool:
        """Append what is there to `data` and `fds`, which own it also when this raises.

        Returns:
            False at the end of the stream.
        """
        more, late, whole = await receive_with_fds(self._socket, wanted - len(data))
        fds += late
        if not whole:
            raise RemoteProtocolError(
                message="header",
                field="fds",
                value=f"{len(late)} arrived",
                rule="all must fit: raise the limit of open files (ulimit -n)",
                section="Communication",
            )
        if late and data:
            raise RemoteProtocolError(
                message="header",
                field="fds",
                value=len(late),
                rule="file descriptors come with the first byte of a message",
                section="Communication",
            )
        data += more
        return bool(more)

    async def send(self, outgoing: Outgoing) -> None:
        """Write an answer or a request; its fds stay the caller's.

        Raises:
            RemoteProtocolError: the peer does not read.
            OSError: the connection is gone.
        """
        try:
            with trio.fail_after(self._seconds):
                await send_with_fds(
                    self._socket, outgoing.data, cast("tuple[OwnedFd, ...]", outgoing.fds)
                )
        except trio.TooSlowError:
            raise RemoteProtocolError(
                message="answer",
                field="length",
                value=len(outgoing.data),
                rule=f"the peer must read answers within {self._seconds:g} s",
                section="Communication",
            ) from None

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        self._socket.close()
