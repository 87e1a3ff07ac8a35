"""The rings of a network device: pairs, and the control queue, whose number the driver decides.

It stands behind the pairs that there may be, and without MQ there is one (VIRTIO 1.2, 5.1.2): of a
device with more, ring 2 is either of the second pair, or the control queue. The engine's control
queue is behind all pairs; here the two change places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from protocol.virtio import NetFeatures
from vhostuser.datapath import RingFd, RingStart, SoftwareDatapath, WorkerOptions
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.datapath.software import QueueMaker, Workers

__all__ = ["NetDatapath"]

_SECOND_PAIR = 2
_CONTROL = NetFeatures.CTRL_VQ | NetFeatures.MQ


class NetDatapath(SoftwareDatapath):
    """Rings served by the threads of a switch. Make it with `async with NetDatapath.open(...)`."""

    def __init__(
        self,
        make: QueueMaker,
        queues: int,
        workers: WorkerOptions | Workers,
        place: Callable[[int], int],
    ) -> None:
        super().__init__(make, queues, workers, place)
        self._exchanged = False
        # Front-ends give fds before features, and the engine never gives one back.
        self._early: dict[tuple[int, RingFd], OwnedFd | None] = {}

    @property
    def _movable(self) -> tuple[int, int]:
        return _SECOND_PAIR, len(self._queues) - 1

    def arrange(self, features: NetFeatures) -> None:
        """Number the rings as a driver with these features does. None of them is started."""
        exchanged = features & _CONTROL == NetFeatures.CTRL_VQ
        if exchanged == self._exchanged:
            return
        self._exchanged = exchanged
        one, other = self._movable
        queues = self._queues
        queues[one], queues[other] = queues[other], queues[one]
        first, second = queues[one].wanted, queues[other].wanted
        first.enabled, second.enabled = second.enabled, first.enabled
        for index in self._movable:
            queues[index].want()

    async def set_fd(self, index: int, which: RingFd, fd: OwnedFd | None) -> None:
        """Take over a ring's fd. See `Datapath.set_fd`."""
        if index not in self._movable or self._queues[index].start is not None:
            await super().set_fd(index, which, fd)
            return
        self._forget(index, which)
        self._early[index, which] = None if fd is None else OwnedFd(fd.detach())
        await trio.lowlevel.checkpoint()

    def _forget(self, index: int, which: RingFd) -> None:
        early = self._early.pop((index, which), None)
        if early is not None:
            early.close()

    async def start_queue(self, index: int, start: RingStart, kick: OwnedFd | None) -> None:
        """Start ring `index`. See `Datapath.start_queue`."""
        for which in RingFd:
            if (index, which) in self._early:
                self._queues[index].set_fd(which, self._early.pop((index, which)))
        await super().start_queue(index, start, kick)

    async def leave(self) -> None:
        """Abandon every ring and forget the session. See `Datapath.leave`."""
        for index, which in tuple(self._early):
            self._forget(index, which)
        await super().leave()
