"""Runs simulated devices until somebody ends the program, or their last client has left."""

from __future__ import annotations

import logging
import os
import resource
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from accel.vfio_user.server import serve
from vhostuser.cli.ending import SIGNALS, End
from vhostuser.errors import StoreError
from vhostuser.server import OwnPath, systemd_notify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from accel.simulator import SimulatedDevice
    from vhostuser.server import Endpoint

    Opener = Callable[["Sockets"], AbstractAsyncContextManager[Sequence["Served"]]]

__all__ = ["Served", "Sockets", "run_simulated"]

_log = logging.getLogger(__name__)
_FAULT = signal.SIGUSR1
_LOOK = signal.SIGHUP


class _Resizable(Protocol):
    async def resize(self, size: int | None = None) -> int:
        """Look at the size of what holds the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A simulated device, and where its clients come from.

    Attributes:
        device: what is served.
        endpoint: where clients connect.
        words: what it is and where, for people.
        resizable: what looks at its size again at SIGHUP, if anything does.
    """

    device: SimulatedDevice
    endpoint: Endpoint
    words: str
    resizable: _Resizable | None = None


class Sockets:
    """The sockets that were made, to be removed also when the program does not end in time."""

    def __init__(self) -> None:
        self._made: list[OwnPath] = []

    @property
    def sockets(self) -> tuple[OwnPath, ...]:
        """All of them."""
        return tuple(self._made)

    def note(self, path: Path | None) -> None:
        """Note one that was just made; None: it has no path."""
        if path is not None:
            self._made.append(OwnPath(path))


def run_simulated(open_all: Opener) -> None:
    """Serve until SIGTERM, SIGINT, or when no other client can come.

    Args:
        open_all: has the devices for the length of a block, and notes their sockets.

    Raises:
        UsageError, OSError: something cannot be served.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in SIGNALS:
        # In force before `_serve` listens for signals, and again once it has cleaned up.
        signal.signal(number, lambda _number, _frame: os._exit(0))
    trio.run(_serve, open_all)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the interpreter's own end would undo a handler


async def _serve(open_all: Opener) -> None:
    with trio.open_signal_receiver(*SIGNALS, _FAULT, _LOOK) as signals:
        async with trio.open_nursery() as nursery:
            end = End(nursery.cancel_scope)
            end.owner = sockets = Sockets()
            served: list[Served] = []
            nursery.start_soon(_obey, signals, end, served)
            async with open_all(sockets) as opened:
                served.extend(opened)
                await _serve_all(opened)
            nursery.cancel_scope.cancel()


async def _serve_all(served: Sequence[Served]) -> None:
    async with trio.open_nursery() as nursery:
        for each in served:
            nursery.start_soon(serve, each.endpoint, each.device)
        print(f"simulating {'; '.join(each.words for each in served)}", flush=True)
        systemd_notify("READY=1")


async def _obey(signals: AsyncIterator[int], end: End, served: Sequence[Served]) -> None:
    """Do what signals ask for."""
    async for number in signals:
        _log.info("received %s", signal.Signals(number).name)
        if number == _FAULT:
            for each in served:
                each.device.injector.signal()
        elif number == _LOOK:
            await _look(served)
        else:
            end()


async def _look(served: Sequence[Served]) -> None:
    """Let every device look how large its image is now."""
    for each in served:
        if each.resizable is not None:
            try:
                size = await each.resizable.resize()
            except StoreError as error:
                _log.warning("%s: not resized: %s", each.device.name, error.strerror)
            else:
                _log.info("%s has %d bytes now", each.device.name, size)
