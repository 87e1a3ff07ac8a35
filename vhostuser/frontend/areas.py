"""The object table of notify areas: one a queue, offered and taken back by the back-end.

An offer is checked whole before anything happens, and one that fails leaves the area of before in
place. While a queue has an area its kicks are stores into it; at each switch between area and kick
fd one kick goes by the fd, so that none is lost. Areas are no guest memory: they are in no memory
table, in no dirty log and in no dump. Specification: VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG,
and the RFC's VRING_NOTIFY_AREA.
"""

from __future__ import annotations

import errno
import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import trio

from vhostuser.errors import RequestError
from vhostuser.frontend.area_map import identify_file, map_pages
from vhostuser.frontend.area_rules import require_area

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from protocol.vhost_user import VringHostNotifier, VringNotifyArea
    from vhostuser.fds import OwnedFd
    from vhostuser.frontend.area_map import FileIdentity, MappedPages
    from vhostuser.frontend.queue import DriverQueue

__all__ = ["AreaState", "NotifyAreas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaState:
    """A queue's notify area, as it is shown.

    Attributes:
        index: the queue.
        offset: bytes from the start of its file.
        size: bytes.
        mapped: whether it is mapped and the queue's kicks go there.
    """

    index: int
    offset: int
    size: int
    mapped: bool


@dataclass(slots=True, eq=False)
class _Area:
    """An area that was accepted; the fd is there only where it may be mapped again."""

    offset: int
    size: int
    file: FileIdentity
    fd: OwnedFd | None
    pages: MappedPages | None

    def close(self) -> None:
        """Unmap before the file is let go of: a device's file lives as long as its mappings."""
        if self.pages is not None:
            self.pages.close()
        if self.fd is not None:
            self.fd.close()


@final
class _Doorbell:
    """What a queue rings: a page, and whom to tell when it is there no more."""

    def __init__(self, pages: MappedPages, lost: Callable[[], None]) -> None:
        self._pages = pages
        self._lost = lost

    def ring(self, index: int) -> bool:
        """Store the queue's index; False: nobody sees it, kick in another way."""
        self._pages.store(index)
        if self._pages.lost:
            self._lost()
            return False
        return True


@dataclass(slots=True)
class _Slot:
    """What is known of one queue."""

    live: bool = False  # an area may be mapped now
    area: _Area | None = None
    changed: trio.Event = field(default_factory=trio.Event)


class NotifyAreas:
    """The areas by queue. Its coroutines are called one at a time; queues ring in between.

    Args:
        queues: rings that exist, by index.
        persistent: whether an area outlives the stop of its ring, to be mapped again at its next
            start (the RFC dialects), or ends with it.
        page_size: the host's, bytes.
        is_guest_memory: tells files that may not be an area.
    """

    def __init__(
        self,
        queues: Mapping[int, DriverQueue],
        *,
        persistent: bool,
        page_size: int = mmap.PAGESIZE,
        is_guest_memory: Callable[[FileIdentity], bool] = lambda _: False,
    ) -> None:
        self._queues = queues
        self.persistent = persistent
        self.page_size = page_size
        self._is_guest_memory = is_guest_memory
        self._slots: dict[int, _Slot] = {}
        self._lost: list[_Area] = []

    # Looking

    def mapped(self, index: int) -> bool:
        """Whether a queue's kicks go to an area now."""
        area = self._slot(index).area
        return area is not None and area.pages is not None

    def address(self, index: int) -> int | None:
        """Where a queue's area is mapped in this process, until it changes; None: nowhere."""
        area = self._slot(index).area
        return None if area is None or area.pages is None else area.pages.address

    def __getitem__(self, index: int) -> AreaState | None:
        """Return the area of a queue; None: it has none."""
        area = self._slot(index).area
        if area is None:
            return None
        return AreaState(
            index=index, offset=area.offset, size=area.size, mapped=area.pages is not None
        )

    def shown(self) -> tuple[AreaState, ...]:
        """Return all areas, by queue."""
        found = (self[index] for index in sorted(self._slots))
        return tuple(each for each in found if each is not None)

    def holds(self, file: FileIdentity) -> bool:
        """Whether a file is an area's, and hence must not be guest memory."""
        areas = (slot.area for slot in self._slots.values())
        return any(area is not None and area.file == file for area in areas)

    async def changed(self, index: int) -> None:
        """Wait until a queue's area is mapped, unmapped or replaced next. Cancellable."""
        await self._slot(index).changed.wait()

    async def wait_mapped(self, index: int) -> None:
        """Wait until a queue's kicks go to an area. Cancellable."""
        while not self.mapped(index):
            await self.changed(index)

    async def wait_unmapped(self, index: int) -> None:
        """Wait until a queue's kicks go by its kick fd. Cancellable."""
        while self.mapped(index):
            await self.changed(index)

    # What the back-end asks for

    async def offer(self, message: VringHostNotifier | VringNotifyArea, fd: OwnedFd) -> None:
        """Map an area in place of the one that the queue has. Not cancellable.

        Args:
            message: where it is.
            fd: what to map; taken over.

        Raises:
            OSError: it cannot be used; the queue keeps the area that it has.
        """
        with trio.CancelScope(shield=True):
            await self._let_go(())
            try:
                area = await self._accept(message, fd)
            except OSError:
                await _in_thread(fd.close)
                raise
            slot = self._slot(message.index)
            old, slot.area = slot.area, area
            self._switch(message.index)
            await self._let_go([old] if old else ())

    async def _accept(self, message: VringHostNotifier | VringNotifyArea, fd: OwnedFd) -> _Area:
        slot = self._slot(message.index)
        if not (slot.live or self.persistent):
            raise RequestError(
                errno.EBUSY,
                "an area is offered while its ring runs: after SET_VRING_KICK, and again each time",
                field="index",
                value=message.index,
            )
        require_area(message, self.page_size)
        file = await trio.to_thread.run_sync(identify_file, fd)
        if self._is_guest_memory(file):
            raise RequestError(
                errno.EINVAL, "an area is not in guest memory", field="fd", value="guest memory"
            )
        # Also where it is not used yet: what is acknowledged can be mapped.
        pages = await trio.to_thread.run_sync(map_pages, fd, message.offset, message.size)
        area = _Area(message.offset, message.size, file, fd, pages)
        if not slot.live:
            await self._unmap(area)
        if not self.persistent:
            area.fd = None
            await _in_thread(fd.close)
        return area

    async def remove(self, index: int) -> None:
        """Take a queue's area from it; nothing happens if it has none. Not cancellable."""
        await self._let_go(self._taken([index]))

    # What the front-end does

    async def ring_starts(self, index: int) -> None:
        """From now on a queue may have an area: map again the one that it kept. Not cancellable."""
        slot = self._slot(index)
        slot.live = True
        area = slot.area
        if area is None or area.pages is not None or area.fd is None:
            return
        with trio.CancelScope(shield=True):
            try:
                area.pages = await trio.to_thread.run_sync(
                    map_pages, area.fd, area.offset, area.size
                )
            except OSError:
                # Its file is not what it was. The kick fd serves, as it did before the offer.
                await self._let_go(self._taken([index]))
                return
            self._switch(index)

    async def ring_stops(self, index: int) -> None:
        """Store no more into a queue's area. Not cancellable."""
        slot = self._slot(index)
        slot.live = False
        if not self.persistent:
            await self.remove(index)
        elif slot.area is not None and slot.area.pages is not None:
            await self._unmap(slot.area, index)

    async def all_rings_stop(self) -> None:
        """Do for every queue what `ring_stops` does: the device is reset. Not cancellable."""
        for index in list(self._slots):
            await self.ring_stops(index)

    async def clear(self) -> None:
        """Take every queue's area from it. Not cancellable."""
        await self._let_go(self._taken(list(self._slots)))

    def attach(self, index: int) -> None:
        """Have a queue ring what it has now, and once by its kick fd."""
        area, queue = self._slot(index).area, self._queues.get(index)
        pages = area.pages if area else None
        if queue is not None:
            bell = None if pages is None else _Doorbell(pages, lambda: self._on_lost(index))
            queue.switch_doorbell(bell)

    # How it is done

    def _slot(self, index: int) -> _Slot:
        return self._slots.setdefault(index, _Slot())

    def _taken(self, indexes: Iterable[int]) -> list[_Area]:
        """Take areas out of the table; no queue rings them any more."""
        areas = []
        for index in indexes:
            slot = self._slot(index)
            area, slot.area = slot.area, None
            if area is not None:
                areas.append(area)
                self._switch(index)
        return areas

    def _switch(self, index: int) -> None:
        self.attach(index)
        slot = self._slot(index)
        changed, slot.changed = slot.changed, trio.Event()
        changed.set()

    def _on_lost(self, index: int) -> None:
        """Do without an area whose file was truncated; it is closed where waiting is allowed."""
        self._lost += self._taken([index])

    async def _unmap(self, area: _Area, index: int | None = None) -> None:
        pages, area.pages = area.pages, None
        if index is not None:
            self._switch(index)
        if pages is not None:
            await _in_thread(pages.close)

    async def _let_go(self, areas: Iterable[_Area]) -> None:
        gone, self._lost = [*self._lost, *areas], []
        for area in gone:
            await _in_thread(area.close)


async def _in_thread(close: Callable[[], None]) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close)
