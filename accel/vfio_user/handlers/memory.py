"""The commands that give memory to the device and take it away.

Specification: vfio-user, DMA_MAP, DMA_UNMAP.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import trio

from accel.vfio_user.emulated import DmaRange
from accel.vfio_user.served import Answer, Served
from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.fds import FdKind, kind_of

if TYPE_CHECKING:
    from vhostuser.fds import OwnedFd

_log = logging.getLogger(__name__)


async def map_(served: Served, message: wire.DmaMap, fds: list[OwnedFd]) -> Answer:
    """Let the device reach memory."""
    fd = fds[0] if fds else None
    if fd is not None:
        await trio.to_thread.run_sync(_require_file, fd, message.offset + message.size)
    dma = DmaRange(
        address=message.address,
        size=message.size,
        readable=bool(message.flags & wire.DmaFlags.READ),
        writable=bool(message.flags & wire.DmaFlags.WRITE),
        fd=fd,
        offset=message.offset,
    )
    served.table.add(dma)
    try:
        with trio.CancelScope(shield=True):
            await served.device.map(dma)
    except BaseException:
        served.table.discard(dma)
        raise
    fds.clear()
    if fd is None:
        _log.debug("%#x bytes at %#x have no file: only messages reach them", dma.size, dma.address)
    return Answer()


async def unmap(served: Served, message: wire.DmaUnmap, _: list[OwnedFd]) -> Answer:
    """Take memory away from the device."""
    ranges: list[tuple[int, int]] = [(message.address, message.size)]
    if message.everything:
        ranges = [(dma.address, dma.size) for dma in served.table]
    for address, size in ranges:
        await _unmap_one(served, address, size)
    return Answer(
        wire.DmaUnmapReply(
            argsz=message.argsz,
            flags=message.flags,
            address=message.address,
            size=message.size,
        )
    )


async def _unmap_one(served: Served, address: int, size: int) -> None:
    dma = await served.table.drain(address, size)
    with trio.CancelScope(shield=True):
        await served.device.unmap(dma)
        served.table.discard(dma)
        if dma.fd is not None:
            # The last one to close a file of memory frees it, which takes a while.
            await trio.to_thread.run_sync(dma.fd.close)


async def unmap_all(served: Served) -> None:
    """Take all memory away, when the client has left and nothing uses it any more."""
    for dma in served.table:
        await _unmap_one(served, dma.address, dma.size)


def _require_file(fd: OwnedFd, end: int) -> None:
    if kind_of(fd) is not FdKind.FILE:
        raise AcceleratorError(
            f"memory comes in a file or memfd, not in a {kind_of(fd).value}", errno.EINVAL
        )
    size = os.fstat(fd.fileno()).st_size
    if end > size:
        raise AcceleratorError(
            f"the range ends at {end:#x} of its file, which has {size:#x} bytes", errno.EINVAL
        )
