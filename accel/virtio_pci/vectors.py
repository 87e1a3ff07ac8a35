"""Which MSI-X vector says what, and where it goes.

With enough vectors each queue has its own, bound to the driver's call eventfd: an interrupt passes
nothing of ours then. With fewer, queues share one, and a thread of the engine fans it out to all of
theirs: a driver takes a call too many in its stride, not one too few.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import trio

from vhostuser.datapath.relay import Relay
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from accel.pci import PciDevice
    from vhostuser.datapath.relay import Route

__all__ = ["Vectors"]

_log = logging.getLogger(__name__)


class Vectors:
    """The vectors of a device, dealt out: the configuration has the first, the queues the others.

    Args:
        device: whose they are; it has at least one. Close this before it.
        queues: how many queues it has.

    Attributes:
        config_event: eventfd that says that the configuration's vector was signalled. The device's
            server never has it: it could let whoever reads it wait.
        config_shared: whether that vector may as well mean a queue.
    """

    def __init__(self, device: PciDevice, queues: int) -> None:
        self._device = device
        self._queues = queues
        self._calls: dict[int, OwnedFd] = {}
        self._routes: dict[int, Route] = {}
        self._relay: Relay | None = None
        self.config_event = _eventfd()
        self.config_shared = device.vectors == 1

    @property
    def config(self) -> int:
        """The configuration's vector."""
        return 0

    def of_queue(self, index: int) -> int:
        """Return a queue's vector, which it may share."""
        own = self._device.vectors - 1
        return 1 + index % own if own else 0

    def sharers(self, vector: int) -> list[int]:
        """Return the queues that have this vector."""
        return [index for index in range(self._queues) if self.of_queue(index) == vector]

    def _used(self) -> list[int]:
        return sorted({self.config, *(self.of_queue(index) for index in range(self._queues))})

    def _is_shared(self, vector: int) -> bool:
        return vector == self.config or len(self.sharers(vector)) > 1

    async def open(self) -> None:
        """Bind the vectors that are not a driver's alone.

        Raises:
            OSError: the device or the host refused.
        """
        shared = [vector for vector in self._used() if self._is_shared(vector)]
        if not shared:
            return
        self._relay = Relay()
        for vector in shared:
            with _eventfd() as source:
                targets = self._targets(vector)
                self._routes[vector] = self._relay.add_fan_out(source.duplicate(), targets)
                await self._device.set_vectors({vector: source})

    async def set_call(self, index: int, fd: OwnedFd | None) -> None:
        """Have a queue's interrupts signal an eventfd, or nothing. See `Accelerator.set_call`."""
        vector = self.of_queue(index)
        route = self._routes.get(vector)
        if route is None:
            await self._device.set_vectors({vector: fd})
            return
        old = self._calls.pop(index, None)
        if old is not None:
            old.close()
        if fd is not None:
            self._calls[index] = fd.duplicate()
        await trio.to_thread.run_sync(route.retarget, self._targets(vector))
        route.ring()  # an interrupt may just have gone to the old ones only

    def _targets(self, vector: int) -> list[OwnedFd]:
        """Return duplicates of all that wait for a vector now."""
        waiting = [self._calls[index] for index in self.sharers(vector) if index in self._calls]
        if vector == self.config:
            waiting.append(self.config_event)
        with contextlib.ExitStack() as undo:
            targets = [undo.enter_context(fd.duplicate()) for fd in waiting]
            undo.pop_all()
        return targets

    async def close(self) -> None:
        """Bind no vector any more, and close everything. Not cancellable."""
        with trio.CancelScope(shield=True):
            try:
                await self._device.set_vectors(dict.fromkeys(self._used()))
            except OSError as error:
                _log.debug("vectors of %s stay bound: %s", self._device.name, error)
            if self._relay is not None:
                await trio.to_thread.run_sync(self._relay.close)
        for fd in (self.config_event, *self._calls.values()):
            fd.close()


def _eventfd() -> OwnedFd:
    return OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
