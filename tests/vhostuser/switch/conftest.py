"""A TAP device that is none: what a port of the host is like, without the right to make one."""

from __future__ import annotations

import contextlib
import errno

import pytest
import trio

from vhostuser.devices import NetPort, NetPortOptions
from vhostuser.errors import TapError

HOST = bytes.fromhex("02aabbccddee")


class FakeTap:
    def __init__(self, port, name):
        self.port, self.name, self.mac = port, name, HOST
        self.removed = trio.Event()
        self.carrier = True

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, switch, options):
        if options.name == "no-right":
            raise TapError(errno.EPERM, "no right to make no-right: run as root")
        shown = NetPortOptions(pairs=options.queues, mac=HOST)
        with NetPort.open(switch, shown) as port:
            yield cls(port, options.name)

    async def set_link(self, *, up):
        self.port.set_link(up=up)
        self.carrier = up


@pytest.fixture
def taps(monkeypatch):
    """Have every TAP be a fake."""
    monkeypatch.setattr("vhostuser.switch.portset.TapPort", FakeTap)
