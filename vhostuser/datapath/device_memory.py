"""What an accelerator can reach of the guest's memory: kept as the memory table is.

A region is new to the device only if it is other memory: front-ends send whole tables again when
one region was added, and the device must not lose what it works on. Where other memory comes to an
address that the device knows, the old mapping goes first, which only an idle device allows.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from vhostuser.datapath.accelerator import Accelerator
    from vhostuser.memory import MappedRegion, Snapshot

__all__ = ["DeviceMemory"]


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Identity:
    """Which memory, and where the device finds it."""

    gpa: int
    size: int
    file: tuple[int, int]
    offset: int

    def overlaps(self, other: _Identity) -> bool:
        """Whether both have an address in common."""
        return self.gpa < other.gpa + other.size and other.gpa < self.gpa + self.size


def _identify(mapped: MappedRegion) -> _Identity:
    assert mapped.fd is not None  # the table keeps files for a data path that says so
    status = os.fstat(mapped.fd.fileno())
    region = mapped.region
    return _Identity(region.gpa, region.size, (status.st_dev, status.st_ino), region.offset)


class DeviceMemory:
    """The regions that an accelerator has mapped.

    Args:
        accelerator: whose.

    Attributes:
        snapshot: the table that the device works with; None before the first.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._mapped: dict[_Identity, MappedRegion] = {}
        self.snapshot: Snapshot | None = None

    async def prepare(self, snapshot: Snapshot, *, busy: bool) -> None:
        """Map what is new.

        Args:
            snapshot: the table to come.
            busy: whether the device serves rings now.

        Raises:
            OSError: the device cannot reach a region; nothing has changed.
        """
        wanted = {_identify(mapped): mapped for mapped in snapshot.mapped}
        new = {known: wanted[known] for known in wanted if known not in self._mapped}
        in_the_way = [
            old for old in self._mapped if any(old.overlaps(identity) for identity in new)
        ]
        if in_the_way and busy:
            raise RequestError(
                errno.EBUSY,
                "other memory cannot come to this place while the accelerator serves rings",
                field="gpa",
                value=f"{in_the_way[0].gpa:#x}",
            )
        async with contextlib.AsyncExitStack() as undo:
            for identity in in_the_way:
                mapped = self._mapped[identity]
                await self._unmap(identity)
                undo.push_async_callback(self._map, identity, mapped)
            for identity, mapped in new.items():
                await self._map(identity, mapped)
                undo.push_async_callback(self._unmap, identity)
            undo.pop_all()

    async def _map(self, identity: _Identity, mapped: MappedRegion) -> None:
        await self._accelerator.map(mapped)
        self._mapped[identity] = mapped

    async def _unmap(self, identity: _Identity) -> None:
        mapped = self._mapped.pop(identity)
        try:
            await self._accelerator.unmap(mapped)
        except OSError as error:  # a device that is gone reaches nothing
            _log.warning("the region at %#x was not unmapped: %s", identity.gpa, error)

    async def complete(self) -> None:
        """Map what could not be mapped while the device was out of use.

        Raises:
            OSError: as `prepare`.
        """
        if self.snapshot is not None:
            await self.prepare(self.snapshot, busy=False)

    async def commit(self, snapshot: Snapshot) -> None:
        """Unmap what is gone; when this returns the device cannot reach it."""
        wanted = {_identify(mapped): mapped for mapped in snapshot.mapped}
        for identity in [known for known in self._mapped if known not in wanted]:
            await self._unmap(identity)
        # The same memory, but mapped and opened anew: the old file and mapping end soon.
        self._mapped.update((known, wanted[known]) for known in self._mapped)
        self.snapshot = snapshot

    async def clear(self) -> None:
        """Unmap everything."""
        self.snapshot = None
        for identity in list(self._mapped):
            await self._unmap(identity)
