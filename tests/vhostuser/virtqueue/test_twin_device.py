"""Property: whatever a driver does, the engine's device ring and its Python twin do the same.

An example is a ring and a programme. Legal steps go through a driver ring, illegal ones write
straight into guest memory; after each step results, faults, positions and every byte of memory are
compared.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_rig import GuardedMemory, RingPlace, RingTwin, TwinMemory

from protocol.virtio import (
    DescFlags,
    PackedDesc,
    RingArea,
    SplitDesc,
    VirtioFeatures,
    packed_flags,
)
from vhostuser.virtqueue import (
    Buffer,
    PureDriverRing,
    PureIndirectTables,
    RingFaultError,
    RingState,
    UsedRingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "rings"))

RING, RING_SIZE = 0x10000, 0xC000
NEAR, NEAR_SIZE = RING + RING_SIZE, 0x1000  # adjacent to the ring's region
FAR, FAR_SIZE = 0x40000, 0x1000
TABLE_ENTRIES = 4  # of the legal driver's tables

LEGAL_BUFFERS = [
    Buffer(NEAR, 16),
    Buffer(NEAR + 0x100, 1),
    Buffer(NEAR - 8, 16),  # lies in two adjacent regions
    Buffer(NEAR + NEAR_SIZE - 1, 1),
    Buffer(FAR, FAR_SIZE),
    Buffer(NEAR + 0x200, 0),
    Buffer(0xDEAD0000, 0),  # of length 0, so nobody looks where it is
    Buffer(RING, RING_SIZE + NEAR_SIZE),
]
ADDRESSES = [
    NEAR,
    NEAR - 1,
    NEAR + NEAR_SIZE - 1,
    NEAR + NEAR_SIZE,
    FAR,
    FAR - 1,
    FAR + FAR_SIZE - 16,
    RING,
    0,
    (1 << 64) - 16,
    (1 << 63),
    NEAR + 3,
]
LENGTHS = [0, 1, 15, 16, 17, 32, 64, 4096, 1024 * 16, 1025 * 16, 0xFFFF_FFFF, 0xFFFF_FFF0]
FLAGS = [
    DescFlags(0),
    DescFlags.NEXT,
    DescFlags.WRITE,
    DescFlags.WRITE | DescFlags.NEXT,
    DescFlags.INDIRECT,
    DescFlags.INDIRECT | DescFlags.NEXT,
    DescFlags.INDIRECT | DescFlags.WRITE,
    DescFlags(0x7F78),
]
LENGTH_WRITTEN = [0, 1, 513, 0xFFFF_FFFF]

SPLIT_SIZES = [1, 2, 4, 8, 32, 256]
PACKED_SIZES = [1, 2, 3, 5, 8, 33, 256]


@st.composite
def places(draw: st.DrawFn) -> RingPlace:
    """Rings of all shapes that a start with the used index at the available one can have."""
    features = VirtioFeatures(0)
    for feature in (
        VirtioFeatures.INDIRECT_DESC,
        VirtioFeatures.EVENT_IDX,
        VirtioFeatures.IN_ORDER,
        VirtioFeatures.RING_PACKED,
    ):
        if draw(st.booleans()):
            features |= feature
    if VirtioFeatures.RING_PACKED in features:
        num = draw(st.sampled_from(PACKED_SIZES))
        start, wrap = draw(st.integers(0, num - 1)), draw(st.booleans())
    else:
        num = draw(st.sampled_from(SPLIT_SIZES))
        start, wrap = draw(st.sampled_from([0, 1, 65535, 65534, 65280, 32767])), True
    state = RingState(avail=start, used=start, avail_wrap=wrap, used_wrap=wrap)
    return RingPlace(features=features, num=num, gpa=RING, state=state)


class Programme:
    """Carries out one example; a step is the name of a method and three numbers it makes use of."""

    def __init__(self, memory: TwinMemory, place: RingPlace) -> None:
        memory.clear()
        place.start_used(memory)
        self.memory = memory
        self.place = place
        self.twin = RingTwin(memory, place)
        self.tables = place.end
        self.offers = 0
        self.driver = PureDriverRing(
            memory,
            place.pure(),
            indirect=PureIndirectTables(entries=TABLE_ENTRIES, gpa=self.tables),
        )
        self.desc, self.driver_area, self.device_area = (place.area(area)[0] for area in RingArea)

    # What a driver that keeps the rules does.

    def add(self, shape: int, first: int, indirect: int) -> None:
        readable, writable = shape % 4, shape // 4 % 4
        parts = [
            LEGAL_BUFFERS[(first + number) % len(LEGAL_BUFFERS)]
            for number in range(readable + writable)
        ]
        longest = TABLE_ENTRIES if indirect % 2 else self.place.num
        can_indirect = VirtioFeatures.INDIRECT_DESC in self.place.features
        if 0 < len(parts) <= longest and (can_indirect or not indirect % 2):
            self.driver.add(parts[:readable], parts[readable:], indirect=bool(indirect % 2))
        if indirect & 2:
            self.driver.publish()

    def add_many(self, count: int, first: int, indirect: int) -> None:
        for number in range(count % 64):
            self.add(1 + number % 5, first + number, indirect)

    def show(self, *_: int) -> None:
        self.driver.publish()

    def take_used(self, *_: int) -> None:
        try:
            self.driver.pop_used()
        except UsedRingError:
            return  # its ring was tampered with

    def call_enable(self, *_: int) -> None:
        self.driver.call_enable()

    def call_disable(self, *_: int) -> None:
        self.driver.call_disable()

    # What the device does.

    def pop(self, *_: int) -> None:
        self.twin.pop()

    def pop_all(self, *_: int) -> None:
        for _turn in range(300):
            outcome = self.twin.pop()
            if outcome is None or isinstance(outcome, RingFaultError):
                return

    def push(self, which: int, written: int, *_: int) -> None:
        if self.twin.in_flight:
            self.twin.push(
                which % len(self.twin.in_flight), LENGTH_WRITTEN[written % len(LENGTH_WRITTEN)]
            )

    def push_all(self, *_: int) -> None:
        while self.twin.in_flight:
            self.twin.push(0, 1)

    def publish(self, *_: int) -> None:
        self.twin.publish()

    def serve(self, count: int, which: int, written: int) -> None:
        """Pop some chains, push as many back, publish."""
        for _turn in range(1 + count % 8):
            self.pop()
            self.push(which, written)
        self.twin.publish()

    def kick_enable(self, *_: int) -> None:
        self.twin.kick_enable()

    def kick_disable(self, *_: int) -> None:
        self.twin.kick_disable()

    # What a driver that breaks the rules does.

    def offer(self, *seed: int) -> None:
        """Make a chain available: a legal one, or one of which each descriptor may break a rule."""
        self.offers += 1
        dice = random.Random(f"{self.offers}, {seed}")  # noqa: S311 - an example is its seed
        badness = dice.choice([0, 0.2])
        num, state = self.place.num, self.twin.pure.state()
        lengths = [1, 2, 3, 4, num]
        length = dice.choice([*lengths, num + 1] if badness else [min(n, num) for n in lengths])
        indirect = VirtioFeatures.INDIRECT_DESC in self.place.features and dice.random() < 0.5
        head = dice.randrange(num)
        for number in range(length - 1, -1, -1):  # the first one last: it may hit the others
            flags = DescFlags.WRITE if number >= length // 2 else DescFlags(0)
            if number < length - 1:
                flags |= DescFlags.NEXT
            elif indirect and (length == 1 or not self.place.packed):
                flags = DescFlags.INDIRECT
            if dice.random() < badness:
                flags = dice.choice(FLAGS)
            if self.place.packed:
                index = (state.avail + number) % num
                wrap = state.avail_wrap ^ (state.avail + number >= num)
                flags |= packed_flags(wrap=wrap, used=False)
                last = dice.randrange(num + 1) if dice.random() < badness else head
            else:
                index = (head + number) % num
                last = (index + 1) % num
                if dice.random() < badness:
                    last = dice.randrange(num + 2)
            self._write_desc(dice, badness, self.desc + 16 * index, flags, last)
        if not self.place.packed:
            self._make_head_available(head)

    def _write_desc(
        self, dice: random.Random, badness: float, gpa: int, flags: DescFlags, last: int
    ) -> None:
        """Write a descriptor, and for an indirect one its table."""
        buffer = dice.choice(LEGAL_BUFFERS)
        if flags & DescFlags.INDIRECT and gpa < self.tables:
            buffer = self._write_table(dice, badness)
        if dice.random() < badness / 3:
            buffer = Buffer(dice.choice(ADDRESSES), buffer.length)
        if dice.random() < badness / 3:
            buffer = Buffer(buffer.address, dice.choice(LENGTHS))
        desc: SplitDesc | PackedDesc = SplitDesc(buffer.address, buffer.length, flags, last)
        if self.place.packed:
            desc = PackedDesc(buffer.address, buffer.length, last, flags)
        self.memory.write(gpa, bytes(desc))

    def _write_table(self, dice: random.Random, badness: float) -> Buffer:
        entries = dice.choice([1, 2, 3, 4, 64])
        start = self.tables + dice.choice([0, 1, 512])  # a table need not be aligned
        for entry in range(entries):
            flags = DescFlags.WRITE if entry >= entries // 2 else DescFlags(0)
            if entry < entries - 1:
                flags |= DescFlags.NEXT
            if dice.random() < badness:
                flags = dice.choice(FLAGS)
            following = dice.choice([entry, entries]) if dice.random() < badness else entry + 1
            self._write_desc(dice, badness, start + 16 * entry, flags, following)
        return Buffer(start, 16 * entries)

    def _make_head_available(self, head: int, step: int = 1) -> None:
        avail = self.twin.pure.state().avail
        self.memory.write_u16(self.driver_area + 4 + 2 * (avail % self.place.num), head)
        self.memory.write_u16(self.driver_area + 2, avail + step)

    def make_available(self, count: int, head: int, *_: int) -> None:
        """Split: move the available index. Packed: flip a descriptor's wrap bits."""
        if self.place.packed:
            avail = self.twin.pure.state().avail
            place = self.desc + 16 * ((avail + head % 3) % self.place.num) + 14
            flip = [DescFlags.AVAIL, DescFlags.USED, DescFlags.AVAIL | DescFlags.USED][count % 3]
            self.memory.write_u16(place, self.memory.read_u16(place) ^ flip)
            return
        step = [1, 1, 1, 2, self.place.num, self.place.num + 1, 32768, -1][count % 8]
        self._make_head_available(head % (self.place.num + 2), step)

    def repeat(self, *_: int) -> None:
        """Make the chain popped last available once more."""
        if self.twin.in_flight and not self.place.packed:
            self._make_head_available(self.twin.in_flight[-1][0].id)
        elif self.twin.in_flight:
            state = self.twin.pure.state()
            flags = packed_flags(wrap=state.avail_wrap, used=False)
            desc = PackedDesc(NEAR, 1, self.twin.in_flight[-1][0].id, flags)
            self.memory.write(self.desc + 16 * state.avail, bytes(desc))

    def event(self, value: int, flags: int, near: int) -> None:
        """Write what the driver says about calls."""
        state = self.twin.pure.state()
        if near % 2:
            value = state.used + value % 5 - 2
        if self.place.packed:
            self.memory.write_u16(self.driver_area, value ^ (near // 2 % 2 << 15))
            self.memory.write_u16(self.driver_area + 2, flags % 8)
        else:
            self.memory.write_u16(self.driver_area, flags % 4)
            self.memory.write_u16(self.driver_area + 4 + 2 * self.place.num, value)

    def scribble(self, where: int, value: int, *_: int) -> None:
        """Write anywhere into the ring."""
        offset = where % (self.tables - RING - 2)
        self.memory.write_u16(RING + offset, value)


LEGAL_STEPS = [
    Programme.add,
    Programme.add,
    Programme.add_many,
    Programme.show,
    Programme.serve,
    Programme.serve,
    Programme.take_used,
    Programme.call_enable,
    Programme.call_disable,
    Programme.pop,
    Programme.pop_all,
    Programme.push,
    Programme.push_all,
    Programme.publish,
    Programme.kick_enable,
    Programme.kick_disable,
]
ILLEGAL_STEPS = [
    Programme.offer,
    Programme.offer,
    Programme.offer,
    Programme.offer,
    Programme.make_available,
    Programme.repeat,
    Programme.event,
    Programme.scribble,
]
NUMBERS = st.integers(0, 65535)


def programmes(steps: list[Callable[..., None]]) -> st.SearchStrategy[list[Any]]:
    return st.lists(
        st.tuples(st.sampled_from(steps), NUMBERS, NUMBERS, NUMBERS), min_size=12, max_size=40
    )


@pytest.fixture(scope="module")
def memory() -> Iterator[TwinMemory]:
    guarded = GuardedMemory({RING: RING_SIZE, NEAR: NEAR_SIZE, FAR: FAR_SIZE})
    yield TwinMemory(guarded)
    guarded.close()


def run(memory: TwinMemory, place: RingPlace, steps: list[Any]) -> None:
    programme = Programme(memory, place)
    try:
        for step, *numbers in steps:
            step(programme, *numbers)
        programme.pop()
    finally:
        programme.twin.close()


@settings(PROFILE)
@given(place=places(), steps=programmes(LEGAL_STEPS))
def test_the_engine_serves_a_legal_driver_as_the_oracle_does(
    memory: TwinMemory, place: RingPlace, steps: list[Any]
) -> None:
    run(memory, place, steps)


@settings(PROFILE)
@given(place=places(), steps=programmes(LEGAL_STEPS + ILLEGAL_STEPS))
def test_the_engine_answers_a_hostile_driver_as_the_oracle_does(
    memory: TwinMemory, place: RingPlace, steps: list[Any]
) -> None:
    run(memory, place, steps)
