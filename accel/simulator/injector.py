"""Makes the faults happen that were asked for, each in its moment."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from accel.simulator.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from accel.simulator.faults import FaultRequest
    from vhostuser.datapath import SoftwareDatapath

__all__ = ["Injector"]

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.001
_DEAD = 137
"""Exit status, as of a process that was killed."""


class Injector:
    """The faults of one device.

    Args:
        datapath: of the device.
        faults: what shall go wrong, and when.
        needs_reset: called with the reason when the device shall need a reset.
        die: ends the process at once.
    """

    def __init__(
        self,
        datapath: SoftwareDatapath,
        faults: Iterable[FaultRequest],
        needs_reset: Callable[[str], None],
        die: Callable[[int], object] = os._exit,
    ) -> None:
        self._datapath = datapath
        self._needs_reset = needs_reset
        self._die = die
        faults = tuple(faults)
        self._on_signal = [fault for fault in faults if fault.on_signal]
        self._later = [fault for fault in faults if not fault.on_signal and fault.after]
        for fault in faults:
            if fault not in self._on_signal and fault not in self._later:
                self.inject(fault)

    def signal(self) -> None:
        """Let those faults come that wait for a signal: each comes again every time."""
        for fault in self._on_signal:
            self.inject(fault)

    async def run(self) -> None:
        """Let those faults come that wait for requests; return when there is none left.

        Cancellable. A fault comes a moment after the request that it waits for.
        """
        while self._later:
            await trio.sleep(_LOOK_SECONDS)
            requests = [ring.requests for ring in self._datapath.statistics()]
            for fault in tuple(self._later):
                served = sum(requests) if fault.queue is None else requests[fault.queue]
                if served >= fault.after:
                    self._later.remove(fault)
                    self.inject(fault)

    def inject(self, fault: FaultRequest) -> None:
        """Let a fault come now."""
        _log.warning("injected: %s", fault)
        if fault.kind is FaultKind.SUDDEN_DEATH:
            self._die(_DEAD)
        elif fault.kind is FaultKind.NEEDS_RESET:
            self._needs_reset("a fault that was asked for")
        else:
            self._in_engine(fault)

    def _in_engine(self, fault: FaultRequest) -> None:
        queues = range(len(self._datapath.statistics())) if fault.queue is None else [fault.queue]
        for index in queues:
            self._datapath.set_fault(index, fault.kind.value, fault.count)
