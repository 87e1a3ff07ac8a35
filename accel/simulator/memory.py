"""The client's memory as the simulated device reaches it: files that it mapped, nothing else.

The engine works on mapped files. A range that the client gave without one, or not for reading and
writing, is remembered only to say so when a ring lies in it. A device's addresses (IOVA) take the
place of both kinds of address that a memory table knows.
"""

from __future__ import annotations

import errno
import functools
import logging
from typing import TYPE_CHECKING

import trio

from protocol.addresses import Gpa, Uva
from protocol.vhost_user import MemRegion
from vhostuser.errors import RequestError
from vhostuser.memory import MAX_SLOTS, MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from accel.vfio_user import DmaRange
    from vhostuser.datapath import SoftwareDatapath
    from vhostuser.memory import MemoryChange

__all__ = ["DeviceMemory"]

_log = logging.getLogger(__name__)
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENODEV})
"""What mapping a file says that cannot be written, or not be mapped at all."""


class DeviceMemory:
    """What the client has mapped. Close it when the device is served no longer.

    Args:
        datapath: whose rings use it.
    """

    def __init__(self, datapath: SoftwareDatapath) -> None:
        self._datapath = datapath
        self._table = MemoryTable()
        self._regions: dict[DmaRange, MemRegion] = {}
        self._without: dict[DmaRange, str] = {}

    async def map(self, dma: DmaRange) -> None:
        """Map a range for the rings. Not cancellable.

        Raises:
            OSError: its file is shorter than it should be, or the host refuses more mappings.
        """
        why = _not_for_rings(dma)
        if why is not None:
            self._without[dma] = why
            return
        if len(self._regions) >= MAX_SLOTS:
            raise OSError(errno.ENOSPC, f"more than {MAX_SLOTS} ranges with a file")
        region = MemRegion(
            gpa=Gpa(dma.address), size=dma.size, uva=Uva(dma.address), offset=dma.offset
        )
        assert dma.fd is not None  # see _not_for_rings
        try:
            await self._change(functools.partial(self._table.prepare_add, region, dma.fd))
        except RequestError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            self._without[dma] = "whose file cannot be mapped for writing"
            return
        self._regions[dma] = region

    async def unmap(self, dma: DmaRange) -> None:
        """Forget a range; when this returns no ring uses it any more. Not cancellable."""
        self._without.pop(dma, None)
        region = self._regions.pop(dma, None)
        if region is not None:
            await self._change(functools.partial(self._table.prepare_remove, region))

    async def _change(self, prepare: Callable[[], MemoryChange]) -> None:
        """Prepare, commit, release: mapping and unmapping happen in a thread."""
        with trio.CancelScope(shield=True):
            change = await trio.to_thread.run_sync(prepare)
            await self._datapath.commit_memory(change.snapshot)
            change.commit()
            await trio.to_thread.run_sync(change.release)

    def reaches(self, address: int, size: int) -> bool:
        """Whether rings can use `size` bytes at an address."""
        return any(
            dma.address <= address and address + size <= dma.address + dma.size
            for dma in self._regions
        )

    def explain(self, address: int) -> str:
        """Say why rings cannot use an address: it is not in mapped memory."""
        for dma, why in self._without.items():
            if dma.address <= address < dma.address + dma.size:
                return f"{address:#x} is in memory {why}: the simulator serves only rings in files"
        return f"{address:#x} is not in memory that the client mapped for this device"

    async def close(self) -> None:
        """Unmap everything; every queue has stopped. Not cancellable."""
        with trio.CancelScope(shield=True):
            self._regions.clear()
            self._without.clear()
            await trio.to_thread.run_sync(self._table.close)


def _not_for_rings(dma: DmaRange) -> str | None:
    """Return in words why rings cannot be in a range; None: they can."""
    if dma.fd is None:
        return "that the client mapped without a file"
    if not (dma.readable and dma.writable):
        return "that the client did not map for both reading and writing"
    return None
