"""The engine's rings through their Python wrappers: what the twin tests do not reach."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from ring_rig import GuardedMemory, RingPlace

from protocol.virtio import RingArea, VirtioFeatures
from vhostuser.virtqueue import (
    Buffer,
    Chain,
    DeviceRing,
    DriverRing,
    IndirectTables,
    RingState,
    UsedRingError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RING, SIZE = 0x10000, 0x100000
DATA = RING + SIZE - 0x1000
SPLIT = VirtioFeatures.VERSION_1 | VirtioFeatures.INDIRECT_DESC
PACKED = SPLIT | VirtioFeatures.RING_PACKED
START = RingState(avail=0, used=0)


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedMemory]:
    memory = GuardedMemory({RING: SIZE})
    yield memory
    memory.close()


def place(
    features: VirtioFeatures = SPLIT, num: int = 8, state: RingState = START, gpa: int = RING
) -> RingPlace:
    return RingPlace(features=features, num=num, gpa=gpa, state=state)


@pytest.mark.parametrize(
    "wrong",
    [
        place(num=0),
        place(num=3),
        place(PACKED, num=32769),
        place(state=RingState(avail=9, used=0)),
        place(PACKED, state=RingState(avail=8, used=0)),
        place(gpa=RING + 8),
    ],
    ids=["no-size", "odd-size", "too-large", "too-far-apart", "beyond-the-ring", "misaligned"],
)
def test_a_ring_that_cannot_be_is_refused(guarded: GuardedMemory, wrong: RingPlace) -> None:
    with pytest.raises(OSError, match="cannot create the device ring") as caught:
        DeviceRing(guarded.snapshot, wrong.native(guarded))
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="cannot create the driver ring") as caught:
        DriverRing(wrong.native(guarded))
    assert caught.value.errno == errno.EINVAL


def test_a_driver_ring_starts_empty(guarded: GuardedMemory) -> None:
    busy = place(state=RingState(avail=3, used=2))
    with pytest.raises(OSError, match="cannot create the driver ring"):
        DriverRing(busy.native(guarded))


def test_a_ring_may_be_closed_twice(guarded: GuardedMemory) -> None:
    with (
        DeviceRing(guarded.snapshot, place().native(guarded)) as device,
        DriverRing(place().native(guarded)) as driver,
    ):
        device.close()
        driver.close()


def test_pushing_what_is_not_in_flight_is_a_mistake(guarded: GuardedMemory) -> None:
    with DeviceRing(guarded.snapshot, place().native(guarded)) as device:
        for identity in (0, 8, 65535):
            chain = Chain(id=identity, slots=1, readable=(), writable=())
            with pytest.raises(OSError, match="cannot push a chain"):
                device.push(chain, 0)


@pytest.mark.parametrize("features", [SPLIT, PACKED])
@pytest.mark.parametrize(("count", "indirect"), [(0, False), (9, False), (4, True), (0, True)])
def test_a_chain_that_can_never_fit_is_a_mistake(
    guarded: GuardedMemory, features: VirtioFeatures, count: int, *, indirect: bool
) -> None:
    ring = place(features)
    tables = IndirectTables(entries=3, gpa=ring.end, hva=guarded.hva(ring.end))
    with DriverRing(ring.native(guarded), indirect=tables) as driver:
        with pytest.raises(OSError, match="cannot add a chain") as caught:
            driver.add([Buffer(DATA, 1)] * count, [], indirect=indirect)
        assert caught.value.errno == errno.EINVAL


def test_without_tables_no_chain_is_indirect(guarded: GuardedMemory) -> None:
    with (
        DriverRing(place().native(guarded)) as driver,
        pytest.raises(OSError, match="cannot add a chain"),
    ):
        driver.add([Buffer(DATA, 1)], [], indirect=True)


def test_without_the_feature_there_are_no_tables(guarded: GuardedMemory) -> None:
    tables = IndirectTables(entries=3, gpa=DATA, hva=guarded.hva(DATA))
    with pytest.raises(OSError, match="cannot create the driver ring"):
        DriverRing(place(VirtioFeatures.VERSION_1).native(guarded), indirect=tables)


def test_a_device_reads_and_fills_buffers_in_place(guarded: GuardedMemory) -> None:
    guarded.memory.write(DATA, b"question")
    with (
        DriverRing(place().native(guarded)) as driver,
        DeviceRing(guarded.snapshot, place().native(guarded)) as device,
    ):
        identity = driver.add([Buffer(DATA, 8)], [Buffer(DATA + 64, 6)])
        assert driver.publish()
        chain = device.pop()
        assert chain is not None
        assert bytes(device.view(chain.readable[0])) == b"question"
        device.view(chain.writable[0])[:] = b"answer"
        device.push(chain, 6)
        assert device.publish()
        assert driver.pop_used() == (identity, 6)
    assert guarded.memory.read(DATA + 64, 7) == b"answer\0"


@pytest.mark.parametrize(
    ("features", "state"),
    [
        (SPLIT, RingState(avail=65530, used=65530, avail_wrap=False, used_wrap=False)),
        (PACKED, RingState(avail=32760, used=32760)),
        (PACKED, RingState(avail=32760, used=32760, avail_wrap=False, used_wrap=False)),
    ],
)
def test_the_largest_ring_is_filled_and_wraps(
    guarded: GuardedMemory, features: VirtioFeatures, state: RingState
) -> None:
    num, length = 32768, 16
    ring = place(features, num, state)
    with (
        DriverRing(ring.native(guarded)) as driver,
        DeviceRing(guarded.snapshot, ring.native(guarded)) as device,
    ):
        for _lap in range(3):
            given = fill(driver, num, length)
            assert len(given) == num // length
            chains = [chain for chain in iter(device.pop, None) if chain is not None]
            assert [chain.id for chain in chains] == given
            for chain in chains:
                assert sum(part.length for part in chain.readable) == length
                device.push(chain, chain.id)
            assert device.publish()
            used = [(identity, identity) for identity in given]
            assert list(iter(driver.pop_used, None)) == used
        assert driver.state() == device.state()


def fill(driver: DriverRing, num: int, length: int) -> list[int]:
    """Add and publish chains of `length` descriptors until there is no room."""
    given = []
    while (identity := driver.add([Buffer(DATA, 1)] * length, [])) is not None:
        given.append(identity)
    assert len(given) <= num
    assert driver.publish()
    return given


@pytest.mark.parametrize("identity", [1, 7, 8, 0xFFFF_FFFF])
def test_a_driver_stops_believing_a_device_that_returns_what_it_never_got(
    guarded: GuardedMemory, identity: int
) -> None:
    ring = place()
    device_area, _ = ring.area(RingArea.DEVICE)
    with DriverRing(ring.native(guarded)) as driver:
        driver.add([], [Buffer(DATA, 8)])
        driver.publish()
        guarded.memory.write(device_area + 4, identity.to_bytes(4, "little") + bytes(4))
        guarded.memory.write_u16(device_area + 2, 1)
        for _ in range(2):
            with pytest.raises(UsedRingError):
                driver.pop_used()
