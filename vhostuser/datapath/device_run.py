"""The life of an accelerator below a passthrough data path: negotiated, running, reset, failed.

A device is negotiated with when its first ring comes. It runs when the driver says so by the device
status, or with its first ring where the front-end says nothing of the kind. It is reset when its
last ring has stopped: only then is it sure to touch no memory. Specification: VIRTIO 1.2, 3.1.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Protocol

import trio

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath.accelerator import Accelerator
    from vhostuser.datapath.device_memory import DeviceMemory
    from vhostuser.datapath.passed_ring import PassedRing

__all__ = ["DeviceRun", "Losses"]

_log = logging.getLogger(__name__)
_STATUS_SECONDS = 0.1
"""How long DRIVER_OK may take from the last start of a ring on."""


class Losses(Protocol):
    """What becomes of rings that the device serves no longer."""

    async def lost(self, ring: PassedRing, still: str) -> None:
        """Have somebody else serve a ring, or nobody.

        Args:
            ring: was on the device.
            still: why the device may work on it all the same; empty: it does not.
        """

    async def give_up(self, ring: PassedRing, reason: str) -> None:
        """Have nobody serve a ring any more."""

    async def on_driver_ok(self) -> None:
        """Do what the driver's DRIVER_OK does, as if it had come."""


class DeviceRun:
    """How far a device has come. One method is called at a time.

    Args:
        accelerator: the device.
        memory: what it can reach.
        rings: those that it may serve.
        losses: told of rings that it serves no longer.
        nursery: for waiting.

    Attributes:
        failed: why it serves nothing any more; empty while it does.
        resets: how often it was reset: an older failure than the last says nothing.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        memory: DeviceMemory,
        rings: Sequence[PassedRing],
        losses: Losses,
        nursery: trio.Nursery,
    ) -> None:
        self.failed = ""
        self.resets = 0
        self._accelerator = accelerator
        self._memory = memory
        self._rings = rings
        self._losses = losses
        self._nursery = nursery
        self._negotiated = False
        self._running = False
        self._status_follows = trio.CancelScope()

    def _on_device(self) -> list[PassedRing]:
        return [ring for ring in self._rings if ring.on_device]

    async def put(self, ring: PassedRing) -> None:
        """Have the device serve a started ring.

        Raises:
            OSError: it does not.
        """
        assert ring.start is not None
        late_queues = self._accelerator.capabilities.late_queues
        if not self._negotiated:
            await self._negotiate(ring.start.features)
        if self._running and not ring.on_device and not late_queues:
            await self._start_over(ring, ring.start.features)
            return
        await ring.put_on_device()
        if not self._running:
            if ring.start.status_follows and not late_queues:
                self._wait_for_status()
            else:
                await self._let_run()
        ring.look()

    async def _negotiate(self, features: VirtioFeatures) -> None:
        try:
            await self._accelerator.set_features(features)
        except OSError:
            await self._accelerator.reset()
            raise
        self._negotiated = True

    async def _let_run(self) -> None:
        await self._accelerator.start()
        self._running = True

    def _wait_for_status(self) -> None:
        """Let it run also where the front-end negotiates the status and never sends it."""
        self._status_follows.cancel()
        self._status_follows = trio.CancelScope()
        self._nursery.start_soon(self._run_anyway, self._status_follows)

    async def _run_anyway(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(_STATUS_SECONDS)
            with contextlib.suppress(OSError):  # its rings say so
                await self._losses.on_driver_ok()

    async def driver_ok(self) -> None:
        """Let it run: the driver has started every ring.

        Raises:
            OSError: it does not run, and nobody serves some ring of its.
        """
        if self._running or not self._on_device():
            return
        try:
            await self._let_run()
        except OSError as error:
            await self.fail(str(error))
            if any(ring.broken for ring in self._rings):
                raise
        for ring in self._rings:
            ring.look()

    async def _start_over(self, late: PassedRing, features: VirtioFeatures) -> None:
        """Give one more ring to a device that takes rings only before it runs: reset it first.

        That goes as long as nothing was given back: such a device begins at the beginning alone.

        Raises:
            OSError: a ring was used, or the device failed.
        """
        others = self._on_device()
        if any(ring.was_used() for ring in others):
            raise RequestError(
                errno.EBUSY,
                "the accelerator takes rings only before it serves one: start all of them first",
                field="index",
                value=late.index,
            )
        for ring in others:
            await ring.lift_off_device()
        self._running = False
        try:
            await self._accelerator.reset()
            self.resets += 1
            await self._negotiate(features)
            for ring in (*others, late):
                await self._put_again(ring)
            await self._let_run()
        except OSError as error:
            for ring in others:
                ring.on_device = not ring.broken
            await self.fail(str(error))
            raise
        for ring in (*others, late):
            ring.look()

    async def _put_again(self, ring: PassedRing) -> None:
        """Start a ring at its beginning, unless it was used until just now."""
        if ring.was_used():
            reason = "it was used while the accelerator was reset for another"
            await self._losses.give_up(ring, reason)
        else:
            await ring.put_on_device()

    async def reset_if_idle(self) -> None:
        """Reset it if it serves nothing any more.

        One that failed may be as good as new then: a guest must not spoil it for the next.
        """
        used = self._negotiated or self.failed
        if not used or self._on_device():
            return
        self._negotiated = self._running = False
        self._status_follows.cancel()
        try:
            await self._accelerator.reset()
            self.resets += 1
            await self._memory.complete()
        except OSError as error:
            await self.fail(str(error))
        else:
            if self.failed:
                _log.warning("accelerator %s works again", self._accelerator.identity.name)
            self.failed = ""

    async def fail(self, reason: str) -> None:
        """Note that it serves nothing any more; its rings are lost."""
        if self.failed:
            return
        self.failed = reason
        _log.error("accelerator %s failed: %s", self._accelerator.identity.name, reason)
        rings = self._on_device()
        if rings:
            still = await self._still_works()
            for ring in rings:
                await self._losses.lost(ring, still)
        self._negotiated = self._running = False

    async def _still_works(self) -> str:
        """See to it that it works on no ring; say why that is not sure."""
        try:
            await self._accelerator.reset()
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                return error.strerror or str(error)
        return ""
