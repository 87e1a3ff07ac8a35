"""The client's memory for a device that is served: by its file where it has one, else by messages.

Files are read and written, not mapped: a file that its owner cuts short meanwhile then is a short
read, and no SIGBUS. Devices that need speed map the ranges themselves. Specification: vfio-user,
DMA_READ, DMA_WRITE.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, TypeVar

import trio

from protocol.addresses import Iova
from protocol.vfio_user import DmaRead, DmaReadReply, DmaWrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from accel.vfio_user.channel import Channel
    from accel.vfio_user.dma import DmaTable, Piece
    from accel.vfio_user.emulated import DmaRange
    from vhostuser.fds import OwnedFd

__all__ = ["ReachedMemory"]


class ReachedMemory:
    """What a client mapped, as `accel.vfio_user.emulated.ClientMemory` promises it.

    Args:
        table: the ranges.
        channel: where our commands to the client go.
        most: bytes that may travel in one message.
    """

    def __init__(
        self,
        table: DmaTable[DmaRange],
        channel: Callable[[], Channel],
        most: Callable[[], int],
    ) -> None:
        self._table = table
        self._channel = channel
        self._most = most

    async def read(self, address: int, size: int) -> bytes:
        """Read bytes. See `ClientMemory.read`."""
        with self._table.use(address, size, write=False) as pieces:
            return b"".join([await self._read(piece) for piece in pieces])

    async def write(self, address: int, data: bytes) -> None:
        """Write bytes. See `ClientMemory.write`."""
        done = 0
        with self._table.use(address, len(data), write=True) as pieces:
            for piece in pieces:
                await self._write(piece, data[done : done + piece.size])
                done += piece.size

    async def _read(self, piece: Piece[DmaRange]) -> bytes:
        span = piece.span
        if span.fd is not None:
            at = span.offset + piece.offset
            data = await _by_file(span.fd, lambda fd: os.pread(fd, piece.size, at))
            if data is not None and len(data) == piece.size:
                return data
        return await self._read_by_message(span.address + piece.offset, piece.size)

    async def _write(self, piece: Piece[DmaRange], data: bytes) -> None:
        span = piece.span
        if span.fd is not None:
            at = span.offset + piece.offset
            written = await _by_file(span.fd, lambda fd: os.pwrite(fd, data, at))
            if written == len(data):
                return
        await self._write_by_message(span.address + piece.offset, data)

    async def _read_by_message(self, address: int, size: int) -> bytes:
        parts = []
        for done in range(0, size, self._most()):
            count = min(self._most(), size - done)
            reply = await self._channel().call(DmaRead(address=Iova(address + done), count=count))
            assert isinstance(reply.message, DmaReadReply)  # the protocol saw to it
            parts.append(reply.message.data)
        return b"".join(parts)

    async def _write_by_message(self, address: int, data: bytes) -> None:
        for done in range(0, len(data), self._most()):
            part = data[done : done + self._most()]
            await self._channel().call(DmaWrite(address=Iova(address + done), data=part))


_T = TypeVar("_T")


async def _by_file(fd: OwnedFd, access: Callable[[int], _T]) -> _T | None:
    """Access a file; None: it cannot be accessed so."""
    try:
        if _is_in_memory(fd):
            await trio.lowlevel.checkpoint()
            return access(fd.fileno())
        return await trio.to_thread.run_sync(access, fd.fileno())
    except OSError:
        return None


def _is_in_memory(fd: OwnedFd) -> bool:
    """Whether a file is one of memory only, so that it never keeps anybody waiting."""
    try:
        fcntl.fcntl(fd.fileno(), fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True
