"""A virtio-blk driver on driver queues: reads, writes and the other requests, as async methods.

Buffers are taken from guest memory for each request; requests may run at once, on several queues in
turn.
Specification: VIRTIO 1.2 §5.2.6.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio import (
    BLK_HEADER_SIZE,
    BLK_ID_SIZE,
    BLK_SECTOR_SIZE,
    BlkFeatures,
    BlkHeader,
    BlkRequest,
    BlkSegment,
    BlkStatus,
    VirtioFeatures,
)
from vhostuser.frontend.errors import BlockError, RingError
from vhostuser.frontend.parts import allocate, free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.frontend.queue import DriverQueue

__all__ = ["BLK_DRIVER_FEATURES", "BlockDriver", "BlockResult"]

BLK_DRIVER_FEATURES = VirtioFeatures(
    BlkFeatures.SEG_MAX
    | BlkFeatures.RO
    | BlkFeatures.BLK_SIZE
    | BlkFeatures.FLUSH
    | BlkFeatures.TOPOLOGY
    | BlkFeatures.MQ
    | BlkFeatures.DISCARD
    | BlkFeatures.WRITE_ZEROES
)
"""Block features that this driver understands: negotiate them beside the transport's."""

_UNMAP = 1
_UNWRITTEN = 0xFF  # no status: what the status byte holds until the device writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """How a request ended, as the device says.

    Attributes:
        status: the status byte; 0 is OK, 0xFF means that the device wrote none.
        written: the used length: bytes that the device wrote, the status byte included.
        data: what was received, if anything.
    """

    status: int
    written: int
    data: bytes


class BlockDriver:
    """The driver of one disk. All queues must share one guest memory.

    Cancelling a request leaves its buffers with the device until it gives them back.

    Args:
        queues: running rings; requests take them in turn.
        indirect: whether to use indirect descriptors; the queues must have tables of 4 entries or
            more.
    """

    def __init__(self, queues: Sequence[DriverQueue], *, indirect: bool = False) -> None:
        self.queues = tuple(queues)
        self._memory = self.queues[0].memory
        self._turn = itertools.cycle(self.queues)
        self._indirect = indirect

    async def read(self, sector: int, length: int, *, queue: DriverQueue | None = None) -> bytes:
        """Read `length` bytes, a multiple of 512, from `sector` on.

        Args:
            sector: first sector.
            length: bytes.
            queue: which ring to use; None: the next one in turn.

        Raises:
            BlockError: the device answered an error.
            RingError: the ring has failed, or the used length is not what a read writes.
            MemoryError: guest memory is full.
        """
        what = f"read of {length} bytes at sector {sector}"
        result = await self.execute(BlkRequest.IN, sector, receive=length, queue=queue)
        return _checked(what, result, length)

    async def write(self, sector: int, data: bytes, *, queue: DriverQueue | None = None) -> None:
        """Write `data`, a multiple of 512 bytes, from `sector` on. Raises as `read`."""
        what = f"write of {len(data)} bytes at sector {sector}"
        _checked(what, await self.execute(BlkRequest.OUT, sector, send=data, queue=queue))

    async def flush(self, *, queue: DriverQueue | None = None) -> None:
        """Wait until all that was written is on stable storage. Raises as `read`."""
        _checked("flush", await self.execute(BlkRequest.FLUSH, 0, queue=queue))

    async def get_id(self, *, queue: DriverQueue | None = None) -> str:
        """Return the disk's serial number. Raises as `read`."""
        result = await self.execute(BlkRequest.GET_ID, 0, receive=BLK_ID_SIZE, queue=queue)
        return _checked("get id", result, BLK_ID_SIZE).rstrip(b"\0").decode("ascii", "replace")

    async def discard(self, sector: int, sectors: int, *, queue: DriverQueue | None = None) -> None:
        """Give `sectors` sectors back to the host: what they hold then is undefined.

        Raises as `read`.
        """
        segment = bytes(BlkSegment(sector=sector, num_sectors=sectors))
        what = f"discard of {sectors} sectors at sector {sector}"
        _checked(what, await self.execute(BlkRequest.DISCARD, 0, send=segment, queue=queue))

    async def write_zeroes(
        self, sector: int, sectors: int, *, unmap: bool = False, queue: DriverQueue | None = None
    ) -> None:
        """Make `sectors` sectors read as zero; `unmap`: the host may give up their room.

        Raises as `read`.
        """
        flags = _UNMAP if unmap else 0
        segment = bytes(BlkSegment(sector=sector, num_sectors=sectors, flags=flags))
        what = f"zeroing of {sectors} sectors at sector {sector}"
        result = await self.execute(BlkRequest.WRITE_ZEROES, 0, send=segment, queue=queue)
        _checked(what, result)

    async def execute(
        self,
        kind: int,
        sector: int,
        *,
        send: bytes = b"",
        receive: int = 0,
        queue: DriverQueue | None = None,
    ) -> BlockResult:
        """Carry out any request, legal or not, and return how it ended.

        Args:
            kind: request type.
            sector: first sector.
            send: data for the device, after the header.
            receive: bytes of data that the device may write.
            queue: which ring to use; None: the next one in turn.

        Raises:
            RingError: the ring has failed.
            MemoryError: guest memory is full.
        """
        memory = self._memory
        sizes = (BLK_HEADER_SIZE, receive + 1, *([len(send)] if send else []))
        parts = allocate(memory, sizes, alignment=BLK_SECTOR_SIZE)
        if send:
            memory.write(parts[2].gpa, send)
        memory.write(parts[0].gpa, bytes(BlkHeader(type=kind, sector=sector)))
        received, status = parts[1].part(0, receive), parts[1].part(receive, 1)
        memory.write(status.gpa, bytes([_UNWRITTEN]))
        written = await (queue or next(self._turn)).lend(
            [parts[0], *parts[2:]],
            [received, status] if receive else [status],
            lambda: free(memory, parts),
            indirect=self._indirect,
        )
        result = BlockResult(
            status=memory.read(status.gpa, 1)[0],
            written=written,
            data=memory.read(received.gpa, receive),
        )
        free(memory, parts)
        return result


def _checked(what: str, result: BlockResult, length: int = 0) -> bytes:
    """Return a good request's data.

    Raises:
        BlockError: the status is not OK.
        RingError: the used length is not that of `length` bytes and the status.
    """
    if result.status != BlkStatus.OK:
        raise BlockError(what, result.status)
    if result.written != length + 1:
        raise RingError(f"{what}: used length {result.written}, not {length + 1}")
    return result.data
