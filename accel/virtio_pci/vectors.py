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
    from vhostuser.datapath.relay import Relay, Route

    from accel.pci import PciDevice

__all__ = ["Vectors"]

_log = logging.getLogger(__name__)


class Vectors:
    """The vectors of a device, dealt out: the configuration has the first, the queues the others.

    Args:
        device: whose they are; it has at least one. Close this before it.
        queues: how many queues it has.

    Attributes:
        config_event: eventfd that the configuration's vector signals.
        config_shared: whether that vector may as well mean a queue.
    """

    def __init__(self, device: PciDevice, queues: int) -> None:
        self._device = device
        self._queues = queues
        self._calls: dict[int, OwnedFd] = {}
        self._sources: dict[int, OwnedFd] = {}
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

    def _is_shared(self, vector: int) -> bool:
        return vector == self.config or len(self.sharers(vector)) > 1

    async def open(self) -> None:
        """Bind the vectors that are not a driver's alone.

        Raises:
            OSError: the device or the host refused.
        """
        if not self.config_shared:
            await self._device.set_vectors({self.config: self.config_event})
        used = {self.of_queue(index) for index in range(self._queues)}
        for vector in sorted(vector for vector in used if self._is_shared(vector)):
            self._sources[vector] = _eventfd()
            await self._fan_out(vector)
            await self._device.set_vectors({vector: self._sources[vector]})

    async def set_call(self, index: int, fd: OwnedFd | None) -> None:
        """Have a queue's interrupts signal an eventfd, or nothing. See `Accelerator.set_call`."""
        vector = self.of_queue(index)
        if vector not in self._sources:
            await self._device.set_vectors({vector: fd})
            return
        old = self._calls.pop(index, None)
        if old is not None:
            old.close()
        if fd is not None:
            self._calls[index] = fd.duplicate()
        await self._fan_out(vector)

    async def _fan_out(self, vector: int) -> None:
        """Pass a shared vector's signals on to everybody who waits for them now.

        None is lost meanwhile: the eventfd keeps them.
        """
        if self._relay is None:
            from vhostuser.datapath.relay import Relay  # noqa: PLC0415

            self._relay = Relay()
        route = self._routes.pop(vector, None)
        if route is not None:
            await trio.to_thread.run_sync(route.remove)
        waiting = [self._calls[index] for index in self.sharers(vector) if index in self._calls]
        if vector == self.config:
            waiting.append(self.config_event)
        with contextlib.ExitStack() as undo:
            source = undo.enter_context(self._sources[vector].duplicate())
            targets = [undo.enter_context(fd.duplicate()) for fd in waiting]
            self._routes[vector] = self._relay.add_fan_out(source, targets)

    async def close(self) -> None:
        """Bind no vector any more, and close everything. Not cancellable."""
        with trio.CancelScope(shield=True):
            try:
                await self._device.set_vectors(dict.fromkeys(range(self._device.vectors)))
            except OSError as error:
                _log.debug("vectors of %s stay bound: %s", self._device.name, error)
            if self._relay is not None:
                await trio.to_thread.run_sync(self._relay.close)
        for fd in (self.config_event, *self._sources.values(), *self._calls.values()):
            fd.close()


def _eventfd() -> OwnedFd:
    return OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
