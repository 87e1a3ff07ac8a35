"""The hostile-input catalogue's items on rings and buffers that overlap and on wild notifications.

Items 71, 72, 75 and 76, on both layouts. Each row runs on the engine's device ring between guard
pages, with the oracle beside it; see `hostile_rings.check` for what must hold besides the outcome.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hostile_rings import DATA, NUM, PACKED, RING, SPLIT, Case, Guest, case, check
from ring_rig import RingPlace, TwinMemory

from protocol.virtio import DescFlags, RingArea, VirtioFeatures
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from collections.abc import Callable

NEXT, WRITE, INDIRECT = DescFlags.NEXT, DescFlags.WRITE, DescFlags.INDIRECT
NOTHING = DescFlags(0)
LAYOUTS = {"split": SPLIT, "packed": PACKED}
EVENT_IDX = VirtioFeatures.EVENT_IDX
AREAS = {
    "descriptors": RingArea.DESC,
    "driver-area": RingArea.DRIVER,
    "device-area": RingArea.DEVICE,
}


def area_of(features: VirtioFeatures, area: RingArea) -> tuple[int, int]:
    """Where an area of the rows' rings lies, and its size."""
    state = RingState(avail=0, used=0)
    return RingPlace(features=features, num=NUM, gpa=RING, state=state).area(area)


def two(guest: Guest, first: tuple[int, int], *, features: VirtioFeatures) -> None:
    """Make two chains available, each one writable buffer; the second is `DATA`."""
    address, length = first
    if VirtioFeatures.RING_PACKED in features:
        guest.packed((address, length, WRITE), id=0)
        guest.packed((DATA, 8, WRITE), id=1)
    else:
        guest.descs((address, length, WRITE, 0), (DATA, 8, WRITE, 0))
        guest.avail(0, 1)


def onto_the_ring(name: str, features: VirtioFeatures, area: RingArea) -> Case:
    """The device fills a buffer that is part of the ring."""
    place = area_of(features, area)
    return case(
        name,
        lambda guest: two(guest, place, features=features),
        ([], [place]),
        ([], [(DATA, 8)]),
        features=features,
    )


def onto_its_table(name: str, features: VirtioFeatures) -> Case:
    """The device fills a buffer that is the very table by which it was found."""
    state = RingState(avail=0, used=0)
    table = RingPlace(features=features, num=NUM, gpa=RING, state=state).end

    def write(guest: Guest) -> None:
        if VirtioFeatures.RING_PACKED in features:
            guest.packed_table((DATA, 4, NEXT), (table, 32, WRITE))
            guest.packed((table, 32, INDIRECT))
        else:
            guest.descs((DATA, 4, NEXT, 1), (table, 32, WRITE, 0), at=table)
            guest.descs((table, 32, INDIRECT, 0))
            guest.avail(0)

    return case(name, write, ([(DATA, 4)], [(table, 32)]), None, features=features)


def same_bytes(name: str, features: VirtioFeatures) -> Case:
    """One buffer is to be read and, shifted by some bytes, to be written."""

    def write(guest: Guest) -> None:
        if VirtioFeatures.RING_PACKED in features:
            guest.packed((DATA, 16, NEXT), (DATA, 16, NEXT | WRITE), (DATA + 8, 16, WRITE))
        else:
            guest.descs((DATA, 16, NEXT, 1), (DATA, 16, NEXT | WRITE, 2), (DATA + 8, 16, WRITE, 0))
            guest.avail(0)

    outcome = ([(DATA, 16)], [(DATA, 16), (DATA + 8, 16)])
    return case(name, write, outcome, None, features=features)


def scribbled(
    name: str, scribble: Callable[[Guest], object], *, features: VirtioFeatures = SPLIT
) -> Case:
    """Between two pops the driver writes where only the device may; the second comes anyway."""
    return case(
        name,
        lambda guest: two(guest, (DATA + 64, 8), features=features),
        ([], [(DATA + 64, 8)]),
        ([], [(DATA, 8)]),
        None,
        then=scribble,
        features=features,
    )


def fill(area: RingArea, byte: int, features: VirtioFeatures) -> Callable[[Guest], object]:
    address, size = area_of(features, area)
    return lambda guest: guest.memory.write(address, bytes([byte]) * size)


def used_index(value: int) -> Callable[[Guest], object]:
    return lambda guest: guest.memory.write_u16(guest.device_area + 2, value)


def split_event(name: str, event: int, *, chains: int, call: bool) -> Case:
    """The used index goes from 65535 over 0; the driver wants a call at `event`."""

    def write(guest: Guest) -> None:
        guest.descs(*[(DATA, 4, WRITE, 0)] * chains)
        guest.avail(*range(chains))
        guest.memory.write_u16(guest.driver_area + 4 + 2 * guest.num, event)

    return case(
        name,
        write,
        *[([], [(DATA, 4)])] * chains,
        None,
        features=SPLIT | EVENT_IDX,
        start=65535,
        call=call,
    )


def packed_event(name: str, offset: int, wrap: int, *, chains: int, call: bool) -> Case:
    """Used descriptors go from the ring's last slot into the next lap."""

    def write(guest: Guest) -> None:
        for number in range(chains):
            guest.packed((DATA, 4, WRITE), id=number)
        guest.memory.write(guest.driver_area, struct.pack("<HH", offset | wrap << 15, 2))

    return case(
        name,
        write,
        *[([], [(DATA, 4)])] * chains,
        None,
        features=PACKED | EVENT_IDX,
        start=NUM - 1,
        call=call,
    )


CASES = [
    *(
        onto_the_ring(f"71-onto-the-{name}-{layout}", features | EVENT_IDX, area)
        for layout, features in LAYOUTS.items()
        for name, area in AREAS.items()
    ),
    *(onto_its_table(f"71-onto-its-table-{name}", bits) for name, bits in LAYOUTS.items()),
    *(same_bytes(f"72-read-and-written-{name}", bits) for name, bits in LAYOUTS.items()),
    *(
        scribbled(
            f"75-device-area-{byte:02x}-{name}",
            fill(RingArea.DEVICE, byte, bits | EVENT_IDX),
            features=bits | EVENT_IDX,
        )
        for name, bits in LAYOUTS.items()
        for byte in (0x00, 0x01, 0x7F, 0xFF)
    ),
    *(scribbled(f"75-used-index-{value}", used_index(value)) for value in (1, 2, 9, 32768, 65535)),
    split_event("76-split-at-65535", 65535, chains=1, call=True),
    split_event("76-split-at-65534", 65534, chains=1, call=False),
    split_event("76-split-at-0", 0, chains=1, call=False),
    split_event("76-split-both-at-65535", 65535, chains=2, call=True),
    split_event("76-split-both-at-0", 0, chains=2, call=True),
    split_event("76-split-both-at-1", 1, chains=2, call=False),
    split_event("76-split-both-far-away", 32767, chains=2, call=False),
    packed_event("76-packed-at-the-last", NUM - 1, 1, chains=1, call=True),
    packed_event("76-packed-before-the-last", NUM - 2, 1, chains=1, call=False),
    packed_event("76-packed-at-the-first", 0, 0, chains=1, call=False),
    packed_event("76-packed-both-at-the-last", NUM - 1, 1, chains=2, call=True),
    packed_event("76-packed-both-at-the-first", 0, 0, chains=2, call=True),
    packed_event("76-packed-both-at-the-second", 1, 0, chains=2, call=False),
    packed_event("76-packed-both-a-lap-ago", 0, 1, chains=2, call=False),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in CASES])
def hostile(memory: TwinMemory, row: Case) -> None:
    check(memory, row)
