"""A front-end without manners: sends any bytes with any fds, and tells what came back.

For tests of how a back-end bears bad input. What a good front-end does is in `vhostuser.frontend`.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vhost_user import Outgoing
from vhostuser.stream import MessageStream, connect_unix

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Sequence

    import trio

    from vhostuser.fds import OwnedFd

__all__ = ["NEED_REPLY", "VERSION", "RawFrontend", "RawReply", "raw_message"]

HEADER = struct.Struct("=III")
VERSION = 0x1
NEED_REPLY = 0x8
"""Flag bits of a header."""


@dataclass(frozen=True, slots=True)
class RawReply:
    """A message as it came; nothing about it was checked.

    Attributes:
        number: of the message.
        flags: as in the header.
        payload: as many bytes as the header said.
        fds: how many came with it; they were closed.
    """

    number: int
    flags: int
    payload: bytes
    fds: int

    @property
    def value(self) -> int:
        """The payload as one number in native byte order, whatever its length."""
        return int.from_bytes(self.payload, "little")


def raw_message(
    number: int, payload: bytes = b"", *, flags: int = VERSION, size: int | None = None
) -> bytes:
    """Build a message without asking whether it is legal.

    Args:
        number: of the message.
        payload: its bytes.
        flags: header flags.
        size: what the header says of the payload's length; None: the truth.
    """
    return HEADER.pack(number, flags, len(payload) if size is None else size) + payload


class RawFrontend:
    """A socket to a back-end.

    Args:
        sock: connected; owned by this object from now on.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self._stream = MessageStream(sock, seconds=math.inf)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, path: str | os.PathLike[str]) -> AsyncIterator[RawFrontend]:
        """Connect to a back-end that listens at `path`; disconnect at the end of the block.

        Raises:
            OSError: nobody listens there.
        """
        with await connect_unix(path) as sock:
            yield cls(sock)

    async def send(self, data: bytes, fds: Sequence[OwnedFd] = ()) -> None:
        """Send bytes, the fds with the first of them; the fds stay the caller's.

        Raises:
            OSError: the back-end closed the connection.
        """
        await self._stream.send(Outgoing(data=data, fds=tuple(fds)))

    async def message(
        self,
        number: int,
        payload: bytes = b"",
        *,
        flags: int = VERSION,
        size: int | None = None,
        fds: Sequence[OwnedFd] = (),
    ) -> None:
        """Send a message, see `raw_message`. Raises as `send`."""
        await self.send(raw_message(number, payload, flags=flags, size=size), fds)

    async def ask(
        self,
        number: int,
        payload: bytes = b"",
        *,
        flags: int = VERSION | NEED_REPLY,
        fds: Sequence[OwnedFd] = (),
    ) -> RawReply | None:
        """Send a message and wait for what comes back, see `reply`."""
        try:
            await self.message(number, payload, flags=flags, fds=fds)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return await self.reply()

    async def reply(self) -> RawReply | None:
        """Read one message; None when the back-end closed the connection."""
        try:
            header, fds = await self._stream.receive(HEADER.size, begun=False)
            for fd in fds:
                fd.close()
            if len(header) < HEADER.size:
                return None
            number, flags, size = HEADER.unpack(header)
            payload, _ = await self._stream.receive(size, begun=True) if size else (b"", ())
        except ConnectionResetError:
            return None
        return RawReply(number, flags, payload, len(fds))

    async def wait_closed(self) -> None:
        """Read until the back-end closes the connection; what it still says is thrown away."""
        with contextlib.suppress(ConnectionResetError):
            while await self.sock.recv(65536):
                pass

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close at once."""
        self.sock.close()
