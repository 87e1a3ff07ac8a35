"""Item 103 of the catalogue: commands of a control queue that no good driver gives.

One that is refused changes nothing of the port; one that cannot be answered is not carried out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hostile_net import place
from net_rig import CONTROL, LAYOUTS, PAIRS, exchange, station

from protocol.virtio import NetFeatures, VirtioFeatures
from vhostuser.datapath import RingActual
from vhostuser.devices import NetOptions, NetSwitch
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, ERR, BLANK = 0, 1, 0xEE
OFFLOADS = VirtioFeatures(NetFeatures.CTRL_GUEST_OFFLOADS | NetFeatures.GUEST_CSUM)
ALL = CONTROL | PAIRS | OFFLOADS
RX, MAC, VLAN, ANNOUNCE, MQ, GUEST_OFFLOADS = (bytes([number]) for number in range(6))
QUEUE_PAIRS = 2
STATION = b"\2\0\0\0\0\7"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, and what must come of it.

    Attributes:
        out: contents of the readable buffers.
        room: sizes of the writable ones.
        answer: what the first writable byte becomes.
        changes: fields of the port's state that become something else.
        features: of the driver, beside those of the layout.
    """

    out: Sequence[bytes]
    room: Sequence[int] = (1,)
    answer: int = ERR
    changes: tuple[str, ...] = ()
    features: VirtioFeatures = ALL

    @property
    def written(self) -> int:
        return 1 if any(self.room) else 0


def refused(*out: bytes, features: VirtioFeatures = ALL) -> Case:
    return Case(out=out, features=features)


def done(*out: bytes, changes: tuple[str, ...] = (), room: Sequence[int] = (1,)) -> Case:
    return Case(out=out, room=room, answer=OK, changes=changes)


def table(count: int, entries: int) -> bytes:
    """A table that says it has `count` entries, and has `entries`."""
    return struct.pack("<I", count) + STATION * entries


def without(*features: NetFeatures) -> VirtioFeatures:
    result = ALL
    for feature in features:
        result &= ~VirtioFeatures(feature)
    return result


def pairs(count: int) -> bytes:
    return MQ + b"\0" + struct.pack("<H", count)


PROMISC_OFF = RX + b"\0\0"
SET_TABLE = MAC + b"\0"
COMMANDS = {
    **{f"103-class-{number}": refused(bytes([number, 0, 0])) for number in (6, 7, 127, 255)},
    "103-rx-unknown": refused(RX + b"\6\1"),
    "103-rx-255": refused(RX + b"\xff\1"),
    "103-mac-unknown": refused(MAC + b"\2" + STATION),
    "103-vlan-unknown": refused(VLAN + b"\2\1\0"),
    "103-announce-unknown": refused(ANNOUNCE + b"\1"),
    "103-offloads-unknown": refused(GUEST_OFFLOADS + b"\1" + bytes(8)),
    "103-0-bytes": refused(),
    "103-empty-buffer": refused(b""),
    "103-1-byte": refused(RX),
    "103-1-byte-and-nothing": refused(RX, b"", b""),
    "103-2-bytes": refused(RX + b"\0"),
    "103-a-byte-too-many": refused(PROMISC_OFF + b"\0"),
    "103-bytewise": done(*(bytes([byte]) for byte in PROMISC_OFF), changes=("promiscuous",)),
    "103-no-ack": Case(out=[PROMISC_OFF], room=()),
    "103-ack-of-no-bytes": Case(out=[PROMISC_OFF], room=[0]),
    "103-ack-read-only": Case(out=[PROMISC_OFF, b"\xee"], room=()),
    "103-ack-of-a-page": done(PROMISC_OFF, changes=("promiscuous",), room=[4096]),
    "103-ack-behind-nothing": done(PROMISC_OFF, changes=("promiscuous",), room=[0, 1, 1]),
    "103-command-writable": Case(out=[], room=[3, 1]),
    "103-command-of-60000": refused(RX + bytes(60_000)),
    "103-mac-0": refused(MAC + b"\1" + bytes(6)),
    "103-mac-group": refused(MAC + b"\1" + b"\xff" * 6),
    "103-mac-5-bytes": refused(MAC + b"\1" + STATION[:5]),
    "103-mac-7-bytes": refused(MAC + b"\1" + STATION + b"\0"),
    "103-table-none": refused(SET_TABLE),
    "103-table-3-bytes": refused(SET_TABLE + b"\0\0\0"),
    "103-table-one-only": refused(SET_TABLE + table(1, 1)),
    **{
        f"103-table-{name}": refused(SET_TABLE + table(count, entries) + table(0, 0))
        for name, count, entries in (
            ("4g", 0xFFFFFFFF, 1),
            ("4g-of-6-wraps", 0x2AAAAAAB, 1),
            ("2g", 1 << 31, 1),
            ("one-short", 2, 1),
            ("none-but-one", 0, 1),
        )
    },
    "103-table-second-4g": refused(SET_TABLE + table(1, 1) + table(0xFFFFFFFF, 1)),
    "103-table-second-one-short": refused(SET_TABLE + table(1, 1) + table(2, 1)),
    "103-table-and-more": refused(SET_TABLE + table(1, 1) + table(1, 1) + b"\0"),
    "103-table-64": done(SET_TABLE + table(64, 64) + table(0, 0), changes=("unicast",)),
    "103-table-65": done(SET_TABLE + table(65, 65) + table(0, 0), changes=("unicast",)),
    "103-table-10000": done(
        SET_TABLE, table(10_000, 10_000), table(0, 0), changes=("unicast",)
    ),
    "103-vlan-0": done(VLAN + b"\0\0\0", changes=("vlans",)),
    "103-vlan-4095": done(VLAN + b"\0" + struct.pack("<H", 4095), changes=("vlans",)),
    "103-vlan-4096": refused(VLAN + b"\0" + struct.pack("<H", 4096)),
    "103-vlan-65535": refused(VLAN + b"\0" + struct.pack("<H", 65535)),
    "103-vlan-4096-removed": refused(VLAN + b"\1" + struct.pack("<H", 4096)),
    "103-vlan-1-byte": refused(VLAN + b"\0\1"),
    **{f"103-mq-{count}": refused(pairs(count)) for count in (0, 3, 128, 32768, 32769, 65535)},
    "103-mq-2": done(pairs(2), changes=("pairs",)),
    "103-mq-1-byte": refused(MQ + b"\0\1"),
    # CVE-2024-6505: receive-side scaling and hashes, which are not offered
    "103-rss-not-offered": refused(
        MQ + b"\1" + struct.pack("<IHHHH", 0x3F, 127, 0, 0xFFFF, 0xFFFF) + bytes(300)
    ),
    "103-rss-table-65535": refused(MQ + b"\1" + struct.pack("<IHH", 0x3F, 65535, 0)),
    "103-hash-key-255": refused(MQ + b"\2" + struct.pack("<IHB", 0x3F, 0, 255)),
    "103-offloads-all": refused(GUEST_OFFLOADS + b"\0" + b"\xff" * 8),
    "103-offloads-not-negotiated": refused(GUEST_OFFLOADS + b"\0" + struct.pack("<Q", 1 << 7)),
    "103-offloads-7-bytes": refused(GUEST_OFFLOADS + b"\0" + bytes(7)),
    "103-offloads-none": done(GUEST_OFFLOADS + b"\0" + bytes(8), changes=("offloads",)),
    "103-announce-with-data": refused(ANNOUNCE + b"\0\0"),
    "103-not-negotiated-rx": refused(
        PROMISC_OFF, features=without(NetFeatures.CTRL_RX, NetFeatures.CTRL_RX_EXTRA)
    ),
    "103-not-negotiated-mac": refused(
        MAC + b"\1" + STATION, features=without(NetFeatures.CTRL_MAC_ADDR)
    ),
    "103-not-negotiated-vlan": refused(
        VLAN + b"\0\1\0", features=without(NetFeatures.CTRL_VLAN)
    ),
    "103-not-negotiated-mq": refused(pairs(1), features=without(NetFeatures.MQ)),
    "103-not-negotiated-offloads": refused(
        GUEST_OFFLOADS + b"\0" + bytes(8), features=without(NetFeatures.CTRL_GUEST_OFFLOADS)
    ),
}  # fmt: skip
CASES = {
    f"{name}-{layout}": replace(case, features=case.features | ring)
    for layout, ring in LAYOUTS.items()
    for name, case in COMMANDS.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Case) -> None:
    options = NetOptions(queue_pairs=QUEUE_PAIRS)
    async with (
        NetSwitch.open() as switch,
        station(switch, case.features, options=options) as one,
        station(switch) as other,
    ):
        assert one.control is not None
        before, state = held(), one.device.port.state()
        queue, memory = one.control.queue, one.memory
        readable = [place(memory, contents) for contents in case.out]
        writable = [place(memory, bytes([BLANK]) * size) for size in case.room]
        assert await queue.transfer(readable, writable) == case.written
        filled = b"".join(memory.read(part.gpa, part.length) for part in writable)
        expected = bytes([case.answer]) + bytes([BLANK]) * (len(filled) - 1) if filled else b""
        assert filled == expected
        now = one.device.port.state()
        fields = [name for name in now.__dataclass_fields__ if name != "changes"]
        assert [name for name in fields if getattr(now, name) != getattr(state, name)] == list(
            case.changes
        )
        assert now.changes - state.changes == (case.answer == OK)
        rings = one.device.datapath.statistics()
        assert [ring.actual for ring in rings[:2]] == [RingActual.RUNNING] * 2
        if "promiscuous" not in case.changes:
            await exchange(one, other)
        assert not held().more_than(before)
