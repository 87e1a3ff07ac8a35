"""The client's side of DMA: memory that was given to a device, and its reading and writing it.

The server asks only for memory that it cannot, or does not want to, map by itself. Nothing outside
what was given is ever touched. Specification: vfio-user, DMA_READ, DMA_WRITE.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.native import ffi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accel.vfio_user.channel import Channel
    from accel.vfio_user.dma import DmaTable, Piece

__all__ = ["GivenMemory", "serve_dma"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenMemory:
    """A range that the device may reach.

    Attributes:
        address: of its first byte for the device.
        size: bytes.
        hva: where it is mapped here, as long as it is in the table.
        readable: whether the device may read it.
        writable: whether the device may write it.
    """

    address: int
    size: int
    hva: int
    readable: bool = True
    writable: bool = True


async def serve_dma(channel: Channel, table: DmaTable[GivenMemory]) -> None:
    """Answer the server's commands until nothing comes any more.

    Args:
        channel: where they come from.
        table: what was given.
    """
    while (command := await channel.commands.get()) is not None:
        try:
            if isinstance(command, wire.Rejected):
                await channel.refuse(command)
                continue
            try:
                answer = await _carry_out(command.message, table)
            except AcceleratorError as error:
                _log.warning("%s refused: %s", command.row.name, error.strerror)
                await channel.refuse(command, error.errno or errno.EIO)
            else:
                await channel.answer(command, answer)
        except AcceleratorError:  # the server is gone
            return


async def _carry_out(message: wire.Message, table: DmaTable[GivenMemory]) -> wire.Message:
    # In threads: whoever owns the memory's file may keep those waiting who touch it.
    match message:
        case wire.DmaRead():
            with table.use(message.address, message.count, write=False) as pieces:
                data = await trio.to_thread.run_sync(_load, pieces)
            return wire.DmaReadReply(address=message.address, data=data)
        case wire.DmaWrite():
            with table.use(message.address, message.count, write=True) as pieces:
                await trio.to_thread.run_sync(_store, pieces, message.data)
            return wire.DmaWriteReply(address=message.address, count=message.count)
        case _:
            raise AcceleratorError("only DMA is served here", errno.EINVAL)


def _load(pieces: Sequence[Piece[GivenMemory]]) -> bytes:
    return b"".join(_view(piece.span.hva + piece.offset, piece.size)[:] for piece in pieces)


def _store(pieces: Sequence[Piece[GivenMemory]], data: bytes) -> None:
    done = 0
    for piece in pieces:
        part = data[done : done + piece.size]
        _view(piece.span.hva + piece.offset, piece.size)[:] = part
        done += piece.size


def _view(hva: int, size: int) -> ffi.buffer:
    return ffi.buffer(ffi.cast("char *", hva), size)
