"""One virtqueue as a driver uses it: areas in guest memory, a driver ring, kick and call.

Chains are made of guest buffers that the caller owns. Any number of tasks may wait for their
chains: one of them waits for the device, the others for that one. Specification: VIRTIO 1.2 §2.7
and §2.8.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import trio

from vhostuser.fds import OwnedFd
from vhostuser.frontend.errors import RingError
from vhostuser.frontend.ring_areas import RingAreas
from vhostuser.frontend.ringing import Kicks
from vhostuser.virtqueue import (
    Buffer,
    DriverRing,
    IndirectTables,
    RingConfig,
    RingState,
    UsedRingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocol.virtio import VirtioFeatures
    from vhostuser.frontend.memory import GuestBuffer, GuestMemory
    from vhostuser.frontend.ringing import Doorbell

__all__ = ["DriverQueue"]

_DESCRIPTOR_SIZE = 16


def _eventfd() -> OwnedFd:
    return OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


class DriverQueue:
    """The driver's end of a ring. Close it when the back-end has stopped the ring.

    Args:
        memory: guest memory for the ring's areas; it must outlive the queue.
        index: number of the ring.
        num: ring size in descriptors.
        features: negotiated virtio features; they choose the layout.
        indirect_entries: length of the indirect table of each slot; 0: chains are always direct.
        poll: whether to look at the ring again and again instead of waiting for the call fd.

    Attributes:
        kicks: how often the device was kicked, and how.

    Raises:
        MemoryError: guest memory is full.
        OSError: the host is out of file descriptors, or the engine refuses `num`.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings of a ring
        self,
        memory: GuestMemory,
        index: int,
        *,
        num: int,
        features: VirtioFeatures,
        indirect_entries: int = 0,
        poll: bool = False,
    ) -> None:
        self.memory = memory
        self.index = index
        self.num = num
        self.features = features
        self.poll = poll
        self.areas = RingAreas.allocate(memory, features, num)
        self._tables = self._allocate_tables(indirect_entries)
        self._ring = self._create_ring(indirect_entries)
        self.kick, self.call, self.err = _eventfd(), _eventfd(), _eventfd()
        self.kicks = Kicks()
        self._doorbell: Doorbell | None = None
        self._done: dict[int, int] = {}
        self._abandoned: dict[int, Callable[[], None]] = {}
        self._in_flight: set[int] = set()
        self._failure: RingError | None = None
        self._leading = False
        self._progress = trio.Event()

    def _allocate_tables(self, entries: int) -> GuestBuffer | None:
        if entries == 0:
            return None
        return self.memory.alloc(self.num * entries * _DESCRIPTOR_SIZE)

    def _create_ring(self, entries: int) -> DriverRing:
        hva = self.memory.hva
        areas = self.areas
        config = RingConfig(
            features=self.features,
            num=self.num,
            desc_hva=hva(areas.desc.gpa, areas.desc.length),
            driver_hva=hva(areas.driver.gpa, areas.driver.length),
            device_hva=hva(areas.device.gpa, areas.device.length),
            state=RingState(avail=0, used=0),
        )
        tables = self._tables
        if tables is None:
            return DriverRing(config)
        return DriverRing(
            config,
            indirect=IndirectTables(
                entries=entries, gpa=tables.gpa, hva=hva(tables.gpa, tables.length)
            ),
        )

    @property
    def in_flight(self) -> int:
        """How many chains the device has."""
        return len(self._in_flight)

    def state(self) -> RingState:
        """Return the driver's position in the ring."""
        return self._ring.state()

    def add(
        self,
        readable: Sequence[GuestBuffer],
        writable: Sequence[GuestBuffer],
        *,
        indirect: bool = False,
    ) -> int | None:
        """Put a chain into the ring and kick the device if it wants that.

        Args:
            readable: what the device may read, in order.
            writable: what it may write, in order.
            indirect: whether to use the slot's indirect table.

        Returns:
            The chain's id, or None while the ring is full.

        Raises:
            RingError: the ring has failed.
        """
        self._check()
        identity = self._ring.add(
            [Buffer(part.gpa, part.length) for part in readable],
            [Buffer(part.gpa, part.length) for part in writable],
            indirect=indirect,
        )
        if identity is None:
            return None
        self._in_flight.add(identity)
        if self._ring.publish():
            self.notify()
        return identity

    def notify(self) -> None:
        """Kick the device: by the notify area where there is one, else by the kick fd."""
        if self._doorbell is not None and self._doorbell.ring(self.index):
            self.kicks.page += 1
        else:
            self.kicks.eventfd += 1
            self._signal()

    def switch_doorbell(self, doorbell: Doorbell | None) -> None:
        """Kick by `doorbell` from now on, or by the kick fd again; kick once by that in any case.

        A kick that went the old way while the back-end already looked the new way is made up for.
        """
        self._doorbell = doorbell
        if not self.kick.closed:
            self.kicks.own += 1
            self._signal()

    def _signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.kick.fileno(), 1)

    async def submit(
        self,
        readable: Sequence[GuestBuffer],
        writable: Sequence[GuestBuffer],
        *,
        indirect: bool = False,
    ) -> int:
        """Put a chain into the ring as soon as it has room; return the chain's id.

        Cancellation: nothing was put into the ring.

        Raises:
            RingError: the ring has failed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while (identity := self.add(readable, writable, indirect=indirect)) is None:
            await self._advance()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return identity

    async def complete(self, identity: int) -> int:
        """Wait until the device has used a chain; return how many bytes it says it wrote.

        Cancellation: the chain stays with the device; wait for it again, or `abandon` it.

        Raises:
            RingError: the ring has failed.
        """
        await trio.lowlevel.checkpoint()
        self._reap()
        while identity not in self._done:
            await self._advance()
        return self._done.pop(identity)

    async def complete_any(self) -> tuple[int, int]:
        """Wait until the device has used any chain; return its id, and how much was written.

        Cancellation: nothing was taken. Raises as `complete`.
        """
        await trio.lowlevel.checkpoint()
        self._reap()
        while not self._done:
            await self._advance()
        identity = next(iter(self._done))
        return identity, self._done.pop(identity)

    async def transfer(
        self,
        readable: Sequence[GuestBuffer],
        writable: Sequence[GuestBuffer],
        *,
        indirect: bool = False,
    ) -> int:
        """Submit a chain and wait for it; return how many bytes the device says it wrote.

        Cancellation: the device may still have the chain, and its buffers must not be used again.

        Raises:
            RingError: the ring has failed.
        """
        return await self.complete(await self.submit(readable, writable, indirect=indirect))

    async def lend(
        self,
        readable: Sequence[GuestBuffer],
        writable: Sequence[GuestBuffer],
        release: Callable[[], None],
        *,
        indirect: bool = False,
    ) -> int:
        """Submit a chain and wait for it, whose buffers nobody else frees if that fails.

        Cancellation: `release` is called when the device gives the chain back.

        Args:
            readable: what the device may read, in order.
            writable: what it may write, in order.
            release: frees the buffers; not called when the chain was used: they are the caller's.
            indirect: whether to use the slot's indirect table.

        Returns:
            How many bytes the device says it wrote.

        Raises:
            RingError: the ring has failed.
        """
        try:
            identity = await self.submit(readable, writable, indirect=indirect)
        except BaseException:
            release()
            raise
        try:
            return await self.complete(identity)
        except trio.Cancelled:
            self.abandon(identity, release)
            raise

    def abandon(self, identity: int, release: Callable[[], None]) -> None:
        """Wait for a chain no longer; `release` is called when the device gives it back."""
        if self._done.pop(identity, None) is None:
            self._abandoned[identity] = release
        else:
            release()

    def fail(self, reason: str) -> None:
        """Give the ring up: every task that waits for it gets a RingError with this reason."""
        self._failure = RingError(f"ring {self.index}: {reason}")
        os.eventfd_write(self.call.fileno(), 1)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _reap(self) -> bool:
        """Take in what the device has used; return whether there was anything."""
        self._check()
        found = False
        while (used := self._pop_used()) is not None:
            found = True
            identity, written = used
            self._in_flight.discard(identity)
            release = self._abandoned.pop(identity, None)
            if release is None:
                self._done[identity] = written
            else:
                release()
        return found

    def _pop_used(self) -> tuple[int, int] | None:
        try:
            return self._ring.pop_used()
        except UsedRingError as error:
            self._failure = RingError(f"ring {self.index}: {error}")
            raise self._failure from error

    async def _advance(self) -> None:
        """Let the first task that comes wait for the device, and the others wait for that task."""
        if self._leading:
            await self._progress.wait()
            self._check()
            return
        self._leading = True
        try:
            await self._wait_used()
        finally:
            self._leading = False
            progress, self._progress = self._progress, trio.Event()
            progress.set()

    async def _wait_used(self) -> None:
        """Wait until the device may have used something, perhaps taken in by another task since."""
        if self._reap():
            return
        if self.poll:
            await trio.lowlevel.checkpoint()
        elif not self._ring.call_enable():
            await trio.lowlevel.wait_readable(self.call.fileno())
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.call.fileno())
        self._reap()

    def close(self) -> None:
        """Free the ring's memory and close its fds. Closing it twice is harmless."""
        if self.kick.closed:
            return
        for fd in (self.kick, self.call, self.err):
            fd.close()
        self._ring.close()
        self.areas.free(self.memory)
        if self._tables is not None:
            self.memory.free(self._tables)
