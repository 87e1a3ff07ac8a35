"""What hostile-input tests of networks share: three stations at a switch, of which one attacks.

The others exchange frames before and after each attack, and see none of it but what is meant for
them; nothing of it stays behind in the process.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from net_rig import BROADCAST, SPLIT, Station, exchange, station

from protocol.virtio import NetFeatures, VirtioFeatures
from vhostuser.devices import NetSwitch
from vhostuser.frontend import RegionLayout
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from vhostuser.frontend import DriverQueue, GuestBuffer, GuestMemory

__all__ = [
    "ATTACKER",
    "CHECKS",
    "JOINS",
    "LEAVES",
    "RECEIVES",
    "SENDS",
    "VICTIM",
    "Party",
    "chain",
    "difference",
    "party",
    "place",
]

RECEIVES, SENDS = 0, 1
ATTACKER, VICTIM = (b"\x02\0\0\0\0" + bytes([number]) for number in range(2))
"""Addresses of the first two devices of a switch."""
LEAVES = VirtioFeatures(
    NetFeatures.CSUM
    | NetFeatures.HOST_TSO4
    | NetFeatures.HOST_TSO6
    | NetFeatures.HOST_ECN
    | NetFeatures.HOST_USO
)
"""All that a sender may leave to others."""
CHECKS = VirtioFeatures(NetFeatures.GUEST_CSUM)
JOINS = VirtioFeatures(
    CHECKS
    | int(
        NetFeatures.GUEST_TSO4
        | NetFeatures.GUEST_TSO6
        | NetFeatures.GUEST_ECN
        | NetFeatures.GUEST_USO4
        | NetFeatures.GUEST_USO6
    )
)
"""All that a receiver may take."""
TABLE = 16
SMALL = (RegionLayout(gpa=0, size=1 << 20),)


@dataclass
class Party:
    """Stations that know each other.

    Attributes:
        switch: theirs.
        attacker: has ATTACKER.
        victim: has VICTIM.
        other: whom the victim talks to.
    """

    switch: NetSwitch
    attacker: Station
    victim: Station
    other: Station


@contextlib.asynccontextmanager
async def party(
    attacker: VirtioFeatures = SPLIT,
    victim: VirtioFeatures = SPLIT,
    *,
    layout: Sequence[RegionLayout] = SMALL,
    buffers: int = 32,
) -> AsyncIterator[Party]:
    """Have an attacker, a victim, and somebody to whom the victim talks.

    Args:
        attacker: features of the attacker.
        victim: of the victim.
        layout: of the attacker's and the victim's memory.
        buffers: receive buffers of both, of 2 KiB each.
    """
    async with (
        NetSwitch.open() as switch,
        station(switch, attacker, layout=layout, indirect_entries=TABLE) as one,
        station(switch, victim, layout=layout, buffers=buffers) as two,
        station(switch, layout=SMALL) as three,
    ):
        assert (one.mac, two.mac) == (ATTACKER, VICTIM)
        if buffers:
            await _introduce(one, two, three)
        before = held()
        yield Party(switch, one, two, three)
        if buffers:
            await exchange(two, three)
        assert not held().more_than(before)


async def _introduce(*stations: Station) -> None:
    """Have everybody hear of everybody."""
    for one in stations:
        sent = await one.send(BROADCAST)
        for other in stations:
            assert other is one or await other.received() == sent


def place(memory: GuestMemory, contents: bytes) -> GuestBuffer:
    """Put bytes into a buffer, perhaps of none."""
    buffer = memory.alloc(max(len(contents), 1)).part(0, len(contents))
    memory.write(buffer.gpa, contents)
    return buffer


async def chain(
    queue: DriverQueue, out: Sequence[bytes], room: Sequence[int] = (), *, indirect: bool = False
) -> int:
    """Pass a chain through a ring; return how much the device says it wrote."""
    memory = queue.memory
    readable = [place(memory, contents) for contents in out]
    writable = [place(memory, bytes(size)) for size in room]
    return await queue.transfer(readable, writable, indirect=indirect)


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The counters that have changed, and by how much."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
