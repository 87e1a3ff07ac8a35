"""64 ports of a switch, one of them hostile: 62 stations talk as if nothing were.

The 64th port is the hostile one's, too: it is locked to its address, which is what keeps who lies
about his own from taking others'. What it sends fits nobody's buffers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hostile_net_load
import pytest
import trio
from attacking import attacked
from net_rig import BROADCAST, Station, frame, station

from vhostuser.datapath import WorkerOptions
from vhostuser.devices import NetDevice, NetOptions, NetSwitch
from vhostuser.frontend import RegionLayout
from vhostuser.testing import held, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from vhostuser.server import Server

RECEIVES, SENDS = 0, 1
STATIONS = 62
ROUNDS = 5
SIZES = (60, 590, 1514)
SMALL = (RegionLayout(gpa=0, size=256 << 10),)
LIMIT = 100
SECONDS = 240
FLOODS = {"flood", "largest"}
"""Attacks of which everybody gets something, that he has no room for."""
LOCKED = {"spoofing"}
"""Attacks from the port that is locked."""
PORTS = {"unlocked": b"\x52\x54\0\0\0\1", "locked": b"\x52\x54\0\0\0\2"}


async def talk(one: Station, other: Station, first: int) -> None:
    """Send frames, each of which comes, once and as it was, before the next one."""
    for number in range(first, first + ROUNDS):
        data = frame(other.mac, one.mac, number, SIZES[number % len(SIZES)])
        await one.driver.send(data)
        assert await other.received() == data


async def everybody_talks(stations: Sequence[Station], first: int) -> None:
    """Each with the next one, and none with the hostile one."""
    async with trio.open_nursery() as nursery:
        for number, one in enumerate(stations):
            other = stations[(number + 1) % len(stations)]
            nursery.start_soon(talk, one, other, first)


async def introduce(stations: Sequence[Station]) -> None:
    """Have everybody hear of everybody."""
    for one in stations:
        await one.driver.send(frame(BROADCAST, one.mac))
        for other in stations:
            if other is not one:
                assert (await other.received())[6:12] == one.mac


def homes(switch: NetSwitch, stations: Sequence[Station]) -> dict[bytes, int]:
    """Where the stations are."""
    known = {address.mac: address.port for address in switch.addresses()}
    return {one.mac: known[one.mac] for one in stations}


def losses(stations: Sequence[Station]) -> dict[str, int]:
    """Frames that the stations lost, but for those that are too large for them."""
    sums: dict[str, int] = {}
    for one in stations:
        for ring in (RECEIVES, SENDS):
            for reason, count in one.counters(ring).drops.items():
                sums[reason] = sums.get(reason, 0) + count
    return {reason: count for reason, count in sums.items() if count and reason != "too_large"}


def too_large(stations: Sequence[Station]) -> int:
    """Frames for which the stations had no room."""
    return sum(one.counters(RECEIVES).drops["too_large"] for one in stations)


@dataclass
class BadPort:
    """A port of the hostile one's, at which nobody is yet."""

    device: NetDevice
    server: Server

    async def left(self) -> None:
        """Wait until nobody is there any more."""
        while self.server.connection is not None:
            await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def bad_ports(switch: NetSwitch, folder: Path) -> AsyncIterator[dict[str, BadPort]]:
    """Two ports for the hostile one."""
    ports = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, mac in PORTS.items():
            options = NetOptions(mac=mac, locked=name == "locked", addresses=LIMIT)
            device = await stack.enter_async_context(NetDevice.open(switch, options))
            server = await stack.enter_async_context(serving(folder / name, device))
            ports[name] = BadPort(device, server)
        yield ports


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("workers", [1, 2])
async def test_stations_talk_while_another_port_does_its_worst(
    tmp_path: Path, workers: int
) -> None:
    with trio.fail_after(SECONDS):
        async with (
            NetSwitch.open(workers=WorkerOptions(count=workers)) as switch,
            bad_ports(switch, tmp_path) as bad,
            contextlib.AsyncExitStack() as stack,
        ):
            stations = [
                await stack.enter_async_context(station(switch, layout=SMALL, buffers=16))
                for _ in range(STATIONS)
            ]
            assert len(switch.ports) == STATIONS + len(PORTS)
            await introduce(stations)
            where = homes(switch, stations)
            assert len(set(where.values())) == STATIONS
            before, heard = held(), [one.counters(RECEIVES).frames for one in stations]
            for turn, attack in enumerate(hostile_net_load.ATTACKS):
                port = "locked" if attack in LOCKED else "unlocked"
                spoofed = [mac.hex() for mac in (PORTS[port], *(one.mac for one in stations))]
                flooded = too_large(stations)
                async with attacked(hostile_net_load, attack, tmp_path / port, *spoofed):
                    await everybody_talks(stations, turn * ROUNDS)
                assert losses(stations) == {}, attack
                assert too_large(stations) > flooded or attack not in FLOODS, attack
                assert homes(switch, stations) == where, attack
                told = [one.counters(RECEIVES).frames for one in stations]
                assert told == [count + (turn + 1) * ROUNDS for count in heard], attack
            assert bad["locked"].device.port.counters()[SENDS].drops["spoofed"] > 0
            assert bad["locked"].device.port.counters()[SENDS].frames == 0
            of_bad = [
                entry
                for entry in switch.addresses()
                if entry.port == bad["unlocked"].device.port.number
            ]
            assert 0 < len(of_bad) <= LIMIT
            await everybody_talks(stations, 0)
            for each in bad.values():
                await each.left()
            assert not held().more_than(before)
