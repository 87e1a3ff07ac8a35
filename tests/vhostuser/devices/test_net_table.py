"""What a switch knows of addresses: bounded, aged, moved, and never taken from a locked port."""

from __future__ import annotations

import os
import subprocess
import sys

import hostile_net_load
import pytest
import trio
from net_rig import BROADCAST, exchange, frame, station

from vhostuser.devices import NetDevice, NetOptions, NetSwitch, SwitchOptions
from vhostuser.testing import serving

SENDS = 1
LIMIT = 50
MADE_UP = 1_000_000
OWN = b"\x52\x54\0\0\0\1"


@pytest.fixture
async def switch():
    async with NetSwitch.open() as switch:
        yield switch


def homes(switch):
    return {address.mac: address.port for address in switch.addresses()}


def count_of(switch, port):
    return sum(address.port == port.number for address in switch.addresses())


async def say(one, source):
    """Have it be heard that an address lives there."""
    await one.driver.send(frame(BROADCAST, source))


def address(number):
    return b"\x02\1\0\0" + number.to_bytes(2, "big")


async def test_who_makes_up_addresses_has_as_many_as_he_may_have_and_displaces_nobody(
    switch, tmp_path
):
    path, options = tmp_path / "bad", NetOptions(mac=OWN, addresses=LIMIT)
    async with (
        station(switch) as one,
        station(switch) as other,
        NetDevice.open(switch, options) as bad,
        serving(path, bad) as server,
    ):
        await exchange(one, other)
        rounds = -(-MADE_UP // hostile_net_load.SOURCES_AT_ONCE)
        arguments = ["sources", os.fspath(path), OWN.hex(), "--times", str(rounds)]
        command = [sys.executable, hostile_net_load.__file__, *arguments]
        await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
        sent = bad.port.counters()[SENDS]
        assert sent.frames + sent.dropped == rounds * hostile_net_load.SOURCES_AT_ONCE >= MADE_UP
        assert count_of(switch, bad.port) == LIMIT
        known = homes(switch)
        assert len(known) == LIMIT + 2
        assert known[one.mac] == one.device.port.number
        assert known[other.mac] == other.device.port.number
        while server.connection is not None:
            await trio.lowlevel.checkpoint()


async def test_who_takes_others_addresses_has_no_more_than_he_may_have(switch):
    async with (
        station(switch, options=NetOptions(addresses=LIMIT)) as one,
        station(switch, options=NetOptions(addresses=3)) as thief,
    ):
        for number in range(20):
            await say(one, address(number))
        assert count_of(switch, one.device.port) == 20
        for number in range(20):
            await say(thief, address(number))
        assert count_of(switch, thief.device.port) == 3
        assert count_of(switch, one.device.port) == 0  # they are elsewhere: where, is not known
        await say(one, one.mac)
        assert homes(switch)[one.mac] == one.device.port.number


async def test_an_address_is_where_it_was_heard_of_last(switch):
    async with station(switch) as one, station(switch) as other, station(switch) as third:
        for place in (one, other, one, third):
            await say(place, address(7))
            assert homes(switch)[address(7)] == place.device.port.number
        before = [each.counters(0).frames for each in (one, other, third)]
        await say(one, one.mac)
        await one.driver.send(frame(address(7), one.mac))
        after = [each.counters(0).frames for each in (one, other, third)]
        assert [b - a for a, b in zip(before, after, strict=True)] == [0, 1, 2]


async def test_a_locked_port_says_nothing_of_others(switch):
    async with (
        station(switch) as one,
        station(switch, options=NetOptions(mac=OWN, locked=True)) as locked,
    ):
        await exchange(one, locked)
        for source in (one.mac, address(1), bytes(6), BROADCAST):
            await say(locked, source)
        assert locked.counters(SENDS).drops["spoofed"] == 4
        assert homes(switch) == {
            one.mac: one.device.port.number,
            OWN: locked.device.port.number,
        }
        await exchange(one, locked)


async def test_who_is_not_heard_of_is_forgotten():
    async with (
        NetSwitch.open(SwitchOptions(ageing_s=1)) as switch,
        station(switch) as one,
        station(switch) as other,
    ):
        await exchange(one, other)
        assert set(homes(switch)) == {one.mac, other.mac}
        with trio.fail_after(30):
            while other.mac in homes(switch):
                await say(one, one.mac)
                await other.received()
                await trio.sleep(0.05)  # time is what this is about
        assert set(homes(switch)) == {one.mac}
        sent = await one.send(other.mac)
        assert await other.received() == sent  # by way of everybody
