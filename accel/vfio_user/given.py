"""The client's side of DMA: memory that was given to a device, and its reading and writing it.

The server asks only for memory that it cannot, or does not want to, map by itself. Nothing outside
what was given is ever touched. Specification: vfio-user, DMA_READ, DMA_WRITE.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.native import ffi

if TYPE_CHECKING:
    from accel.vfio_user.channel import Channel
    from accel.vfio_user.dma import DmaTable

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
                answer = _carry_out(command.message, table)
            except AcceleratorError as error:
                _log.warning("%s refused: %s", command.row.name, error.strerror)
                await channel.refuse(command, error.errno or errno.EIO)
            else:
                await channel.answer(command, answer)
        except AcceleratorError:  # the server is gone
            return


def _carry_out(message: wire.Message, table: DmaTable[GivenMemory]) -> wire.Message:
    match message:
        case wire.DmaRead():
            with table.use(message.address, message.count, write=False) as pieces:
                parts = [_view(p.span.hva + p.offset, p.size)[:] for p in pieces]
            return wire.DmaReadReply(address=message.address, data=b"".join(parts))
        case wire.DmaWrite():
            done = 0
            with table.use(message.address, message.count, write=True) as pieces:
                for p in pieces:
                    _view(p.span.hva + p.offset, p.size)[:] = message.data[done : done + p.size]
                    done += p.size
            return wire.DmaWriteReply(address=message.address, count=message.count)
        case _:
            raise AcceleratorError("only DMA is served here", errno.EINVAL)


def _view(hva: int, size: int) -> ffi.buffer:
    return ffi.buffer(ffi.cast("char *", hva), size)
