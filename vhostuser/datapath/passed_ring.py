"""One ring of a passthrough data path: its fds, its place on the device, its relayed kicks."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from protocol.virtio import DescFlags, VirtioFeatures
from vhostuser.datapath.accelerator import EventfdDoorbell
from vhostuser.datapath.interface import RingActual, RingFd, RingStatistics
from vhostuser.datapath.planner import Way, is_initial
from vhostuser.fds import FdKind, OwnedFd, kind_of
from vhostuser.native import ffi
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from vhostuser.datapath.accelerator import Accelerator, QueueAddresses
    from vhostuser.datapath.interface import RingStart
    from vhostuser.datapath.relay import Relay, Route

__all__ = ["PassedRing", "RingPlace"]

_log = logging.getLogger(__name__)
_NET = 1
"""Virtio device type."""
_INDEX_OFFSET = 2
"""Bytes from the beginning of a split ring's available or used area to its index."""
_FLAGS_OFFSET = 14
"""Bytes from the beginning of a packed ring's descriptor to its flags."""
_DESCRIPTOR_SIZE = 16
_DRAIN_SECONDS = 1.0
_LOOK_SECONDS = 0.001
_NOWHERE = RingState(avail=1, used=1, avail_wrap=False, used_wrap=False)
"""A position that no device can start from which starts at the beginning only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPlace:
    """Where a ring's areas are.

    Attributes:
        addresses: for the device.
        desc_hva: the descriptor area here.
        driver_hva: the driver area here.
        device_hva: the device area here.
    """

    addresses: QueueAddresses
    desc_hva: int
    driver_hva: int
    device_hva: int


class PassedRing:
    """One ring, served by the accelerator or by the software.

    Args:
        index: of the ring and of the device's queue.
        accelerator: the device.
        relay: the thread that passes signals on.
        nursery: for what the thread cannot do.

    Attributes:
        start: how the front-end started it; None: it is stopped.
        way: how it is served while it is started.
        place: where its areas are, while it is passed through.
        enabled: whether it may be served.
        on_device: whether the device may work on it.
        in_software: whether the software does.
        broken: whether what served it is gone.
        position_known: whether the position that the front-end was told is the true one.
    """

    def __init__(
        self, index: int, accelerator: Accelerator, relay: Relay, nursery: trio.Nursery
    ) -> None:
        self.index = index
        self.start: RingStart | None = None
        self.way = Way.PASSTHROUGH
        self.place: RingPlace | None = None
        self.enabled = False
        self.on_device = False
        self.in_software = False
        self.broken = False
        self.position_known = True
        self._accelerator = accelerator
        self._relay = relay
        self._nursery = nursery
        self._fds: dict[RingFd, OwnedFd] = {}
        self._route: Route | None = None
        self._by_hand = trio.CancelScope()
        self._relayed = 0
        self._bridge: Route | None = None
        self._signals: dict[RingFd, Route] = {}
        self._left_at: RingState | None = None

    def begin(self, start: RingStart, way: Way, kick: OwnedFd | None) -> None:
        """Note that the front-end has started the ring; the kick fd is taken over."""
        self.start, self.way = start, way
        self.broken = False
        self._left_at = None
        self._keep(RingFd.KICK, kick)

    def restart(self, state: RingState, way: Way) -> None:
        """Note that another one goes on with a started ring, from `state`."""
        assert self.start is not None
        self.start, self.way = replace(self.start, state=state), way

    async def end(self) -> None:
        """Note that the ring has stopped."""
        await self._detach()
        self.start = None
        self.broken = False
        self.place = None
        self._keep(RingFd.KICK, None)

    def duplicate(self, which: RingFd) -> OwnedFd | None:
        """Return a duplicate of one of its fds, for another one to own.

        Raises:
            OSError: the host is out of file descriptors.
        """
        fd = self._fds.get(which)
        return None if fd is None else fd.duplicate()

    def _keep(self, which: RingFd, fd: OwnedFd | None) -> None:
        old = self._fds.pop(which, None)
        if old is not None:
            old.close()
        if fd is not None:
            self._fds[which] = OwnedFd(fd.detach())

    async def set_fd(self, which: RingFd, fd: OwnedFd | None) -> None:
        """Use another fd; it is taken over.

        Raises:
            OSError: the device or the host refused.
        """
        self._keep(which, fd)
        if not self.on_device:
            return
        if which is RingFd.KICK and self._route is not None:
            await self._detach()
            await self._attach()
        elif which is RingFd.CALL:
            await self._bind_call()
            await self.signal_call()  # an interrupt may have gone to the old one

    # On the device

    async def put_on_device(self) -> None:
        """Have the device serve the ring, from where it stands.

        Raises:
            OSError: the device or the host refused.
        """
        assert self.start is not None
        assert self.place is not None
        if not self.on_device:
            await self._bind_call()
            state = self._starting_state(self._left_at or self.start.state, self.start.features)
            await self._accelerator.start_queue(self.index, self.place.addresses, state)
            self.on_device = True
            self._left_at = None
            self.position_known = True
        await self._attach()

    def _starting_state(self, state: RingState, features: VirtioFeatures) -> RingState | None:
        """Where the device is to go on; None at the beginning, where any device can start."""
        if is_initial(state, features):
            return None
        used, _ = self.used_position()
        return state if used is None else replace(state, used=used.used)

    async def _attach(self) -> None:
        """Have kicks of the driver reach the device."""
        kick = self._fds.get(RingFd.KICK)
        if self._route is not None or kick is None:
            return
        doorbell = self._accelerator.doorbell(self.index)
        if doorbell is None:
            counter = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            doorbell = EventfdDoorbell(fd=counter.duplicate())
            self._by_hand = trio.CancelScope()
            self._nursery.start_soon(self._ring_by_hand, counter, self._by_hand)
        source = kick.duplicate()
        self._route = await trio.to_thread.run_sync(self._relay.add_kick, source, doorbell)

    async def _ring_by_hand(self, counter: OwnedFd, scope: trio.CancelScope) -> None:
        """Ring a doorbell that no store and no eventfd rings."""
        with counter, scope:
            while True:
                await trio.lowlevel.wait_readable(counter.fileno())
                os.eventfd_read(counter.fileno())
                try:
                    await self._accelerator.ring(self.index)
                except OSError as error:  # a device that is gone says so itself
                    _log.warning("ring %d: a kick did not reach the device: %s", self.index, error)
                except Exception:  # noqa: BLE001 - a bug of the driver ends its own ring only
                    _log.exception("ring %d: its doorbell cannot be rung", self.index)
                    return

    async def _detach(self) -> None:
        """Let kicks of the driver reach nobody; when this returns the doorbell is not used."""
        route, self._route = self._route, None
        self._by_hand.cancel()
        if route is not None:
            await trio.to_thread.run_sync(route.remove)
            self._relayed += route.signals

    async def _bind_call(self) -> None:
        """Have the device's interrupts reach the driver."""
        old, self._bridge = self._bridge, None
        call = self._fds.get(RingFd.CALL)
        try:
            if call is None or kind_of(call) is FdKind.EVENTFD:
                await self._accelerator.set_call(self.index, call)
                return
            # A pipe, as user-mode Linux has it: a device signals eventfds only.
            with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)) as source:
                self._bridge = await self._fan_out(source.duplicate(), call)
                await self._accelerator.set_call(self.index, source)
        finally:
            await _remove(old)

    async def _fan_out(self, source: OwnedFd, target: OwnedFd) -> Route:
        """Pass signals on; `source` is taken over. In a thread: a peer may hold the relay up."""
        with source:
            copy = target.duplicate()
            return await trio.to_thread.run_sync(self._relay.add_fan_out, source, [copy])

    async def take_off_device(self, *, drain: bool) -> RingState | None:
        """Have the device leave the ring alone; return its position, if the device says it.

        Not cancellable.

        Args:
            drain: whether to wait for requests under way, a moment at most.
        """
        assert self.start is not None
        if not self.on_device:
            return self._left_at or self.start.state
        await self._detach()
        state = None
        with contextlib.suppress(OSError):  # a device that is gone says so itself
            state = await self._accelerator.stop_queue(self.index)
        if state is None:
            await self._quiesce(drain=drain)
        await self.lose_device()
        if state is None and drain:
            await self.signal_call()  # what was given back last may have got no interrupt
        self._left_at = state
        return state

    async def _quiesce(self, *, drain: bool) -> None:
        """Come as near to a stop as the device can: all is served, or the queue is reset."""
        used, idle = self.used_position()
        if drain and used is not None and not idle and self._drains():
            with trio.move_on_after(_DRAIN_SECONDS):
                while not idle:
                    await trio.sleep(_LOOK_SECONDS)
                    _, idle = self.used_position()
        with contextlib.suppress(OSError):  # a device that is gone says so itself
            await self._accelerator.reset_queue(self.index)

    def find_position(self) -> RingState:
        """Find where the ring stands by its own used index, now that the device left it alone.

        With requests under way that is known only where they are given back in order. A packed
        ring does not say at all: a position is returned then that no such device can start from.
        """
        assert self.start is not None
        used, idle = self.used_position()
        in_order = VirtioFeatures.IN_ORDER in self.start.features
        self.position_known = used is not None and (idle or in_order)
        self._left_at = used or _NOWHERE
        return self._left_at

    def _drains(self) -> bool:
        """Whether the device ever gives everything back: the buffers of a receiver wait."""
        net_receives = self._accelerator.identity.device_id == _NET and self.index % 2 == 0
        return not net_receives

    def used_position(self) -> tuple[RingState | None, bool]:
        """Read from guest memory where the device stands, and whether nothing is under way.

        None for a packed ring, which does not say.
        """
        if self.start is None or self.place is None:
            return None, False
        if VirtioFeatures.RING_PACKED in self.start.features:
            return None, False
        used = _u16_at(self.place.device_hva + _INDEX_OFFSET)  # first: the driver may add more
        avail = _u16_at(self.place.driver_hva + _INDEX_OFFSET)
        return RingState(avail=used, used=used), used == avail

    def was_used(self) -> bool:
        """Whether the device has given anything back since the ring's beginning."""
        if self.start is None or self.place is None:
            return False
        if VirtioFeatures.RING_PACKED in self.start.features:
            return _packed_was_used(self.place.desc_hva, self.start.num)
        return _u16_at(self.place.device_hva + _INDEX_OFFSET) != 0

    async def lift_off_device(self) -> None:
        """Keep kicks from a device that is reset, to be given the ring again."""
        await self._detach()
        self.on_device = False

    async def lose_device(self) -> None:
        """Forget the device: it was reset, is gone, or has stopped this queue."""
        self.on_device = False
        await self._detach()
        with contextlib.suppress(OSError):
            await self._accelerator.set_call(self.index, None)
        bridge, self._bridge = self._bridge, None
        await _remove(bridge)

    async def pause(self) -> None:
        """Leave a disabled ring alone, as far as the device can."""
        capabilities = self._accelerator.capabilities
        if capabilities.report_state and capabilities.start_at_state:
            if await self.take_off_device(drain=True) is None:
                self.find_position()
        else:
            await self._detach()

    async def abandon(self) -> None:
        """The session has ended: forget everything. Device and software are stopped next."""
        self.in_software = False
        if self.on_device:
            await self.lose_device()
        await self.end()
        self.enabled = False
        self.position_known = True
        for route in self._signals.values():
            await _remove(route)
        self._signals.clear()
        for which in RingFd:
            self._keep(which, None)

    # Signals

    def look(self) -> None:
        """Kick the device once."""
        if self._route is not None:
            self._route.ring()

    async def signal_error(self) -> None:
        """Signal the err fd."""
        await self._signal(RingFd.ERR)

    async def signal_call(self) -> None:
        """Signal the call fd: an interrupt of the device may have been lost."""
        await self._signal(RingFd.CALL)

    async def _signal(self, which: RingFd) -> None:
        """Signal one of its fds once, by the relay's thread: the peer may have filled it."""
        await _remove(self._signals.pop(which, None))
        fd = self._fds.get(which)
        if fd is None:
            return
        try:
            source = OwnedFd(os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._signals[which] = await self._fan_out(source, fd)
        except OSError as error:  # the host is out of descriptors
            _log.warning("ring %d: its %s fd was not signalled: %s", self.index, which.value, error)

    def statistics(self) -> RingStatistics:
        """Return what is known of a ring that the device serves: the kicks that were relayed."""
        actual = RingActual.RUNNING if self.on_device else RingActual.STOPPED
        kicks = self._relayed + (0 if self._route is None else self._route.signals)
        return RingStatistics(
            actual=RingActual.BROKEN if self.broken else actual, kicks=kicks, counted=False
        )


def _u16_at(hva: int) -> int:
    return int.from_bytes(ffi.buffer(ffi.cast("char *", hva), 2), "little")


def _packed_was_used(descriptors: int, num: int) -> bool:
    """Whether a packed ring is past its beginning, as far as its descriptors tell.

    In every second lap a used descriptor has neither flag, as one that was never touched: then the
    rest of the first descriptor tells, and those of the lap before have the flag.
    """
    table = bytes(ffi.buffer(ffi.cast("char *", descriptors), num * _DESCRIPTOR_SIZE))
    first = table[_FLAGS_OFFSET] | table[_FLAGS_OFFSET + 1] << 8
    if any(table[:_DESCRIPTOR_SIZE]) and not first & DescFlags.AVAIL:
        return True
    high_bytes = table[_FLAGS_OFFSET + 1 :: _DESCRIPTOR_SIZE]
    return any(byte & DescFlags.USED >> 8 for byte in high_bytes)


async def _remove(route: Route | None) -> None:
    if route is not None:
        await trio.to_thread.run_sync(route.remove)
