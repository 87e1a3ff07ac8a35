"""The software data path: the engine's threads serve the rings on mapped guest memory.

Python writes what it wants of a queue, the engine publishes what is and signals one eventfd; both
are levels, so a change can be repeated or overtaken without harm. No request passes through here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Self, TypeAlias

import trio

from vhostuser.datapath.interface import (
    Capabilities,
    RingActual,
    RingFd,
    RingStart,
    RingStatistics,
    StopMode,
)
from vhostuser.datapath.ring_areas import find_areas, require_areas
from vhostuser.datapath.workers import IO_ENGINES, WorkerOptions, Workers
from vhostuser.errors import RequestError
from vhostuser.memory import Snapshot
from vhostuser.native import check, ffi, lib
from vhostuser.virtqueue import Fault, RingState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vhostuser.datapath.accelerator import NotifyArea
    from vhostuser.datapath.interface import DatapathEvents
    from vhostuser.fds import OwnedFd
    from vhostuser.native import Pointer

__all__ = [
    "ENGINE_FAULTS",
    "IO_ENGINES",
    "QueueMaker",
    "SoftwareDatapath",
    "WorkerOptions",
    "Workers",
]

QueueMaker: TypeAlias = "Callable[[Pointer, int, int], Pointer]"
"""Makes the engine's `struct vhu_queue` of a ring from a worker, the ring's index and an eventfd
that tells of a changed status."""


def _in_turn(index: int) -> int:
    """Place a ring: they take turns."""
    return index


_FAULTS = {
    "stuck-queue": lib.VHU_MISCHIEF_STUCK,
    "lost-interrupt": lib.VHU_MISCHIEF_LOST_CALLS,
    "wrong-used-id": lib.VHU_MISCHIEF_WRONG_IDS,
}
ENGINE_FAULTS = tuple(_FAULTS)
"""How a ring can be made to misbehave, see `SoftwareDatapath.set_fault`."""

_ACTUAL = {
    lib.VHU_QUEUE_STOPPED: RingActual.STOPPED,
    lib.VHU_QUEUE_RUNNING: RingActual.RUNNING,
    lib.VHU_QUEUE_STOPPING: RingActual.STOPPING,
    lib.VHU_QUEUE_BROKEN: RingActual.BROKEN,
}
_STOP = {StopMode.DRAIN: lib.VHU_STOP_DRAIN, StopMode.ABANDON: lib.VHU_STOP_ABANDON}
_FD = {RingFd.KICK: lib.VHU_FD_KICK, RingFd.CALL: lib.VHU_FD_CALL, RingFd.ERR: lib.VHU_FD_ERR}
_INTERRUPT_SECONDS = 0.1
"""How long a worker may take over a change before it is looked upon as held up by a peer's fd."""


class _Queue:
    """One engine queue and what is wanted of it."""

    def __init__(self, native: Pointer) -> None:
        self.native = native
        self.wanted = ffi.new("struct vhu_queue_wanted *")
        self.start: RingStart | None = None
        self.starts = 0
        self.reported = 0

    def want(self) -> int:
        """Hand the wanted state to the engine; return the number under which it will be applied."""
        return int(lib.vhu_queue_want(self.native, self.wanted))

    def status(self) -> Pointer:
        """Copy the engine's status."""
        status = ffi.new("struct vhu_queue_status *")
        lib.vhu_queue_status(self.native, status)
        return status

    def set_fd(self, which: RingFd, fd: OwnedFd | None) -> None:
        """Hand a ring's fd to the engine."""
        number = -1 if fd is None else fd.detach()
        check(lib.vhu_queue_set_fd(self.native, _FD[which], number), f"use the {which.value} fd")


class SoftwareDatapath:
    """Rings served by engine threads.

    Make it with `async with SoftwareDatapath.open(...)`; threads it started end with the block.
    """

    def __init__(
        self,
        make: QueueMaker,
        queues: int,
        workers: WorkerOptions | Workers,
        place: Callable[[int], int],
    ) -> None:
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._changed = trio.Event()
        self._look: Callable[[], None] | None = None
        self._watching = trio.CancelScope(shield=True)
        self._events: DatapathEvents | None = None
        self._snapshot: Snapshot | None = None
        self._queues: list[_Queue] = []
        self._owned: Workers | None = None
        try:
            if isinstance(workers, WorkerOptions):
                workers = self._owned = Workers(workers, min(workers.count, queues))
            self._workers = workers
            for index in range(queues):
                native = make(workers.at(place(index)), index, self._event_fd)
                self._queues.append(_Queue(native))
        except BaseException:
            self._destroy()
            raise

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        make: QueueMaker,
        *,
        queues: int,
        workers: WorkerOptions | Workers,
        place: Callable[[int], int] = _in_turn,
    ) -> AsyncIterator[Self]:
        """Serve the rings of a device for the length of the block.

        Args:
            make: makes the engine's queue of a ring; what that uses must outlive the block.
            queues: rings to serve.
            workers: the threads that serve them: to be started, or running and the caller's.
            place: which of them serves a ring, counted modulo their number.

        Raises:
            OSError: the host is out of threads, memory or file descriptors, or refuses io_uring
                where it is asked for.
        """
        datapath = cls(make, queues, workers, place)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(datapath._watch)
                try:
                    yield datapath
                finally:
                    if datapath._owned is None:
                        await datapath.leave()  # these threads go on
                    datapath._watching.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(datapath._destroy)

    def _destroy(self) -> None:
        if self._owned is not None:
            self._owned.stop()
        for queue in self._queues:
            lib.vhu_queue_destroy(queue.native)
        if self._owned is not None:
            self._owned.close()
        os.close(self._event_fd)

    @property
    def capabilities(self) -> Capabilities:
        """What this datapath can do."""
        return Capabilities(start_at_state=True, report_state=True)

    @property
    def started(self) -> bool:
        """Whether any ring is between its start and its stop."""
        return any(queue.start is not None for queue in self._queues)

    @property
    def io(self) -> str:
        """How requests wait for the store: `io_uring` or `threads`."""
        return self._workers.io

    def report_to(self, events: DatapathEvents) -> None:
        """Pass news on to `events`. See `Datapath.report_to`."""
        self._events = events

    def config_changed(self) -> None:
        """Pass on that the device's configuration space changed. See `DatapathEvents`."""
        if self._events is not None:
            self._events.config_changed()

    def on_change(self, look: Callable[[], None]) -> None:
        """Have `look` called on the trio thread whenever the engine has published something."""
        self._look = look

    async def _watch(self) -> None:
        """Take up what the engine publishes, for as long as the datapath is open.

        Shielded: who stops a ring while everything else is being cancelled waits for it.
        """
        with self._watching:
            while True:
                await trio.lowlevel.wait_readable(self._event_fd)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event_fd)
                changed, self._changed = self._changed, trio.Event()
                changed.set()
                for queue in self._queues:
                    self._report_fault(queue)
                if self._look is not None:
                    self._look()

    def _report_fault(self, queue: _Queue) -> None:
        status = queue.status()
        if status.actual == lib.VHU_QUEUE_BROKEN and queue.reported != queue.starts:
            queue.reported = queue.starts
            if self._events is not None:
                index = self._queues.index(queue)
                fault = Fault(int(status.fault))
                self._events.ring_broken(index, fault, int(status.fault_value))

    async def _applied(self, queue: _Queue, number: int) -> Pointer:
        """Wait until the engine did what was wanted; return the status that says so."""
        with trio.CancelScope(shield=True):
            while True:
                changed = self._changed
                status = queue.status()
                if status.applied >= number:
                    return status
                with trio.move_on_after(_INTERRUPT_SECONDS) as patience:
                    await changed.wait()
                if patience.cancelled_caught:
                    lib.vhu_queue_interrupt(queue.native)

    async def prepare_memory(self, snapshot: Snapshot) -> None:
        """Do nothing: threads use mapped memory as it is. See `Datapath.prepare_memory`."""

    async def release_memory(self, snapshot: Snapshot) -> None:
        """Do nothing: its last user has gone with the commit. See `Datapath.release_memory`."""

    async def commit_memory(self, snapshot: Snapshot) -> None:
        """Move every ring to `snapshot`. See `Datapath.commit_memory`."""
        self._snapshot = snapshot
        waiting = []
        for queue in self._queues:
            if queue.start is not None:
                # the engine breaks a ring that is nowhere
                areas = find_areas(queue.start, snapshot.uva_to_hva)
                self._place(queue, areas or (0, 0, 0))
                waiting.append((queue, queue.want()))
        for queue, number in waiting:
            await self._applied(queue, number)

    def _place(self, queue: _Queue, addresses: tuple[int, ...]) -> None:
        config = queue.wanted.config
        config.desc, config.driver, config.device = (ffi.cast("void *", hva) for hva in addresses)
        queue.wanted.mem = self._snapshot.native if self._snapshot else ffi.NULL

    async def start_queue(self, index: int, start: RingStart, kick: OwnedFd | None) -> None:
        """Start ring `index`. See `Datapath.start_queue`."""
        queue = self._queues[index]
        addresses = require_areas(start, self._snapshot, Snapshot.uva_to_hva)
        state = start.state
        self._place(queue, addresses)
        config = queue.wanted.config
        config.features = int(start.features)
        config.num = start.num
        config.state = (state.avail, state.used, state.avail_wrap, state.used_wrap)
        queue.starts += 1
        queue.wanted.start = queue.starts
        queue.set_fd(RingFd.KICK, kick)
        queue.start = start
        queue.reported = queue.starts  # what goes wrong until here is the caller's news
        status = await self._applied(queue, queue.want())
        if status.actual == lib.VHU_QUEUE_BROKEN and status.fault == lib.VHU_FAULT_RING_ADDRESS:
            await self.stop_queue(index, StopMode.ABANDON)
            raise RequestError(
                errno.EINVAL,
                f"a position that a ring of {start.num} descriptors with used index "
                f"{status.state.used} can have, and areas aligned for its layout",
                field="base",
                value=state.avail,
            )
        queue.reported = 0
        self._report_fault(queue)

    async def stop_queue(self, index: int, how: StopMode) -> RingState:
        """Stop ring `index`; return its position. See `Datapath.stop_queue`."""
        queue = self._queues[index]
        queue.start = None
        queue.wanted.start = 0
        queue.wanted.how = _STOP[how]
        queue.wanted.mem = ffi.NULL
        queue.set_fd(RingFd.KICK, None)
        status = await self._applied(queue, queue.want())
        state = status.state
        return RingState(
            avail=state.avail,
            used=state.used,
            avail_wrap=bool(state.avail_wrap),
            used_wrap=bool(state.used_wrap),
        )

    async def set_enabled(self, index: int, *, enabled: bool) -> None:
        """Let a started ring be served, or leave it alone. See `Datapath.set_enabled`."""
        queue = self._queues[index]
        queue.wanted.enabled = enabled
        await self._applied(queue, queue.want())

    async def set_fd(self, index: int, which: RingFd, fd: OwnedFd | None) -> None:
        """Take over a ring's fd. See `Datapath.set_fd`."""
        self._queues[index].set_fd(which, fd)
        await trio.lowlevel.checkpoint()

    async def set_status(self, status: int) -> None:
        """Do nothing: each ring runs as soon as it is started. See `Datapath.set_status`."""
        del self, status
        await trio.lowlevel.checkpoint()

    async def notify_area(self, index: int, page_size: int) -> NotifyArea | None:
        """Return None: a thread waits for the kick fd. See `Datapath.notify_area`."""
        del self, index, page_size
        await trio.lowlevel.checkpoint()
        return None

    def group(self) -> OwnedFd | None:
        """Return None: no device is involved. See `Datapath.group`."""
        del self
        return None

    async def look(self, index: int) -> None:
        """Look at a ring once. See `Datapath.look`."""
        lib.vhu_queue_look(self._queues[index].native)
        await trio.lowlevel.checkpoint()

    async def set_notify_page(self, index: int, address: int | None) -> None:
        """Take stores into 4 bytes of memory as kicks of ring `index`, too; the last one wins.

        They hold 0xFFFFFFFF while there is no kick; the driver stores the ring's number there, in 2
        or 4 bytes. It is nobody else's ring that they belong to.

        Args:
            index: ring.
            address: a multiple of 4, in memory that no peer can truncate (a sealed memfd). It stays
                mapped until this was called with another. None: there is none any more.
        """
        queue = self._queues[index]
        queue.wanted.notify = ffi.cast("void *", address or 0)
        await self._applied(queue, queue.want())

    def set_fault(self, index: int, fault: str, times: int) -> None:
        """Have ring `index` misbehave as those of broken devices do, to try drivers.

        Args:
            index: ring.
            fault: one of `ENGINE_FAULTS`: "stuck-queue" (takes no more requests),
                "lost-interrupt" (the next calls do not come), "wrong-used-id" (the next used
                entries have an id that no driver has in flight).
            times: how often; 0 ends it. A queue is stuck until then.
        """
        lib.vhu_queue_misbehave(self._queues[index].native, _FAULTS[fault], times)

    async def leave(self) -> None:
        """Abandon every ring and forget the session. See `Datapath.leave`."""
        with trio.CancelScope(shield=True):
            for index, queue in enumerate(self._queues):
                # Before the stop, so that its being applied says that these are closed, too.
                queue.set_fd(RingFd.CALL, None)
                queue.set_fd(RingFd.ERR, None)
                queue.wanted.enabled = False
                await self.stop_queue(index, StopMode.ABANDON)
            self._snapshot = None

    def statistics(self) -> tuple[RingStatistics, ...]:
        """One entry a ring."""
        return tuple(_statistics(queue.status()) for queue in self._queues)


def _statistics(status: Pointer) -> RingStatistics:
    broken = status.actual == lib.VHU_QUEUE_BROKEN
    return RingStatistics(
        actual=_ACTUAL[status.actual],
        fault=Fault(int(status.fault)) if broken else None,
        requests=status.requests,
        errors=status.errors,
        bytes_read=status.bytes_read,
        bytes_written=status.bytes_written,
        kicks=status.kicks,
        page_kicks=status.page_kicks,
        calls=status.calls,
        calls_suppressed=status.calls_suppressed,
        waits=status.waits,
    )
