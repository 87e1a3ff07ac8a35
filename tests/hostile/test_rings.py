"""The hostile-input catalogue's items on split rings, 54-70.

Each row runs on the engine's device ring between guard pages, with the oracle beside it; see
`hostile_rings.check` for what must hold besides the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hostile_rings import (
    DATA,
    DATA_SIZE,
    HOLE,
    NEXT_DATA,
    NUM,
    RING,
    Case,
    Guest,
    case,
    check,
)

from protocol.virtio import DescFlags, VirtioFeatures
from vhostuser.virtqueue import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ring_rig import TwinMemory

NEXT, WRITE, INDIRECT = DescFlags.NEXT, DescFlags.WRITE, DescFlags.INDIRECT
NOTHING = DescFlags(0)


def chain(*descs: tuple[int, int, DescFlags, int]) -> Callable[[Guest], None]:
    """Write a split chain from descriptor 0 on and make it available."""

    def write(guest: Guest) -> None:
        guest.descs(*descs)
        guest.avail(0)

    return write


def one(address: int, length: int, flags: DescFlags = WRITE) -> Callable[[Guest], None]:
    return chain((address, length, flags, 0))


def table(
    *descs: tuple[int, int, DescFlags, int],
    length: int | None = None,
    flags: DescFlags = INDIRECT,
    shift: int = 0,
) -> Callable[[Guest], None]:
    """Write a split indirect table, and a chain that is nothing but a pointer to it."""

    def write(guest: Guest) -> None:
        size = 16 * len(descs) if length is None else length
        guest.descs(*descs, at=guest.table + shift)
        guest.descs((guest.table + shift, size, flags, 0))
        guest.avail(0)

    return write


def loop_at_end_of_longest_chain(guest: Guest) -> None:
    descs = [(DATA, 1, NEXT, index + 1) for index in range(guest.num)]
    descs[-1] = (DATA, 1, NEXT, guest.num - 1)
    guest.descs(*descs)
    guest.avail(0)


def table_is_the_ring(guest: Guest) -> None:
    guest.descs((guest.desc_area, 16 * guest.num, INDIRECT, 0))
    guest.avail(0)


def longest_chain(length: int, last: int) -> Callable[[Guest], None]:
    """Write a chain through the whole ring, whose last descriptor names another one."""

    def write(guest: Guest) -> None:
        flags = NEXT if last < guest.num else DescFlags(0)
        descs = [(DATA, length, NEXT, index + 1) for index in range(guest.num - 1)]
        guest.descs(*descs, (DATA, length, flags, last % guest.num))
        guest.avail(0)

    return write


def fragmented(guest: Guest) -> None:
    entries = [(DATA + DATA_SIZE - 1, 2, NEXT, index + 1) for index in range(1023)]
    table(*entries, (DATA + DATA_SIZE - 1, 2, DescFlags(0), 0))(guest)


def shared_descriptor(guest: Guest) -> None:
    guest.descs((DATA, 4, NEXT, 2), (DATA + 8, 4, NEXT, 2), (DATA + 16, 4, WRITE, 0))
    guest.avail(0, 1)


def same_head_twice(guest: Guest) -> None:
    guest.descs((DATA, 4, WRITE, 0))
    guest.avail(0, 0)


RESERVED = DescFlags(0xFFF8)

CASES = [
    case("54-jump-num-plus-1", lambda guest: guest.avail(index=NUM + 1), Fault.AVAIL_JUMP),
    case("54-jump-32768", lambda guest: guest.avail(index=32768), Fault.AVAIL_JUMP),
    case("54-backwards-by-1", lambda guest: guest.avail(index=99), Fault.AVAIL_JUMP, start=100),
    case(
        "54-wraps-65535-to-0-is-legal",
        lambda guest: (guest.descs((DATA, 4, WRITE, 0), (DATA, 5, WRITE, 0)), guest.avail(0, 1)),
        ([], [(DATA, 4)]),
        ([], [(DATA, 5)]),
        None,
        start=65535,
    ),
    case("55-head-num", lambda guest: guest.avail(NUM), Fault.HEAD),
    case("55-head-65535", lambda guest: guest.avail(65535), Fault.HEAD),
    case("56-next-num", chain((DATA, 4, NEXT, NUM)), Fault.NEXT),
    case("56-next-65535", chain((DATA, 4, NEXT, 65535)), Fault.NEXT),
    case("56-next-beyond-its-table", table((DATA, 4, NEXT, 1)), Fault.NEXT),
    case("57-self-loop", chain((DATA, 4, NEXT, 0)), Fault.CHAIN_LENGTH),
    case("57-loop-of-2", chain((DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)), Fault.CHAIN_LENGTH),
    case("57-loop-at-the-end", loop_at_end_of_longest_chain, Fault.CHAIN_LENGTH),
    case(
        "57-loop-of-empty-buffers",
        chain((DATA, 0, NEXT, 1), (DATA, 0, NEXT, 0)),
        Fault.CHAIN_LENGTH,
    ),
    case("58-loop-in-a-table", table((DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)), Fault.CHAIN_LENGTH),
    case("58-table-is-the-ring", table_is_the_ring, Fault.INDIRECT_NESTED),
    case("59-num-is-legal", longest_chain(1, NUM), ([(DATA, 1)] * NUM, [])),
    case("59-num-plus-1", longest_chain(1, 0), Fault.CHAIN_LENGTH),
    case("60-32768-is-legal", longest_chain(1, 32768), ([(DATA, 1)] * 32768, []), num=32768),
    case(
        "60-sum-beyond-4-gib",
        longest_chain(DATA_SIZE, 32768),
        ([(DATA, DATA_SIZE)] * 32768, []),
        num=32768,
    ),
    case(
        "61-length-0-first",
        chain((HOLE, 0, NEXT | WRITE, 1), (DATA, 4, NEXT, 2), (DATA, 8, WRITE, 0)),
        ([(DATA, 4)], [(DATA, 8)]),
    ),
    case(
        "61-length-0-in-the-middle",
        chain((DATA, 4, NEXT, 1), (HOLE, 0, NEXT, 2), (DATA, 8, WRITE, 0)),
        ([(DATA, 4)], [(DATA, 8)]),
    ),
    case(
        "61-length-0-last",
        chain((DATA, 4, NEXT, 1), (DATA, 8, NEXT | WRITE, 2), (HOLE, 0, NOTHING, 0)),
        ([(DATA, 4)], [(DATA, 8)]),
    ),
    case("61-length-0-alone", one(HOLE, 0), ([], [])),
    case("62-unmapped", one(HOLE, 1), Fault.ADDRESS),
    case("62-unmapped-below", one(RING - 1, 1), Fault.ADDRESS),
    case("62-wraps", one((1 << 64) - 8, 16), Fault.ADDRESS),
    case("62-wraps-to-0", one((1 << 64) - 8, 8), Fault.ADDRESS),
    case("62-wraps-into-memory", one((1 << 64) - 8, 0xFFFF_FFFF), Fault.ADDRESS),
    case("62-length-ffffffff", one(DATA, 0xFFFF_FFFF), Fault.ADDRESS),
    case("62-last-byte-is-legal", one(HOLE - 1, 1), ([], [(HOLE - 1, 1)])),
    case("62-one-byte-too-far", one(HOLE - 1, 2), Fault.ADDRESS),
    case("62-starts-before-memory", one(RING - 1, 2), Fault.ADDRESS),
    case(
        "62-crosses-into-the-adjacent-region",
        one(NEXT_DATA - 3, 8),
        ([], [(NEXT_DATA - 3, 3), (NEXT_DATA, 5)]),
    ),
    case("62-crosses-two-edges-into-a-hole", one(NEXT_DATA - 3, 0x2000), Fault.ADDRESS),
    case("62-crosses-too-many-edges", fragmented, Fault.FRAGMENTED),
    case(
        "63-readable-after-writable",
        chain((DATA, 4, NEXT | WRITE, 1), (DATA, 4, NOTHING, 0)),
        Fault.DIRECTION,
    ),
    case(
        "63-readable-in-a-table-after-writable",
        table((DATA, 4, NEXT | WRITE, 1), (DATA, 4, NOTHING, 0)),
        Fault.DIRECTION,
    ),
    case("64-indirect-in-indirect", table((DATA, 16, INDIRECT, 0)), Fault.INDIRECT_NESTED),
    case(
        "65-indirect-with-next",
        table((DATA, 4, NOTHING, 0), flags=INDIRECT | NEXT),
        Fault.INDIRECT_NEXT,
    ),
    *(
        case(
            f"66-indirect-length-{length}",
            table((DATA, 4, NOTHING, 0), length=length),
            Fault.INDIRECT_SIZE,
        )
        for length in (0, 15, 17, 16 * 1025, 16 * 65536, 0xFFFF_FFF0)
    ),
    case(
        "66-indirect-of-1024-is-legal",
        table((DATA, 4, NOTHING, 0), length=16 * 1024),
        ([(DATA, 4)], []),
    ),
    case("67-indirect-unmapped", chain((HOLE, 16, INDIRECT, 0)), Fault.INDIRECT_ADDRESS),
    case(
        "67-indirect-crosses-regions",
        chain((NEXT_DATA - 16, 32, INDIRECT, 0)),
        Fault.INDIRECT_ADDRESS,
    ),
    case(
        "67-indirect-crosses-the-end", chain((HOLE - 16, 32, INDIRECT, 0)), Fault.INDIRECT_ADDRESS
    ),
    case("67-indirect-wraps", chain(((1 << 64) - 16, 32, INDIRECT, 0)), Fault.INDIRECT_ADDRESS),
    case(
        "67-indirect-unaligned-is-legal",
        table((DATA, 4, NEXT, 1), (DATA, 8, WRITE, 0), shift=1),
        ([(DATA, 4)], [(DATA, 8)]),
    ),
    case(
        "67-indirect-after-direct-is-legal",
        lambda guest: (
            guest.descs((DATA + 64, 4, WRITE, 0), at=guest.table),
            chain((DATA, 4, NEXT, 1), (guest.table, 16, INDIRECT, 0))(guest),
        ),
        ([(DATA, 4)], [(DATA + 64, 4)]),
    ),
    case(
        "68-indirect-not-negotiated",
        table((DATA, 4, NOTHING, 0)),
        Fault.INDIRECT_FEATURE,
        features=VirtioFeatures.VERSION_1,
    ),
    case("69-reserved-flags-are-ignored", one(DATA, 4, WRITE | RESERVED), ([], [(DATA, 4)])),
    case(
        "70-two-chains-share-a-descriptor",
        shared_descriptor,
        ([(DATA, 4)], [(DATA + 16, 4)]),
        ([(DATA + 8, 4)], [(DATA + 16, 4)]),
        None,
    ),
    case("70-same-head-twice", same_head_twice, ([], [(DATA, 4)]), Fault.IN_FLIGHT),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in CASES])
def hostile(memory: TwinMemory, row: Case) -> None:
    check(memory, row)
