"""The oracle itself, against bytes worked out by hand from the specification."""

from __future__ import annotations

import pytest

from protocol.virtio import (
    DescFlags,
    PackedDesc,
    SplitDesc,
    UsedElem,
    VirtioFeatures,
)
from vhostuser.virtqueue import (
    Buffer,
    Chain,
    PureDeviceRing,
    PureDriverRing,
    PureIndirectTables,
    PureMemory,
    PureRingConfig,
    RingState,
    UsedRingError,
)

DESC, DRIVER, DEVICE, TABLES, DATA = 0x1000, 0x1100, 0x1200, 0x1300, 0x1800
NUM = 4
SPLIT = VirtioFeatures.VERSION_1 | VirtioFeatures.INDIRECT_DESC
PACKED = SPLIT | VirtioFeatures.RING_PACKED
EVENT_IDX = VirtioFeatures.EVENT_IDX
NEXT, WRITE, INDIRECT = DescFlags.NEXT, DescFlags.WRITE, DescFlags.INDIRECT
AVAIL, USED = DescFlags.AVAIL, DescFlags.USED
READ = DescFlags(0)
START = RingState(avail=0, used=0)
TABLE = PureIndirectTables(entries=3, gpa=TABLES)


def config(
    features: VirtioFeatures = SPLIT, state: RingState = START, num: int = NUM
) -> PureRingConfig:
    return PureRingConfig(
        features=features, num=num, desc=DESC, driver=DRIVER, device=DEVICE, state=state
    )


@pytest.fixture
def memory() -> PureMemory:
    return PureMemory({0x1000: bytearray(0x1000)})


def descs(memory: PureMemory, count: int) -> list[SplitDesc]:
    return [SplitDesc.parse(memory.read(DESC + 16 * index, 16)) for index in range(count)]


def packed_descs(memory: PureMemory, count: int) -> list[PackedDesc]:
    return [PackedDesc.parse(memory.read(DESC + 16 * index, 16)) for index in range(count)]


@pytest.mark.parametrize(
    ("features", "state", "num", "text"),
    [
        (SPLIT, START, 3, "a ring cannot have 3 descriptors"),
        (PACKED, START, 0, "a ring cannot have 0 descriptors"),
        (PACKED, START, 32769, "a ring cannot have 32769 descriptors"),
        (SPLIT, RingState(avail=4, used=65535), 4, "a ring of 4 descriptors cannot be at .*"),
        (PACKED, RingState(avail=4, used=0), 4, "a ring of 4 descriptors cannot be at .*"),
        (PACKED, RingState(avail=0, used=4), 4, "a ring of 4 descriptors cannot be at .*"),
        (PACKED, RingState(avail=1, used=2), 4, "a ring of 4 descriptors cannot be at .*"),
        (PACKED, RingState(avail=2, used=1, avail_wrap=False), 4, "a ring of 4 descriptors .*"),
    ],
)
def test_a_ring_that_cannot_be_is_refused(
    features: VirtioFeatures, state: RingState, num: int, text: str
) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        config(features, state, num)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 2)])
def test_a_ring_whose_areas_are_misaligned_is_refused(shift: tuple[int, int, int]) -> None:
    desc, driver, device = (
        area + more for area, more in zip((DESC, DRIVER, DEVICE), shift, strict=True)
    )
    with pytest.raises(ValueError, match=r"^the \w+ area at 0x1.0. is not aligned$"):
        PureRingConfig(
            features=SPLIT, num=NUM, desc=desc, driver=driver, device=device, state=START
        )


def test_memory_is_read_and_written_within_one_region_only(memory: PureMemory) -> None:
    memory.write(0x1FFE, b"ab")
    assert memory.read(0x1FFE, 2) == b"ab"
    with pytest.raises(ValueError, match=r"^these bytes are not all in one region"):
        memory.read(0x1FFF, 2)
    with pytest.raises(ValueError, match=r"^these bytes are not all in one region"):
        memory.write(0xFFF, b"ab")


def test_a_split_driver_links_descriptors_and_names_the_head(memory: PureMemory) -> None:
    driver = PureDriverRing(memory, config(state=RingState(avail=65535, used=65535)))
    head = driver.add([Buffer(DATA, 16), Buffer(DATA + 16, 8)], [Buffer(DATA + 64, 1)])
    assert head == 0
    assert descs(memory, 3) == [
        SplitDesc(DATA, 16, NEXT, 1),
        SplitDesc(DATA + 16, 8, NEXT, 2),
        SplitDesc(DATA + 64, 1, WRITE, 0),
    ]
    assert memory.read(DRIVER, 12).hex() == "000000000000000000000000"
    assert driver.publish()
    assert memory.read_u16(DRIVER + 2) == 0, "65535 and one more"
    assert driver.state() == RingState(avail=0, used=65535)


def test_a_packed_driver_lets_the_first_descriptor_be_seen_last(memory: PureMemory) -> None:
    driver = PureDriverRing(memory, config(PACKED))
    identity = driver.add([Buffer(DATA, 16)], [Buffer(DATA + 64, 1)])
    assert identity == 0
    assert packed_descs(memory, 2) == [
        PackedDesc(DATA, 16, 0, READ),
        PackedDesc(DATA + 64, 1, 0, AVAIL | WRITE),
    ]
    assert driver.publish()
    assert packed_descs(memory, 1) == [PackedDesc(DATA, 16, 0, AVAIL | NEXT)]
    assert driver.state() == RingState(avail=2, used=0)


@pytest.mark.parametrize("features", [SPLIT, PACKED])
def test_an_indirect_chain_takes_one_descriptor(
    memory: PureMemory, features: VirtioFeatures
) -> None:
    driver = PureDriverRing(memory, config(features), indirect=TABLE)
    buffers = [Buffer(DATA, 16), Buffer(DATA + 16, 8)], [Buffer(DATA + 64, 1)]
    assert [driver.add(*buffers, indirect=True) for _ in range(NUM + 1)] == [0, 1, 2, 3, None]
    driver.publish()
    device = PureDeviceRing(memory, config(features))
    for identity in range(NUM):
        chain = device.pop()
        assert chain is not None
        assert (chain.id, chain.slots) == (identity, 1)
        assert (list(chain.readable), list(chain.writable)) == buffers
    assert device.pop() is None


def test_the_tables_of_both_layouts_differ_in_links_only(memory: PureMemory) -> None:
    buffers = [Buffer(DATA, 16)], [Buffer(DATA + 64, 1)]
    PureDriverRing(memory, config(SPLIT), indirect=TABLE).add(*buffers, indirect=True)
    assert memory.read(TABLES, 32) == bytes(SplitDesc(DATA, 16, NEXT, 1)) + bytes(
        SplitDesc(DATA + 64, 1, WRITE, 0)
    )
    PureDriverRing(memory, config(PACKED), indirect=TABLE).add(*buffers, indirect=True)
    assert memory.read(TABLES, 32) == bytes(PackedDesc(DATA, 16, 0, READ)) + bytes(
        PackedDesc(DATA + 64, 1, 0, WRITE)
    )


@pytest.mark.parametrize("features", [SPLIT, PACKED])
@pytest.mark.parametrize(("count", "indirect"), [(0, False), (NUM + 1, False), (4, True)])
def test_a_chain_that_can_never_fit_is_a_mistake(
    memory: PureMemory, features: VirtioFeatures, count: int, *, indirect: bool
) -> None:
    driver = PureDriverRing(memory, config(features), indirect=TABLE)
    with pytest.raises(ValueError, match=f"^a chain of {count} descriptors can never be added"):
        driver.add([Buffer(DATA, 1)] * count, [], indirect=indirect)


@pytest.mark.parametrize("features", [SPLIT, PACKED])
def test_a_full_ring_has_room_again_once_chains_were_used(
    memory: PureMemory, features: VirtioFeatures
) -> None:
    driver = PureDriverRing(memory, config(features))
    device = PureDeviceRing(memory, config(features))
    for _lap in range(5):
        first, second = (driver.add([Buffer(DATA, 1)], [Buffer(DATA, 1)]) for _ in range(2))
        assert driver.add([Buffer(DATA, 1)], []) is None
        driver.publish()
        chains = [device.pop(), device.pop()]
        for chain, written in zip(reversed(chains), (1, 0), strict=True):  # out of order
            assert chain is not None
            device.push(chain, written)
        assert driver.pop_used() is None, "not published yet"
        device.publish()
        assert [driver.pop_used() for _ in range(3)] == [(second, 1), (first, 0), None]


def test_a_split_device_writes_used_elements_and_then_the_index(memory: PureMemory) -> None:
    state = RingState(avail=65534, used=65534)
    driver = PureDriverRing(memory, config(state=state))
    device = PureDeviceRing(memory, config(state=state))
    for _ in range(3):
        driver.add([], [Buffer(DATA, 8)])
    driver.publish()
    for written in (5, 6, 7):
        chain = device.pop()
        assert chain is not None
        device.push(chain, written)
    elems = [UsedElem.parse(memory.read(DEVICE + 4 + 8 * index, 8)) for index in (2, 3, 0)]
    assert elems == [UsedElem(0, 5), UsedElem(1, 6), UsedElem(2, 7)]
    assert memory.read_u16(DEVICE + 2) == 0, "not published yet"
    assert device.publish()
    assert memory.read_u16(DEVICE + 2) == 1
    assert not device.publish(), "there was nothing more to publish"


def test_a_packed_device_lets_the_first_used_descriptor_be_seen_last(memory: PureMemory) -> None:
    driver = PureDriverRing(memory, config(PACKED))
    device = PureDeviceRing(memory, config(PACKED))
    driver.add([Buffer(DATA, 8)], [Buffer(DATA, 8)])
    driver.add([], [Buffer(DATA, 8)])
    driver.publish()
    before = packed_descs(memory, 3)
    for written in (5, 0):
        chain = device.pop()
        assert chain is not None
        device.push(chain, written)
    second = PackedDesc(DATA, 0, 1, AVAIL | USED)
    assert packed_descs(memory, 3) == [*before[:2], second]
    assert device.publish()
    first = PackedDesc(DATA, 5, 0, AVAIL | USED | WRITE)
    assert packed_descs(memory, 3) == [first, before[1], second]
    assert device.state() == RingState(avail=3, used=3)


@pytest.mark.parametrize(
    ("features", "driver_area", "offset", "wanted"),
    [
        (SPLIT, "0000", 0, True),
        (SPLIT, "0100", 0, False),
        (SPLIT | EVENT_IDX, "0000", 12, True),  # used event 0: the first
        (SPLIT | EVENT_IDX, "0100", 12, False),
        (SPLIT | EVENT_IDX, "ffff", 12, False),
        (PACKED, "00000000", 0, True),
        (PACKED, "00000100", 0, False),
        (PACKED, "00000200", 0, True),  # event index not negotiated
        (PACKED, "00000300", 0, True),
        (PACKED | EVENT_IDX, "00800200", 0, True),  # descriptor 0 of this lap
        (PACKED | EVENT_IDX, "01800200", 0, False),
        (PACKED | EVENT_IDX, "00000200", 0, False),  # of the next lap
        (PACKED | EVENT_IDX, "04800200", 0, True),  # no such descriptor
    ],
)
def test_a_driver_is_called_when_it_wants_to_be(
    memory: PureMemory, features: VirtioFeatures, driver_area: str, offset: int, *, wanted: bool
) -> None:
    driver = PureDriverRing(memory, config(features))
    device = PureDeviceRing(memory, config(features))
    driver.add([], [Buffer(DATA, 8)])
    driver.publish()
    chain = device.pop()
    assert chain is not None
    device.push(chain, 8)
    memory.write(DRIVER + offset, bytes.fromhex(driver_area))
    assert device.publish() == wanted


@pytest.mark.parametrize(
    ("features", "offset", "enabled", "disabled"),
    [
        (SPLIT, 0, "0000", "0100"),
        (SPLIT | EVENT_IDX, 4 + 8 * NUM, "0100", "0000"),
        (PACKED, 0, "00000000", "00000100"),
        (PACKED | EVENT_IDX, 0, "01800200", "01800100"),
    ],
)
def test_a_device_says_whether_it_wants_kicks(
    memory: PureMemory, features: VirtioFeatures, offset: int, enabled: str, disabled: str
) -> None:
    driver = PureDriverRing(memory, config(features))
    device = PureDeviceRing(memory, config(features))
    size = len(enabled) // 2
    driver.add([], [Buffer(DATA, 8)])
    driver.publish()
    assert device.kick_enable(), "a chain is there already"
    assert device.pop() is not None
    assert not device.kick_enable()
    assert memory.read(DEVICE + offset, size).hex() == enabled
    driver.add([], [Buffer(DATA, 8)])
    assert driver.publish(), "the device asked for a kick"
    device.kick_disable()
    assert memory.read(DEVICE + offset, size).hex() == disabled
    driver.add([], [Buffer(DATA, 8)])
    assert not driver.publish()


@pytest.mark.parametrize("features", [SPLIT, SPLIT | EVENT_IDX, PACKED, PACKED | EVENT_IDX])
def test_a_driver_says_whether_it_wants_calls(memory: PureMemory, features: VirtioFeatures) -> None:
    driver = PureDriverRing(memory, config(features))
    device = PureDeviceRing(memory, config(features))

    def serve() -> bool:
        driver.add([], [Buffer(DATA, 8)])
        driver.publish()
        chain = device.pop()
        assert chain is not None
        device.push(chain, 8)
        return device.publish()

    assert not driver.call_enable()
    assert serve()
    assert driver.call_enable(), "a used chain is there already"
    assert driver.pop_used() == (0, 8)
    driver.call_disable()
    assert not serve()


def test_pushing_what_is_not_in_flight_is_a_mistake(memory: PureMemory) -> None:
    device = PureDeviceRing(memory, config())
    chain = Chain(id=0, slots=1, readable=(), writable=())
    with pytest.raises(ValueError, match=r"^chain 0 is not in flight$"):
        device.push(chain, 0)


@pytest.mark.parametrize(
    ("elem", "index"), [(UsedElem(1, 0), 1), (UsedElem(4, 0), 1), (UsedElem(0, 0), 2)]
)
def test_a_driver_stops_believing_a_device_that_returns_what_it_never_got(
    memory: PureMemory, elem: UsedElem, index: int
) -> None:
    driver = PureDriverRing(memory, config())
    driver.add([], [Buffer(DATA, 8)])
    driver.publish()
    memory.write(DEVICE + 4, bytes(elem))
    memory.write_u16(DEVICE + 2, index)
    for _ in range(2):
        with pytest.raises(UsedRingError, match=r"^the device returned a chain that is not in fl"):
            driver.pop_used()
