"""Offers the notify areas of started rings to the front-end, and takes them back.

Nothing on the front-end's channel waits for any of it: each offer is a task of its own, and as long
as one is not accepted kicks are relayed. One request is under way at a time, and what is no longer
true when its turn comes is not asked.
"""

from __future__ import annotations

import logging
import mmap
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import VringVfioGroup, missing_features
from vhostuser.session import AreaEvent, AreaState, Handover, area_message

if TYPE_CHECKING:
    from protocol.vhost_user import Message
    from vhostuser.datapath import Datapath, NotifyArea
    from vhostuser.fds import OwnedFd
    from vhostuser.server.channel import BackendChannel
    from vhostuser.session import Session

__all__ = ["AreaOffers"]

_log = logging.getLogger(__name__)


class AreaOffers:
    """The notify areas of one session.

    Args:
        session: whose rings, and what was negotiated.
        datapath: has the areas.
        nursery: in which offers are made.
        page_size: the host's, bytes.
    """

    def __init__(
        self,
        session: Session,
        datapath: Datapath,
        nursery: trio.Nursery,
        *,
        page_size: int = mmap.PAGESIZE,
    ) -> None:
        self._dialect = session.connection.dialect
        self._negotiated = session.connection.negotiated
        self._datapath = datapath
        self._nursery = nursery
        self._page_size = page_size
        now = trio.current_time()
        self._rings = [Handover(self._dialect, now) for _ in session.state.vrings]
        self._channel: BackendChannel | None = None
        self._grouped: set[int] = set()
        self._turn = trio.Lock()
        self._open = True

    @property
    def states(self) -> tuple[AreaState, ...]:
        """How far each ring's area has come."""
        return tuple(ring.state for ring in self._rings)

    @property
    def _takes_areas(self) -> bool:
        """Whether it was negotiated that areas may be offered."""
        row = self._dialect.row_of(type(area_message(self._dialect, 0)))
        return row is not None and not missing_features(row, self._negotiated)

    def use_channel(self, channel: BackendChannel) -> None:
        """Ask on this channel from now on, also for rings that were started before."""
        self._channel = channel
        for index, ring in enumerate(self._rings):
            if ring.state is AreaState.WANTED:
                self._nursery.start_soon(self._offer, index, ring.number)

    def started(self, index: int) -> None:
        """Offer the area of a ring that was just started, as soon as it may be."""
        ring = self._rings[index]
        ring.apply(AreaEvent.START, trio.current_time())
        if ring.state is AreaState.WANTED and self._channel is not None:
            self._nursery.start_soon(self._offer, index, ring.number)

    def stopped(self, index: int) -> None:
        """Note that a ring was stopped: the front-end takes its area off by itself."""
        self._rings[index].apply(AreaEvent.STOP, trio.current_time())

    def end(self, index: int) -> None:
        """Take a ring's area back: writing to it leads nowhere."""
        if self._rings[index].apply(AreaEvent.END, trio.current_time()) and self._open:
            self._nursery.start_soon(self._take_back, index)

    def close(self) -> None:
        """Ask nothing any more: the front-end leaves, and takes its areas along."""
        self._open = False

    async def _take_back(self, index: int) -> None:
        async with self._turn:
            if not await self._ask(area_message(self._dialect, index, no_fd=True)):
                _log.warning(
                    "ring %d: the front-end does not give its notify area back: what it writes "
                    "there is lost; if the guest hangs, restart it",
                    index,
                )
            self._take_group_back(index)
        await self._datapath.look(index)  # for kicks that went to the area until now

    async def _offer(self, index: int, number: int) -> None:
        ring = self._rings[index]
        try:
            while ring.number == number:
                await trio.sleep_until(ring.due)
                async with self._turn:
                    if ring.number != number:
                        return
                    if trio.current_time() >= ring.due:
                        await self._try(index, number)
                        return
        except OSError as error:
            _log.warning("ring %d: kicks are relayed, no notify area: %s", index, error)

    async def _try(self, index: int, number: int) -> None:
        ring = self._rings[index]
        if not self._takes_areas:
            ring.apply(AreaEvent.REFUSE, trio.current_time())
            return
        area = await self._datapath.notify_area(index, self._page_size)
        if area is None or ring.number != number:
            if area is not None:
                area.fd.close()
            elif ring.number == number:
                ring.apply(AreaEvent.REFUSE, trio.current_time())
            return
        with area.fd:
            await self._offer_group(index)
            if ring.number == number:
                await self._hand_over(index, number, area)

    async def _hand_over(self, index: int, number: int, area: NotifyArea) -> None:
        """Send the offer."""
        ring = self._rings[index]
        ring.apply(AreaEvent.OFFER, trio.current_time())
        message = area_message(self._dialect, index, size=area.size, offset=area.offset)
        accepted = await self._ask(message, area.fd)
        if ring.number != number:
            if accepted:  # before the stop, or after: that one knows only the front-end
                await self._ask(area_message(self._dialect, index, no_fd=True))
                ring.linger(trio.current_time())
            return
        event = AreaEvent.ACCEPT if accepted else AreaEvent.REFUSE
        ring.apply(event, trio.current_time())
        if accepted:
            _log.info("ring %d: the driver rings the accelerator's doorbell itself", index)
        else:
            _log.info("ring %d: the front-end does not take the notify area", index)
        await self._datapath.look(index)  # a kick may have been lost in the switch

    async def _offer_group(self, index: int) -> None:
        """In the RFC dialects: name the VFIO group of the ring's device, where it is in one."""
        if self._dialect.row_of(VringVfioGroup) is None:
            return
        group = self._datapath.group()
        if group is not None:
            self._grouped.add(index)
            with group:
                await self._ask(VringVfioGroup(index=index), group)

    def _take_group_back(self, index: int) -> None:
        """Say that no device of a VFIO group serves a ring any more, where one was named."""
        if index in self._grouped and self._channel is not None:
            self._grouped.remove(index)
            self._channel.post(VringVfioGroup(index=index, no_fd=True))

    async def _ask(self, message: Message, *fds: OwnedFd) -> bool:
        """Ask the front-end; whether it did what was asked, as far as it says."""
        return self._channel is not None and await self._channel.ask(message, fds)
