"""What hostile-input tests of rings share: a driver without manners, a table row, and its check.

A row says what the driver writes and what each pop must give. The check plays it on a ring between
guard pages, on the engine and the oracle at once, and sees to it that nothing else changes in
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ring_rig import RingPlace, RingTwin, TwinMemory

from protocol.virtio import (
    DescFlags,
    PackedDesc,
    RingArea,
    SplitDesc,
    VirtioFeatures,
    packed_advance,
    packed_flags,
)
from vhostuser.virtqueue import Buffer, Chain, Fault, RingFaultError, RingState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DATA",
    "DATA_SIZE",
    "HOLE",
    "NEXT_DATA",
    "NUM",
    "PACKED",
    "RING",
    "SIZES",
    "SPLIT",
    "Case",
    "Guest",
    "case",
    "check",
]

RING, RING_SIZE = 0x100000, 0x100000
DATA, DATA_SIZE = RING + RING_SIZE, 0x22000  # adjacent to the ring's region
NEXT_DATA, NEXT_DATA_SIZE = DATA + DATA_SIZE, 0x1000  # adjacent to the one before
HOLE = NEXT_DATA + NEXT_DATA_SIZE
SIZES = {RING: RING_SIZE, DATA: DATA_SIZE, NEXT_DATA: NEXT_DATA_SIZE}

NUM = 8
SPLIT = VirtioFeatures.VERSION_1 | VirtioFeatures.INDIRECT_DESC
PACKED = SPLIT | VirtioFeatures.RING_PACKED
MAGIC = b"\xa5"


class Guest:
    """A driver that writes whatever it likes into its ring."""

    def __init__(self, memory: TwinMemory, place: RingPlace) -> None:
        self.memory = memory
        self.num = place.num
        self.state = place.state
        self.table = place.end
        """Where an indirect table may lie."""
        self.desc_area, self.driver_area, self.device_area = (
            place.area(area)[0] for area in RingArea
        )

    def descs(self, *descs: tuple[int, int, DescFlags, int], at: int | None = None) -> None:
        """Write split descriptors (address, length, flags, next) from a place on."""
        self._write(self.desc_area if at is None else at, [SplitDesc(*desc) for desc in descs])

    def packed(self, *descs: tuple[int, int, DescFlags], id: int = 0, flip: int = 0) -> None:  # noqa: A002
        """Make a packed chain available at the ring's position.

        Args:
            descs: address, length and flags of each.
            id: the buffer id that they all have.
            flip: flags to invert in the first.
        """
        position = self.state.avail, self.state.avail_wrap
        for number, (address, length, flags) in enumerate(descs):
            offset, wrap = position
            full = flags | packed_flags(wrap=wrap, used=False)
            if number == 0:
                full = DescFlags(full ^ flip)
            place = self.desc_area + 16 * offset
            self._write(place, [PackedDesc(address, length, id, full)])
            position = packed_advance(position, 1, self.num)
        self.state = RingState(avail=position[0], used=0, avail_wrap=position[1])

    def packed_table(self, *descs: tuple[int, int, DescFlags]) -> None:
        """Write an indirect table for a packed ring."""
        self._write(self.table, [PackedDesc(*desc[:2], 0, desc[2]) for desc in descs])

    def _write(self, gpa: int, descs: list[SplitDesc] | list[PackedDesc]) -> None:
        self.memory.write(gpa, b"".join(map(bytes, descs)))

    def avail(self, *heads: int, index: int | None = None) -> None:
        """Make split chains available, or say that the available index is another one."""
        start = self.state.avail
        for number, head in enumerate(heads):
            place = self.driver_area + 4 + 2 * ((start + number) % self.num)
            self.memory.write_u16(place, head)
        self.memory.write_u16(self.driver_area + 2, start + len(heads) if index is None else index)


Parts: TypeAlias = list[tuple[int, int]]
Outcome: TypeAlias = Fault | tuple[Parts, Parts] | None
"""What a pop gives: a fault, the readable and writable parts of a chain, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a table of hostile rings.

    Attributes:
        name: number in the catalogue and variant.
        write: what the driver does first.
        pops: what each pop gives.
        then: what the driver does after the first pop.
        features: of the ring.
        num: ring size.
        start: where the ring starts.
        call: whether the driver is called when the chains come back; None: any answer will do.
    """

    name: str
    write: Callable[[Guest], object]
    pops: tuple[Outcome, ...]
    then: Callable[[Guest], object] | None
    features: VirtioFeatures
    num: int
    start: int
    call: bool | None


def case(  # noqa: PLR0913 - a row of a table
    name: str,
    write: Callable[[Guest], object],
    *pops: Outcome,
    then: Callable[[Guest], object] | None = None,
    features: VirtioFeatures = SPLIT,
    num: int = NUM,
    start: int = 0,
    call: bool | None = None,
) -> Case:
    """Return a row, of which most fields seldom differ."""
    return Case(
        name=name,
        write=write,
        pops=pops,
        then=then,
        features=features,
        num=num,
        start=start,
        call=call,
    )


def check(memory: TwinMemory, row: Case) -> None:
    """Play a row."""
    state = RingState(avail=row.start, used=row.start)
    place = RingPlace(features=row.features, num=row.num, gpa=RING, state=state)
    memory.clear()
    place.start_used(memory)
    guest = Guest(memory, place)
    row.write(guest)
    twin = RingTwin(memory, place)
    try:
        for number, expected in enumerate(row.pops):
            if number == 1 and row.then is not None:
                row.then(guest)
            _pop(twin, expected)
        before = memory.contents()
        call = _give_back(twin)
        assert call == row.call or row.call is None
        _assert_only_changed(before, memory.contents(), _allowed(place, row))
    finally:
        twin.close()


def _pop(twin: RingTwin, expected: Outcome) -> None:
    before, state = twin.memory.contents(), twin.pure.state()
    assert _outcome(twin.pop()) == expected
    assert twin.memory.contents() == before, "popping writes nothing"
    if isinstance(expected, Fault):
        assert _outcome(twin.pop()) == expected, "a broken ring stays broken"
        assert twin.pure.state() == state, "a fault moves nothing"


def _outcome(popped: Chain | RingFaultError | None) -> Outcome:
    if isinstance(popped, RingFaultError):
        return popped.fault
    if popped is None:
        return None
    readable, writable = (
        [(part.address, part.length) for part in parts]
        for parts in (popped.readable, popped.writable)
    )
    return readable, writable


def _give_back(twin: RingTwin) -> bool:
    """Fill the writable part of every chain in flight, on both sides, and push it."""
    while twin.in_flight:
        pure, engine = twin.in_flight[0]
        for part, mapped in zip(pure.writable, engine.writable, strict=True):
            twin.memory.oracle.write(part.address, MAGIC * part.length)
            twin.engine.view(mapped)[:] = MAGIC * mapped.length
        twin.push(0, sum(part.length for part in pure.writable))
    call = twin.publish()
    twin.kick_enable()
    twin.kick_disable()
    return call


def _allowed(place: RingPlace, row: Case) -> list[Buffer]:
    """Return what a device may write: its own area, used descriptors, the writable buffers."""
    areas = [RingArea.DEVICE, RingArea.DESC] if place.packed else [RingArea.DEVICE]
    own = [Buffer(*place.area(area)) for area in areas]
    given = [pop[1] for pop in row.pops if isinstance(pop, tuple)]
    return own + [Buffer(*part) for parts in given for part in parts]


def _assert_only_changed(
    before: dict[int, bytes], after: dict[int, bytes], where: list[Buffer]
) -> None:
    for gpa, region in before.items():
        masked = bytearray(after[gpa])
        for buffer in where:
            start = buffer.address - gpa
            if 0 <= start < len(region):
                masked[start : start + buffer.length] = region[start : start + buffer.length]
        assert masked == region, "a byte changed that the device was not given"
