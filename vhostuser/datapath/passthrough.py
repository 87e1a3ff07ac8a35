"""The passthrough data path: the accelerator works on the guest's rings, in the guest's memory.

A kick of the driver reaches the device through a thread that relays it, or directly, once the
driver has the device's notify area; an interrupt goes from the device to the driver's call fd. Both
ways may be used at once, so no switch between them loses anything. What the accelerator cannot do,
or no longer does, the software does, ring by ring, where it reaches the same store.

One operation is under way at a time; each has its own deadline in the driver.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING

import trio

from vhostuser.datapath.accelerator import AcceleratorNews, QueueAddresses
from vhostuser.datapath.device_memory import DeviceMemory
from vhostuser.datapath.device_run import DeviceRun
from vhostuser.datapath.interface import Capabilities, RingFd, StopMode
from vhostuser.datapath.passed_ring import PassedRing, RingPlace
from vhostuser.datapath.planner import Choice, Situation, Way, choose, take_over
from vhostuser.datapath.relay import Relay
from vhostuser.datapath.ring_areas import find_areas, require_areas
from vhostuser.errors import AcceleratorError, RequestError
from vhostuser.memory import Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath.accelerator import Accelerator, NotifyArea
    from vhostuser.datapath.interface import Datapath, DatapathEvents, RingStart, RingStatistics
    from vhostuser.fds import OwnedFd
    from vhostuser.virtqueue import RingState

__all__ = ["PassthroughDatapath", "Software"]

_log = logging.getLogger(__name__)
_DRIVER_OK = 4


class Software:
    """A software data path that reaches the accelerator's store.

    Args:
        datapath: serves as many rings as the accelerator.
        features: virtio features that it understands.
    """

    def __init__(self, datapath: Datapath, features: VirtioFeatures) -> None:
        self.datapath = datapath
        self.features = features


class PassthroughDatapath:
    """Rings that an accelerator serves. Make it with `async with PassthroughDatapath.open(...)`.

    Attributes:
        gone: set when a session has ended and no reset mends a device that has failed.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        relay: Relay,
        software: Software | None,
        queues: int,
        nursery: trio.Nursery,
    ) -> None:
        self._accelerator = accelerator
        self._software = software
        self._memory = DeviceMemory(accelerator)
        self._lock = trio.Lock()
        self._events: DatapathEvents | None = None
        self._rings = [PassedRing(index, accelerator, relay, nursery) for index in range(queues)]
        self.gone = trio.Event()
        self._life = DeviceRun(accelerator, self._memory, self._rings, self, nursery)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, accelerator: Accelerator, *, queues: int, software: Software | None = None
    ) -> AsyncIterator[PassthroughDatapath]:
        """Hand rings to an accelerator for the length of the block.

        Args:
            accelerator: a device that was reset; it must outlive the block.
            queues: rings to serve, the first ones of the device.
            software: serves what the accelerator cannot; it must outlive the block.

        Raises:
            OSError: the host is out of threads or file descriptors.
        """
        relay = Relay()
        try:
            async with trio.open_nursery() as nursery:
                datapath = cls(accelerator, relay, software, queues, nursery)
                nursery.start_soon(datapath._watch)
                try:
                    yield datapath
                finally:
                    await datapath.leave()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(relay.close)

    @property
    def capabilities(self) -> Capabilities:
        """What this data path can do."""
        own = self._accelerator.capabilities
        return Capabilities(
            start_at_state=own.start_at_state or self._software is not None,
            report_state=own.report_state,
            keeps_files=True,
        )

    def report_to(self, events: DatapathEvents) -> None:
        """Pass news on to `events`. See `Datapath.report_to`."""
        self._events = events
        if self._software is not None:
            self._software.datapath.report_to(events)

    # Memory

    async def prepare_memory(self, snapshot: Snapshot) -> None:
        """Let the device reach what is new. See `Datapath.prepare_memory`."""
        async with self._lock:
            if self._software is not None:
                await self._software.datapath.prepare_memory(snapshot)
            if not self._life.failed:
                busy = any(ring.on_device for ring in self._rings)
                await self._memory.prepare(snapshot, busy=busy)

    async def commit_memory(self, snapshot: Snapshot) -> None:
        """Take away what is gone, and fail rings that lie there. See `Datapath.commit_memory`."""
        async with self._lock:
            if self._software is not None:
                await self._software.datapath.commit_memory(snapshot)
            for ring in self._rings:
                await self._move(ring, snapshot)
            await self._memory.commit(snapshot)

    async def _move(self, ring: PassedRing, snapshot: Snapshot) -> None:
        """See to it that a passed ring is still there in a new table."""
        if ring.start is None or ring.place is None:
            return
        place = _place(snapshot, ring.start)
        if place is None or place.addresses != ring.place.addresses:
            await self.give_up(ring, "the memory table no longer holds the ring itself")
        ring.place = place

    async def release_memory(self, snapshot: Snapshot) -> None:
        """Forget a snapshot that another has replaced. See `Datapath.release_memory`."""
        if self._software is not None:
            await self._software.datapath.release_memory(snapshot)

    # Rings

    def _require_place(self, start: RingStart) -> RingPlace:
        """Find a ring in the table. Raises RequestError: it does not lie inside guest memory."""
        snapshot = self._memory.snapshot
        if snapshot is not None:
            place = _place(snapshot, start)
            if place is not None:
                return place
        require_areas(start, snapshot, Snapshot.uva_to_gpa)
        raise AssertionError("what has no place was refused")

    def _situation(self, index: int, *, kicked: bool = True) -> Situation:
        return Situation(
            capabilities=self._accelerator.capabilities,
            features=self._accelerator.features,
            largest=self._accelerator.queue_sizes[index],
            failed=self._life.failed,
            software=None if self._software is None else self._software.features,
            kicked=kicked,
            position_known=self._rings[index].position_known,
        )

    async def start_queue(self, index: int, start: RingStart, kick: OwnedFd | None) -> None:
        """Start ring `index`. See `Datapath.start_queue`."""
        async with self._lock:
            ring = self._rings[index]
            choice = choose(start, self._situation(index, kicked=kick is not None))
            if choice.way is Way.REFUSAL:
                raise RequestError(errno.ENOTSUP, choice.reason, field="index", value=index)
            if choice.way is Way.PASSTHROUGH:
                ring.place = self._require_place(start)
            else:
                _log.warning("ring %d is served by the software: %s", index, choice.reason)
            ring.begin(start, choice.way, kick)
            try:
                if ring.enabled:
                    await self._run(ring)
            except BaseException:
                await self._stop(ring, StopMode.ABANDON)
                raise

    async def _run(self, ring: PassedRing) -> None:
        """Have a started, enabled ring served."""
        assert ring.start is not None
        if ring.way is Way.SOFTWARE:
            await self._run_software(ring, ring.start)
        else:
            await self._life.put(ring)

    async def _run_software(self, ring: PassedRing, start: RingStart) -> None:
        assert self._software is not None  # or the planner would have refused
        datapath = self._software.datapath
        for which in (RingFd.CALL, RingFd.ERR):
            await datapath.set_fd(ring.index, which, ring.duplicate(which))
        await datapath.set_enabled(ring.index, enabled=True)
        await datapath.start_queue(ring.index, start, ring.duplicate(RingFd.KICK))
        ring.in_software = True

    async def set_status(self, status: int) -> None:
        """Let the device run when the driver says so. See `Datapath.set_status`."""
        if status & _DRIVER_OK:
            await self.on_driver_ok()

    async def on_driver_ok(self) -> None:
        """Let the device run. See `Losses.on_driver_ok`."""
        async with self._lock:
            await self._life.driver_ok()

    async def stop_queue(self, index: int, how: StopMode) -> RingState:
        """Stop ring `index`; return its position. See `Datapath.stop_queue`."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                state = await self._stop(self._rings[index], how)
        return state

    async def _stop(self, ring: PassedRing, how: StopMode) -> RingState:
        if ring.in_software and self._software is not None:
            ring.in_software = False
            told: RingState | None = await self._software.datapath.stop_queue(ring.index, how)
        else:
            told = await ring.take_off_device(drain=how is StopMode.DRAIN)
        await self._life.reset_if_idle()  # what the device has done is final then
        state = told or ring.find_position()
        await ring.end()
        return state

    async def set_enabled(self, index: int, *, enabled: bool) -> None:
        """Let a started ring be served, or leave it alone. See `Datapath.set_enabled`.

        A device that cannot stop a single ring goes on with it; only its kicks are held back.
        """
        async with self._lock:
            ring = self._rings[index]
            ring.enabled, before = enabled, ring.enabled
            if ring.start is None or enabled == before:
                return
            if ring.in_software and self._software is not None:
                await self._software.datapath.set_enabled(index, enabled=enabled)
            elif enabled:
                await self._enable(ring)
            elif ring.on_device:
                await ring.pause()

    async def _enable(self, ring: PassedRing) -> None:
        """Have a started ring served; one that cannot be is as it was before."""
        try:
            await self._run(ring)
        except BaseException:
            ring.enabled = False
            if ring.on_device and await ring.take_off_device(drain=False) is None:
                await self._life.reset_if_idle()
                ring.find_position()
            raise

    async def set_fd(self, index: int, which: RingFd, fd: OwnedFd | None) -> None:
        """Take over a ring's fd. See `Datapath.set_fd`."""
        async with self._lock:
            ring = self._rings[index]
            await ring.set_fd(which, fd)
            if ring.in_software and self._software is not None:
                await self._software.datapath.set_fd(index, which, ring.duplicate(which))

    async def notify_area(self, index: int, page_size: int) -> NotifyArea | None:
        """Return the device's own notify area. See `Datapath.notify_area`."""
        async with self._lock:
            ring = self._rings[index]
            if ring.start is None or ring.broken or ring.way is not Way.PASSTHROUGH:
                return None
            try:
                return await self._accelerator.notify_area(index, page_size)
            except AcceleratorError as error:
                _log.info("kicks of ring %d are relayed: %s", index, error.strerror)
                return None

    def group(self) -> OwnedFd | None:
        """Return a duplicate of the device's VFIO group. See `Datapath.group`."""
        return self._accelerator.group()

    async def look(self, index: int) -> None:
        """Look at a ring once. See `Datapath.look`."""
        async with self._lock:
            ring = self._rings[index]
            if ring.in_software and self._software is not None:
                await self._software.datapath.look(index)
            else:
                ring.look()

    async def leave(self) -> None:
        """Reset the device and take the session's memory away. See `Datapath.leave`."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                for ring in self._rings:
                    await ring.abandon()
                await self._life.reset_if_idle()
                if self._life.failed:
                    self.gone.set()
                await self._memory.clear()
                if self._software is not None:
                    await self._software.datapath.leave()

    def statistics(self) -> tuple[RingStatistics, ...]:
        """One entry a ring; of those on the device only the relayed kicks are known."""
        software = self._software.datapath.statistics() if self._software is not None else ()
        return tuple(
            software[ring.index] if ring.in_software and software else ring.statistics()
            for ring in self._rings
        )

    # Failure

    async def _watch(self) -> None:
        while True:
            news = await self._accelerator.news()
            if news is AcceleratorNews.CONFIG_CHANGED:
                if self._events is not None:
                    self._events.config_changed()
                continue
            resets = self._life.resets
            with trio.CancelScope(shield=True):
                async with self._lock:
                    if resets == self._life.resets:  # else it was mended meanwhile
                        idle = not any(ring.on_device for ring in self._rings)
                        await self._life.fail("it is gone, or needs a reset")
                        if idle:
                            await self._life.reset_if_idle()

    async def lost(self, ring: PassedRing, still: str) -> None:
        """Let the software go on with a ring of the device, or give it up. See `Losses.lost`."""
        assert ring.start is not None
        used, idle = ring.used_position()
        choice = take_over(ring.start, self._situation(ring.index), used=used, idle=idle)
        if still:
            choice = Choice(Way.REFUSAL, f"it may still work on the ring: {still}")
        if choice.way is not Way.SOFTWARE or used is None:
            await self.give_up(ring, f"the accelerator failed: {choice.reason}")
            return
        await ring.lose_device()
        self._end_area(ring, "the software takes over")
        ring.restart(used, Way.SOFTWARE)
        try:
            await self._run_software(ring, ring.start)
        except OSError as error:
            await self.give_up(ring, f"the software cannot take over: {error}")
        else:
            await ring.signal_call()  # an interrupt of the device may have been lost
            _log.warning("ring %d: the software goes on at %d", ring.index, used.avail)

    async def give_up(self, ring: PassedRing, reason: str) -> None:
        """Break a ring. See `Losses.give_up`."""
        if ring.on_device:
            known = None if self._life.failed else await ring.take_off_device(drain=False)
            if known is None:
                ring.find_position()
        await ring.lose_device()
        ring.broken = True
        self._end_area(ring, reason)
        if self._events is not None:
            self._events.ring_failed(ring.index, reason)
        await ring.signal_error()

    def _end_area(self, ring: PassedRing, reason: str) -> None:
        if self._events is not None:
            self._events.area_ended(ring.index, reason)


def _place(snapshot: Snapshot, start: RingStart) -> RingPlace | None:
    """Find a ring's areas; None unless each lies in one region."""
    gpas = find_areas(start, snapshot.uva_to_gpa)
    hvas = find_areas(start, snapshot.uva_to_hva)
    if gpas is None or hvas is None:
        return None
    desc, driver, device = gpas
    return RingPlace(
        addresses=QueueAddresses(num=start.num, desc=desc, driver=driver, device=device),
        desc_hva=hvas[0],
        driver_hva=hvas[1],
        device_hva=hvas[2],
    )
