"""The hostile-input catalogue's items on packed rings, 78-83.

Each row runs on the engine's device ring between guard pages, with the oracle beside it; see
`hostile_rings.check` for what must hold besides the outcome.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from hostile_rings import DATA, HOLE, NUM, PACKED, Case, Guest, case, check

from protocol.virtio import DescFlags, VirtioFeatures
from vhostuser.virtqueue import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ring_rig import TwinMemory

NEXT, WRITE, INDIRECT = DescFlags.NEXT, DescFlags.WRITE, DescFlags.INDIRECT
NOTHING = DescFlags(0)

packed = functools.partial(case, features=PACKED)


def one(length: int = 4, *, id: int = 0, flip: DescFlags = NOTHING) -> Callable[[Guest], None]:  # noqa: A002
    """Make one writable buffer available."""
    return lambda guest: guest.packed((DATA, length, WRITE), id=id, flip=flip)


def indirect(
    length: int = 16, flags: DescFlags = INDIRECT, at: int | None = None
) -> Callable[[Guest], None]:
    """Make an indirect table of two entries available, or say that it is elsewhere or longer."""

    def write(guest: Guest) -> None:
        guest.packed_table((DATA, 4, NEXT), (DATA, 8, WRITE | NEXT))
        guest.packed((guest.table if at is None else at, length, flags))

    return write


def same_id_twice(guest: Guest) -> None:
    guest.packed((DATA, 4, WRITE), id=3)
    guest.packed((DATA, 8, WRITE), id=3)


def whole_ring(guest: Guest) -> None:
    guest.packed(*[(DATA, 4, NEXT)] * (guest.num - 1), (DATA, 4, NOTHING))


def nested(guest: Guest) -> None:
    guest.packed_table((DATA, 16, INDIRECT))
    guest.packed((guest.table, 16, INDIRECT))


def with_event(event: bytes) -> Callable[[Guest], None]:
    """Make a buffer available, and write the driver's event suppression structure."""

    def write(guest: Guest) -> None:
        guest.packed((DATA, 4, WRITE))
        guest.memory.write(guest.driver_area, event)

    return write


CASES = [
    packed("78-avail-and-used-both-set", one(flip=DescFlags.USED), None),
    packed("78-avail-and-used-both-clear", one(flip=DescFlags.AVAIL), None),
    packed("78-wrong-lap", one(flip=DescFlags.AVAIL | DescFlags.USED), None),
    packed("79-id-num", one(id=NUM), Fault.ID),
    packed("79-id-65535", one(id=65535), Fault.ID),
    packed("79-same-id-twice", same_id_twice, ([], [(DATA, 4)]), Fault.IN_FLIGHT),
    packed(
        "79-more-slots-than-the-ring-has",
        whole_ring,
        ([(DATA, 4)] * NUM, []),
        Fault.AVAIL_JUMP,
        then=one(id=1),
    ),
    packed(
        "80-chain-crosses-the-ring-end",
        lambda guest: guest.packed((DATA, 4, NEXT), (DATA, 8, NEXT), (DATA, 16, WRITE), id=5),
        ([(DATA, 4), (DATA, 8)], [(DATA, 16)]),
        None,
        start=NUM - 1,
    ),
    packed(
        "80-odd-ring-size",
        lambda guest: guest.packed((DATA, 4, NEXT), (DATA, 8, WRITE), id=6),
        ([(DATA, 4)], [(DATA, 8)]),
        None,
        num=7,
        start=6,
    ),
    packed("80-whole-ring-is-legal", whole_ring, ([(DATA, 4)] * NUM, []), None, start=3),
    packed(
        "81-next-forever",
        lambda guest: guest.packed(*[(DATA, 1, NEXT)] * NUM),
        Fault.CHAIN_LENGTH,
    ),
    packed(
        "81-next-forever-in-the-largest-ring",
        lambda guest: guest.packed(*[(DATA, 0, NEXT)] * 32768),
        Fault.CHAIN_LENGTH,
        num=32768,
    ),
    packed("82-indirect-with-next", indirect(flags=INDIRECT | NEXT), Fault.INDIRECT_NEXT),
    packed(
        "82-indirect-after-direct",
        lambda guest: guest.packed((DATA, 4, NEXT), (guest.table, 16, INDIRECT)),
        Fault.INDIRECT_NEXT,
    ),
    packed("82-next-in-a-table-is-ignored", indirect(length=32), ([(DATA, 4)], [(DATA, 8)])),
    packed("82-indirect-in-indirect", nested, Fault.INDIRECT_NESTED),
    *(
        packed(f"82-indirect-length-{length}", indirect(length), Fault.INDIRECT_SIZE)
        for length in (0, 15, 17, 16 * 1025)
    ),
    packed("82-indirect-unmapped", indirect(at=HOLE), Fault.INDIRECT_ADDRESS),
    packed(
        "82-indirect-not-negotiated",
        indirect(),
        Fault.INDIRECT_FEATURE,
        features=PACKED ^ VirtioFeatures.INDIRECT_DESC,
    ),
    *(
        packed(
            f"83-{name}",
            with_event(event),
            ([], [(DATA, 4)]),
            features=PACKED | VirtioFeatures.EVENT_IDX,
            call=call,
        )
        for name, event, call in [
            ("event-flags-3", b"\0\0\3\0", True),
            ("reserved-event-flags", b"\0\0\xfd\xff", False),
            ("event-offset-num", b"\x08\x80\2\0", True),
            ("event-offset-32767", b"\xff\xff\2\0", True),
            ("event-in-the-lap-before", b"\0\0\2\0", False),
        ]
    ),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in CASES])
def hostile(memory: TwinMemory, row: Case) -> None:
    check(memory, row)
