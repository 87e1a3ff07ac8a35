"""Property: the engine's driver ring and its Python twin are the same to their devices and users.

Which descriptors and ids a driver takes is its own affair, so the two have a guest memory and a
device each, and what the devices see is compared: every buffer of every chain, and who wants to be
notified.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_rig import GuardedMemory, RingPlace

from protocol.virtio import PackedDesc, RingArea, UsedElem, VirtioFeatures, packed_flags
from vhostuser.virtqueue import (
    Buffer,
    Chain,
    DeviceRing,
    DriverRing,
    IndirectTables,
    PureDeviceRing,
    PureDriverRing,
    PureIndirectTables,
    PureMemory,
    RingState,
    UsedRingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "rings"))

RING, RING_SIZE = 0x10000, 0x18000
DATA, DATA_SIZE = RING + RING_SIZE, 0x1000
TABLE_ENTRIES = 5
SIZES = {RING: RING_SIZE, DATA: DATA_SIZE}


class World:
    """A guest memory with a driver ring, its device, and a name for each chain in flight."""

    def __init__(self, memory: PureMemory, place: RingPlace) -> None:
        for view in memory.regions.values():
            view[:] = bytes(len(view))
        place.start_used(memory)
        self.memory = memory
        self.place = place
        self.popped: list[Chain] = []
        self.names: dict[int, int] = {}
        self.driver: PureDriverRing | DriverRing
        self.device: PureDeviceRing | DeviceRing

    def as_gpa(self, address: int) -> int:
        return address

    def pop(self) -> Any:
        chain = self.device.pop()
        if chain is None:
            return None
        self.popped.append(chain)
        parts = (chain.readable, chain.writable)
        return [[(self.as_gpa(part.address), part.length) for part in half] for half in parts]

    def push(self, which: int, written: int) -> None:
        self.device.push(self.popped.pop(which % len(self.popped)), written % 3)

    def add(self, name: int, *buffers: list[Buffer], indirect: bool) -> bool | type[Exception]:
        try:
            identity = self.driver.add(*buffers, indirect=indirect)
        except (ValueError, OSError):
            return ValueError
        if identity is None:
            return False
        assert identity not in self.names
        self.names[identity] = name
        return True

    def take_used(self) -> Any:
        try:
            used = self.driver.pop_used()
        except UsedRingError:
            return UsedRingError
        return used and (self.names.pop(used[0]), used[1])

    def forge(self, name: int, identity: int | None, step: int) -> None:
        """Write a used entry as no device should."""
        if identity is None:
            ids = [own for own, other in self.names.items() if other == name]
            identity = ids[0] if ids else self.place.num
        state = self.driver.state()
        desc, _, device = (self.place.area(area)[0] for area in RingArea)
        if self.place.packed:
            flags = packed_flags(wrap=state.used_wrap, used=True)
            data = bytes(PackedDesc(0, 7, identity % (1 << 16), flags))
            self.memory.write(desc + 16 * state.used, data)
        else:
            offset = 4 + 8 * (state.used % self.place.num)
            self.memory.write(device + offset, bytes(UsedElem(identity, 7)))
            self.memory.write_u16(device + 2, state.used + step)


class PureWorld(World):
    def __init__(self, place: RingPlace) -> None:
        memory = PureMemory({gpa: bytearray(size) for gpa, size in SIZES.items()})
        super().__init__(memory, place)
        indirect = None
        if VirtioFeatures.INDIRECT_DESC in place.features:
            indirect = PureIndirectTables(entries=TABLE_ENTRIES, gpa=place.end)
        self.driver = PureDriverRing(memory, place.pure(), indirect=indirect)
        self.device = PureDeviceRing(memory, place.pure())


class EngineWorld(World):
    def __init__(self, place: RingPlace, guarded: GuardedMemory, *, pure_device: bool) -> None:
        super().__init__(guarded.memory, place)
        self.guarded = guarded
        self.pure_device = pure_device
        indirect = None
        if VirtioFeatures.INDIRECT_DESC in place.features:
            hva = guarded.hva(place.end)
            indirect = IndirectTables(entries=TABLE_ENTRIES, gpa=place.end, hva=hva)
        self.driver = DriverRing(place.native(guarded), indirect=indirect)
        if pure_device:
            self.device = PureDeviceRing(guarded.memory, place.pure())
        else:
            self.device = DeviceRing(guarded.snapshot, place.native(guarded))

    def as_gpa(self, address: int) -> int:
        return address if self.pure_device else self.guarded.gpa(address)

    def close(self) -> None:
        for ring in (self.driver, self.device):
            if isinstance(ring, (DriverRing, DeviceRing)):
                ring.close()


class Programme:
    """Carries out one example; a step is the name of a method and three numbers it makes use of."""

    def __init__(self, pure: World, engine: World) -> None:
        self.worlds = (pure, engine)
        self.count = 0
        self.broken = False

    def both(self, action: Callable[[World], Any]) -> Any:
        pure, engine = (action(world) for world in self.worlds)
        assert engine == pure, f"the oracle says {pure}, the engine {engine}"
        return pure

    def add(self, shape: int, indirect: int, length: int) -> None:
        parts = [Buffer(DATA + 16 * number, 1 + length % 16) for number in range(shape % 8)]
        half = shape // 8 % (len(parts) + 1)
        self.count += 1
        self.both(
            lambda world: world.add(
                self.count, parts[:half], parts[half:], indirect=bool(indirect % 2)
            )
        )

    def add_many(self, count: int, indirect: int, length: int) -> None:
        for number in range(count % 40):
            self.add(1 + number % 3, indirect, length)

    def show(self, *_: int) -> None:
        self.both(lambda world: world.driver.publish())
        self.both(lambda world: world.driver.state())

    def take_used(self, *_: int) -> bool:
        used = self.both(World.take_used)
        self.broken |= used is UsedRingError
        return used not in (None, UsedRingError)

    def take_all_used(self, *_: int) -> None:
        while self.take_used():
            pass

    def call_enable(self, *_: int) -> None:
        self.both(lambda world: world.driver.call_enable())

    def call_disable(self, *_: int) -> None:
        self.both(lambda world: world.driver.call_disable())

    def serve(self, count: int, which: int, written: int) -> None:
        for _turn in range(count % 16):
            if self.both(World.pop) is None:
                break
        for _turn in range(count // 16 % 16):
            if self.worlds[0].popped:
                self.both(lambda world: world.push(which, written))
        self.both(lambda world: world.device.publish())

    def kick_enable(self, *_: int) -> None:
        self.both(lambda world: world.device.kick_enable())

    def kick_disable(self, *_: int) -> None:
        self.both(lambda world: world.device.kick_disable())

    def forge(self, name: int, kind: int, step: int) -> None:
        place = self.worlds[0].place
        num = place.num
        # The third is 0 in 16 bits, which only a split ring has more of.
        identity = [num, 0xFFFF_FFFF, num if place.packed else 0x1_0000, None][kind % 4]
        steps = [1, 1, num, num + 1, 32768, 65535]
        name = self.count - name % 4
        self.both(lambda world: world.forge(name, identity, steps[step % len(steps)]))
        self.take_all_used()
        self.broken = True  # what follows depends on the ids that each driver chose


LEGAL_STEPS = [
    Programme.add,
    Programme.add,
    Programme.add_many,
    Programme.show,
    Programme.show,
    Programme.serve,
    Programme.serve,
    Programme.take_used,
    Programme.take_all_used,
    Programme.call_enable,
    Programme.call_disable,
    Programme.kick_enable,
    Programme.kick_disable,
]
NUMBERS = st.integers(0, 65535)


@st.composite
def places(draw: st.DrawFn) -> RingPlace:
    """Rings of all shapes, empty, at any position."""
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
        num = draw(st.sampled_from([1, 2, 3, 7, 16, 255]))
        start, wrap = draw(st.integers(0, num - 1)), draw(st.booleans())
    else:
        num = draw(st.sampled_from([1, 2, 4, 16, 256]))
        start, wrap = draw(st.sampled_from([0, 65535, 65530, 32767])), False
    state = RingState(avail=start, used=start, avail_wrap=wrap, used_wrap=wrap)
    return RingPlace(features=features, num=num, gpa=RING, state=state)


def programmes(steps: list[Callable[..., Any]]) -> st.SearchStrategy[list[Any]]:
    step = st.tuples(st.sampled_from(steps), NUMBERS, NUMBERS, NUMBERS)
    return st.lists(step, min_size=12, max_size=40)


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedMemory]:
    memory = GuardedMemory(SIZES)
    yield memory
    memory.close()


def run(guarded: GuardedMemory, place: RingPlace, steps: list[Any], *, pure_device: bool) -> None:
    engine = EngineWorld(place, guarded, pure_device=pure_device)
    programme = Programme(PureWorld(place), engine)
    try:
        for step, *numbers in steps:
            step(programme, *numbers)
            if programme.broken:
                break
        programme.take_used()
    finally:
        engine.close()


@settings(PROFILE)
@given(place=places(), steps=programmes(LEGAL_STEPS), pure_device=st.booleans())
def test_the_engine_drives_a_device_as_the_oracle_does(
    guarded: GuardedMemory, place: RingPlace, steps: list[Any], *, pure_device: bool
) -> None:
    run(guarded, place, steps, pure_device=pure_device)


@settings(PROFILE)
@given(place=places(), steps=programmes([*LEGAL_STEPS, Programme.forge]))
def test_the_engine_believes_a_hostile_device_no_more_than_the_oracle_does(
    guarded: GuardedMemory, place: RingPlace, steps: list[Any]
) -> None:
    run(guarded, place, steps, pure_device=True)
