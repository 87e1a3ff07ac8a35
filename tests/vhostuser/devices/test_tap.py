"""Options of a TAP device, and its end; what it does is in tests/interop/test_tap.py."""

from __future__ import annotations

import re
import threading

import pytest
import trio

from protocol.virtio import NetFeatures
from vhostuser.devices import NetSwitch
from vhostuser.devices.tap import TapOptions, TapPort
from vhostuser.errors import TapError, UsageError
from vhostuser.fds import Closing


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "sixteen-letters!"},
            "tap: 'sixteen-letters!' is too long: interfaces have up to 15 bytes",
        ),
        ({"name": "ä" * 8}, f"tap: {'ä' * 8!r} is too long: interfaces have up to 15 bytes"),
        *[
            (
                {"name": name},
                f"tap: {name!r} is not a name that an interface can have: no spaces, '/', ':', '%'",
            )
            for name in (".", "..", "a/b", "a b", "a:b", "tap%d", "a\0b", "a\n")
        ],
        (
            {"bridge": ""},
            "bridge: '' is not a name that an interface can have: no spaces, '/', ':', '%'",
        ),
        ({"queues": 0}, "queues: a number from 1 to 128, not 0"),
        ({"queues": 129}, "queues: a number from 1 to 128, not 129"),
        ({"mtu": 67}, "mtu: a number from 68 to 65521, not 67"),
        ({"mtu": 65522}, "mtu: a number from 68 to 65521, not 65522"),
    ],
)
def test_an_option_out_of_range_is_refused_in_words(options, text):
    with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
        TapOptions(**options)


@pytest.mark.parametrize(
    "options",
    [{}, {"name": "fifteen-letters"}, {"queues": 128}, {"mtu": 68}, {"mtu": 65521, "bridge": "b"}],
)
def test_options_in_range_are_taken(options):
    assert TapOptions(**options)


class SlowTap(Closing):
    """A device without queues, whose cable takes until `release` to be pulled."""

    name, mac, mtu, queues, features = "slow", bytes(6), 1500, (), NetFeatures(0)

    def __init__(self):
        self.pulling, self.release = threading.Event(), threading.Event()
        self.used = self.closed = self.closed_in_use = False

    def set_carrier(self, *, up):
        del up
        self.used = True
        self.pulling.set()
        self.release.wait()
        self.used = False

    def close(self):
        self.closed, self.closed_in_use = True, self.used
        self.release.set()


async def test_a_port_that_goes_waits_for_whoever_pulls_its_cable(monkeypatch):
    tap = SlowTap()
    monkeypatch.setattr("vhostuser.devices.tap.open_tap", lambda _options: tap)
    gone = trio.Event()

    async def serve(task_status):
        async with TapPort.open(switch) as port:
            task_status.started(port)
            await gone.wait()

    with trio.fail_after(30):
        async with NetSwitch.open() as switch, trio.open_nursery() as nursery:
            port = await nursery.start(serve)
            nursery.start_soon(lambda: port.set_link(up=False))
            await trio.to_thread.run_sync(tap.pulling.wait)
            gone.set()
            while not tap.closed and not port._tap_used.statistics().tasks_waiting:
                await trio.lowlevel.checkpoint()
            tap.release.set()
        assert (tap.closed, tap.closed_in_use) == (True, False)
        with pytest.raises(TapError, match="the port of slow has just been removed"):
            await port.set_link(up=True)
