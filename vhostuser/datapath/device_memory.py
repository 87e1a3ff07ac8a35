"""What an accelerator can reach of the guest's memory: kept as the memory table is.

The table keeps a region as it is mapped when a front-end sends it again, so that the device does
not lose what it works on. Where other memory comes to an address that the device knows, the old
mapping goes first, which only an idle device allows.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from protocol.vhost_user import MemRegion
    from vhostuser.datapath.accelerator import Accelerator
    from vhostuser.memory import MappedRegion, Snapshot

__all__ = ["DeviceMemory"]


_log = logging.getLogger(__name__)


def _overlap(one: MemRegion, other: MemRegion) -> bool:
    """Whether both have a guest address in common."""
    return one.gpa < other.gpa + other.size and other.gpa < one.gpa + one.size


class DeviceMemory:
    """The regions that an accelerator has mapped.

    Args:
        accelerator: whose.

    Attributes:
        snapshot: the table that the device works with; None before the first.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._mapped: list[MappedRegion] = []
        self.snapshot: Snapshot | None = None

    async def prepare(self, snapshot: Snapshot, *, busy: bool) -> None:
        """Map what is new.

        Args:
            snapshot: the table to come.
            busy: whether the device serves rings now.

        Raises:
            OSError: the device cannot reach a region; nothing has changed.
        """
        new = [mapped for mapped in snapshot.mapped if mapped not in self._mapped]
        in_the_way = [
            old for old in self._mapped if any(_overlap(old.region, one.region) for one in new)
        ]
        if in_the_way and busy:
            raise RequestError(
                errno.EBUSY,
                "other memory cannot come to this place while the accelerator serves rings",
                field="gpa",
                value=f"{in_the_way[0].region.gpa:#x}",
            )
        async with contextlib.AsyncExitStack() as undo:
            for mapped in in_the_way:
                await self._unmap(mapped)
                undo.push_async_callback(self._map, mapped)
            for mapped in new:
                await self._map(mapped)
                undo.push_async_callback(self._unmap, mapped)
            undo.pop_all()

    async def _map(self, mapped: MappedRegion) -> None:
        await self._accelerator.map(mapped)
        self._mapped.append(mapped)

    async def _unmap(self, mapped: MappedRegion) -> None:
        self._mapped.remove(mapped)
        try:
            await self._accelerator.unmap(mapped)
        except OSError as error:  # a device that is gone reaches nothing
            _log.warning("the region at %#x was not unmapped: %s", mapped.region.gpa, error)

    async def complete(self) -> None:
        """Map what could not be mapped while the device was out of use.

        Raises:
            OSError: as `prepare`.
        """
        if self.snapshot is not None:
            await self.prepare(self.snapshot, busy=False)

    async def commit(self, snapshot: Snapshot) -> None:
        """Unmap what is gone; when this returns the device cannot reach it."""
        for mapped in [known for known in self._mapped if known not in snapshot.mapped]:
            await self._unmap(mapped)
        self.snapshot = snapshot

    async def clear(self) -> None:
        """Unmap everything."""
        self.snapshot = None
        for mapped in list(self._mapped):
            await self._unmap(mapped)
