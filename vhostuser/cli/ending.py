"""How a serving command ends: cleanly if that is possible in time, and with nothing left behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

from vhostuser.server import systemd_notify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from vhostuser.server import OwnPath

__all__ = ["SIGNALS", "End", "SocketOwner", "end_on_signal"]

_log = logging.getLogger(__name__)
_END_SECONDS = 0.8
SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What ends the program, with status 0."""


class SocketOwner(Protocol):
    """What has made sockets, such as a set of disks or of ports."""

    @property
    def sockets(self) -> tuple[OwnPath, ...]:
        """The sockets that are there now."""


class End:
    """Ends the program when called.

    Args:
        scope: of all that shall end.

    Attributes:
        owner: whose sockets are removed also when it does not end in time.
        control: the control socket, likewise.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.owner: SocketOwner | None = None
        self.control: OwnPath | None = None

    def __call__(self) -> None:
        """Cancel the scope, and end the process anyway if that takes too long."""
        # A thread that hangs in the store cannot be waited for: what it has not finished stays
        # unacknowledged, which is what a front-end must cope with anyway.
        watchdog = threading.Timer(_END_SECONDS, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        systemd_notify("STOPPING=1")
        self._scope.cancel()

    def _give_up(self) -> None:
        made = () if self.owner is None else self.owner.sockets
        for socket in (*made, *(() if self.control is None else (self.control,))):
            socket.remove()
        os._exit(0)


async def end_on_signal(signals: AsyncIterator[int], end: End) -> None:
    """Call `end` at each signal. Cancellable."""
    async for number in signals:
        _log.info("%s: ending", signal.Signals(number).name)
        end()
