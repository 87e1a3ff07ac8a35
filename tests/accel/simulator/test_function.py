"""The register model: what a driver reads and writes, and what the device is then to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.pci import CONFIG_REGION
from accel.simulator import Layout, PciFunction
from accel.simulator.actions import (
    BindQueue,
    Reset,
    RingDoorbell,
    StartQueue,
    StopQueue,
    TellDriver,
    UseFeatures,
    WriteConfig,
)
from accel.simulator.layout import MSIX_BAR, NOTIFY_BAR, REGISTERS_BAR
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import (
    MSI_NO_VECTOR,
    CapabilityType,
    CommonRegister,
    DeviceStatus,
    IsrStatus,
    PciHeader,
    QueueCommand,
    QueueStateRegister,
    QueueStatus,
    parse_function,
)
from vhostuser.virtqueue import RingState

OFFERED = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.ACCESS_PLATFORM
    | VirtioFeatures.RING_RESET
)
SPLIT = VirtioFeatures.VERSION_1
PACKED = SPLIT | VirtioFeatures.RING_PACKED
READY = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK
RUNNING = READY | DeviceStatus.DRIVER_OK
LAYOUT = Layout(device_type=2, queues=3, vectors=4)
QUEUE_STATE_AT = 0x3000
DEVICE_AT = 0x2000
ISR_AT = 0x1000
BEGINNING = RingState(avail=0, used=0)


class Driver:
    """Reads and writes registers as a driver does, and keeps what the device is to do."""

    def __init__(self, layout: Layout = LAYOUT, *, bus_master: bool = True) -> None:
        self.function = PciFunction(layout, OFFERED, [64] * layout.queues)
        self.state = self.function.state
        if bus_master:
            self.set_bus_master(on=True)

    def set_bus_master(self, *, on) -> list[object]:
        value = (6 if on else 2).to_bytes(2, "little")
        return self.function.write(CONFIG_REGION, PciHeader.COMMAND, value)

    def _place(self, row) -> int:
        return row.value.offset + (QUEUE_STATE_AT if isinstance(row, QueueStateRegister) else 0)

    def get(self, row) -> int:
        data = self.function.read(REGISTERS_BAR, self._place(row), row.value.width)
        return int.from_bytes(data, "little")

    def put(self, row, value: int) -> list[object]:
        data = value.to_bytes(row.value.width, "little")
        return self.function.write(REGISTERS_BAR, self._place(row), data)

    def negotiate(self, features: VirtioFeatures) -> list[object]:
        self.put(CommonRegister.DEVICE_STATUS, 3)
        for word in range(2):
            self.put(CommonRegister.DRIVER_FEATURE_SELECT, word)
            self.put(CommonRegister.DRIVER_FEATURE, int(features) >> 32 * word & 0xFFFFFFFF)
        return self.put(CommonRegister.DEVICE_STATUS, READY)

    def enable(self, index: int = 0, *, size: int = 16, desc: int = 0x1000) -> list[object]:
        self.put(CommonRegister.QUEUE_SELECT, index)
        self.put(CommonRegister.QUEUE_SIZE, size)
        self.put(CommonRegister.QUEUE_DESC, desc)
        self.put(CommonRegister.QUEUE_DRIVER, 0x2000)
        self.put(CommonRegister.QUEUE_DEVICE, 0x3000)
        return self.put(CommonRegister.QUEUE_ENABLE, 1)

    def run(self, features: VirtioFeatures = SPLIT) -> list[object]:
        self.negotiate(features)
        self.enable()
        return self.put(CommonRegister.DEVICE_STATUS, RUNNING)

    def suspend(self, index: int = 0) -> list[object]:
        self.put(QueueStateRegister.QUEUE_SELECT, index)
        return self.put(QueueStateRegister.COMMAND, QueueCommand.SUSPEND)

    def queue_status(self, index: int = 0) -> int:
        self.put(QueueStateRegister.QUEUE_SELECT, index)
        return self.get(QueueStateRegister.STATUS)


def start(state: RingState = BEGINNING, features: VirtioFeatures = SPLIT, **changes) -> StartQueue:
    began = StartQueue(
        index=0, features=features, num=16, desc=0x1000, driver=0x2000, device=0x3000, state=state
    )
    return replace(began, **changes)


# ---- what it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("shared", [False, True])
def test_a_driver_finds_everything_in_the_configuration_space(page_size, shared):
    layout = replace(LAYOUT, page_size=page_size, shared_notify=shared)
    function = PciFunction(layout, OFFERED, [64] * 3)

    found = parse_function(function.read(CONFIG_REGION, 0, 256), layout.bar_sizes)

    assert found.device_type == 2
    assert not found.transitional
    assert None not in (found.common, found.isr, found.device, found.queue_state)
    assert found.msix == layout.msix
    assert found.notify is not None
    assert found.notify.multiplier == (4 if shared else page_size)
    assert found.notify.size % page_size == 0
    assert found.notify.end <= layout.bar_sizes[NOTIFY_BAR]


def test_the_bars_tell_their_sizes():
    driver = Driver()
    for bar, wide in ((0, True), (2, True), (4, False)):
        at = PciHeader.BARS + 4 * bar
        size = 8 if wide else 4
        driver.function.write(CONFIG_REGION, at, b"\xff" * size)
        value = int.from_bytes(driver.function.read(CONFIG_REGION, at, size), "little")
        assert value & 0xF == (0xC if wide else 0)
        found = -(value & ~0xF) & ((1 << 8 * size) - 1)
        assert found == driver.function.region_sizes[bar]


def test_what_is_not_writable_stays():
    driver = Driver()
    before = driver.function.read(CONFIG_REGION, 0, 256)
    driver.function.write(CONFIG_REGION, 0, b"\xff" * 4)
    driver.function.write(CONFIG_REGION, PciHeader.CAPABILITIES, b"\xff")
    assert driver.function.read(CONFIG_REGION, 0, 256) == before


def test_the_features_are_read_by_words_and_there_are_no_others():
    driver = Driver()
    found = 0
    for word in range(2):
        driver.put(CommonRegister.DEVICE_FEATURE_SELECT, word)
        found |= driver.get(CommonRegister.DEVICE_FEATURE) << 32 * word
    assert found == OFFERED
    for word in (2, 7, 0xFFFFFFFF):
        driver.put(CommonRegister.DEVICE_FEATURE_SELECT, word)
        assert driver.get(CommonRegister.DEVICE_FEATURE) == 0


def test_a_queue_that_is_not_there_has_no_size_and_takes_nothing():
    driver = Driver()
    driver.put(CommonRegister.QUEUE_SELECT, 3)
    for row in CommonRegister:
        if row.value.per_queue and row.value.writable:
            assert driver.put(row, 1) == []
    assert driver.get(CommonRegister.QUEUE_SIZE) == 0
    assert driver.get(CommonRegister.QUEUE_ENABLE) == 0
    assert driver.get(CommonRegister.QUEUE_MSIX_VECTOR) == MSI_NO_VECTOR
    assert driver.queue_status(3) == QueueStatus.IDLE


# ---- negotiation --------------------------------------------------------------------------------


def test_features_are_used_when_they_are_accepted():
    driver = Driver()
    assert driver.negotiate(PACKED) == [UseFeatures(features=PACKED)]
    assert driver.get(CommonRegister.DEVICE_STATUS) == READY


@pytest.mark.parametrize(
    "features",
    [
        VirtioFeatures(0),
        VirtioFeatures.RING_PACKED,
        SPLIT | VirtioFeatures.IN_ORDER,
        SPLIT | VirtioFeatures(1 << 63),
    ],
    ids=["none", "legacy", "not offered", "unknown"],
)
def test_features_that_cannot_be_are_refused(features):
    driver = Driver()
    assert driver.negotiate(features) == []
    assert driver.get(CommonRegister.DEVICE_STATUS) == 3


def test_feature_words_that_nobody_knows_are_refused_unless_they_are_empty():
    for value, status in ((0, READY), (1, DeviceStatus(3))):
        driver = Driver()
        driver.put(CommonRegister.DRIVER_FEATURE_SELECT, 5)
        driver.put(CommonRegister.DRIVER_FEATURE, value)
        driver.negotiate(SPLIT)
        assert driver.get(CommonRegister.DEVICE_STATUS) == status


def test_features_stay_once_they_were_accepted():
    driver = Driver()
    driver.negotiate(SPLIT)
    driver.put(CommonRegister.DRIVER_FEATURE, 0)
    assert driver.state.driver_features == SPLIT


def test_a_device_does_not_run_before_features_were_accepted():
    driver = Driver()
    driver.enable()
    assert driver.put(CommonRegister.DEVICE_STATUS, 7) == []
    assert driver.get(CommonRegister.DEVICE_STATUS) == 3


def test_a_write_of_0_resets():
    driver = Driver()
    driver.run()
    assert driver.put(CommonRegister.DEVICE_STATUS, 0) == [Reset()]
    assert driver.get(CommonRegister.DEVICE_STATUS) == 0
    assert driver.get(CommonRegister.QUEUE_ENABLE) == 0
    assert driver.get(CommonRegister.QUEUE_SIZE) == 64
    assert driver.get(CommonRegister.DRIVER_FEATURE) == 0


def test_a_reset_of_the_function_resets_its_configuration_space_too():
    driver = Driver()
    driver.run()
    assert driver.function.reset() == [Reset()]
    assert driver.function.read(CONFIG_REGION, PciHeader.COMMAND, 2) == bytes(2)
    assert driver.run() == [], "a reset function may not reach memory"


# ---- queues -------------------------------------------------------------------------------------


def test_queues_start_when_the_device_runs():
    assert Driver().run() == [start()]


def test_a_queue_starts_late():
    driver = Driver()
    driver.run()
    assert driver.enable(2) == [start(index=2)]


def test_a_queue_starts_once():
    driver = Driver()
    driver.run()
    assert driver.put(CommonRegister.QUEUE_ENABLE, 1) == []
    assert driver.put(CommonRegister.QUEUE_ENABLE, 0) == []
    assert driver.get(CommonRegister.QUEUE_ENABLE) == 1


def test_a_running_queue_keeps_its_addresses():
    driver = Driver()
    driver.run()
    driver.put(CommonRegister.QUEUE_DESC, 0x9000)
    driver.put(CommonRegister.QUEUE_SIZE, 8)
    assert driver.get(CommonRegister.QUEUE_DESC) == 0x1000
    assert driver.get(CommonRegister.QUEUE_SIZE) == 16


def test_addresses_are_written_in_halves_too():
    driver = Driver()
    at = CommonRegister.QUEUE_DESC.value.offset
    driver.function.write(REGISTERS_BAR, at + 4, (0x11).to_bytes(4, "little"))
    driver.function.write(REGISTERS_BAR, at, (0x2000).to_bytes(4, "little"))
    assert driver.get(CommonRegister.QUEUE_DESC) == 0x11_0000_2000


@pytest.mark.parametrize(
    ("features", "size", "desc", "words"),
    [
        (SPLIT, 0, 0x1000, "size is 0"),
        (SPLIT, 48, 0x1000, "a power of two"),
        (SPLIT, 128, 0x1000, "size is 128"),
        (PACKED, 65, 0x1000, "from 1 to 64"),
        (SPLIT, 16, 0x1008, "16-aligned"),
    ],
)
def test_a_queue_that_cannot_be_fails_alone(features, size, desc, words):
    driver = Driver()
    driver.run(features)
    (told,) = driver.enable(1, size=size, desc=desc)
    assert isinstance(told, TellDriver)
    assert words in told.error
    assert driver.get(CommonRegister.DEVICE_STATUS) == RUNNING | DeviceStatus.NEEDS_RESET
    assert driver.queue_status(1) == QueueStatus.FAILED
    assert driver.queue_status(0) == QueueStatus.ENABLED


def test_a_packed_ring_may_have_any_size():
    driver = Driver()
    driver.run(PACKED)
    assert driver.enable(1, size=48) == [start(features=PACKED, index=1, num=48)]


def test_a_queue_that_broke_a_rule_stays_failed_until_the_reset():
    driver = Driver()
    driver.run()
    assert driver.state.broke(0, "HEAD: 0x99") == [TellDriver(error="queue 0: HEAD: 0x99")]
    assert driver.put(CommonRegister.QUEUE_ENABLE, 1) == []
    assert driver.suspend() == []
    driver.put(CommonRegister.DEVICE_STATUS, 0)
    assert driver.run() == [start()]


# ---- positions ----------------------------------------------------------------------------------


def test_a_queue_is_suspended_and_goes_on_where_it_stood():
    driver = Driver()
    driver.run()
    assert driver.suspend() == [StopQueue(index=0, drain=True)]
    assert driver.queue_status() == QueueStatus.SUSPENDING
    state = RingState(avail=7, used=7)
    driver.state.stopped(0, state)
    assert driver.queue_status() == QueueStatus.SUSPENDED
    assert driver.get(QueueStateRegister.AVAIL) == 7
    assert driver.get(CommonRegister.QUEUE_ENABLE) == 0
    assert driver.put(CommonRegister.QUEUE_ENABLE, 1) == [start(state)]


def test_a_packed_position_has_its_wrap_counters():
    driver = Driver()
    driver.run(PACKED)
    driver.suspend()
    driver.state.stopped(0, RingState(avail=3, used=9, avail_wrap=False, used_wrap=True))
    assert driver.get(QueueStateRegister.AVAIL) == 3
    assert driver.get(QueueStateRegister.USED) == 9 | 0x8000
    assert driver.put(CommonRegister.QUEUE_ENABLE, 1) == [
        start(RingState(avail=3, used=9, avail_wrap=False, used_wrap=True), features=PACKED)
    ]


def test_a_queue_starts_at_a_position_that_was_written():
    driver = Driver()
    driver.negotiate(SPLIT)
    driver.put(QueueStateRegister.AVAIL, 0xFFF0)
    driver.put(QueueStateRegister.USED, 0xFFEE)
    driver.enable()
    assert driver.put(CommonRegister.DEVICE_STATUS, RUNNING) == [
        start(RingState(avail=0xFFF0, used=0xFFEE))
    ]


def test_half_a_position_is_none():
    driver = Driver()
    driver.negotiate(SPLIT)
    driver.put(QueueStateRegister.AVAIL, 5)
    driver.enable()
    assert driver.put(CommonRegister.DEVICE_STATUS, RUNNING) == [start()]


@pytest.mark.parametrize(
    ("features", "avail", "used"), [(SPLIT, 17, 0), (SPLIT, 0, 1), (PACKED, 16, 0), (PACKED, 0, 99)]
)
def test_a_position_that_cannot_be_breaks_the_queue(features, avail, used):
    driver = Driver()
    driver.negotiate(features)
    driver.put(QueueStateRegister.AVAIL, avail)
    driver.put(QueueStateRegister.USED, used)
    driver.enable()
    (told,) = driver.put(CommonRegister.DEVICE_STATUS, RUNNING)
    assert isinstance(told, TellDriver)
    assert driver.queue_status() == QueueStatus.FAILED


def test_a_position_cannot_be_written_while_the_queue_runs():
    driver = Driver()
    driver.run()
    driver.put(QueueStateRegister.AVAIL, 5)
    assert driver.get(QueueStateRegister.AVAIL) == 0


def test_an_enabled_queue_of_a_device_that_does_not_run_is_suspended_at_once():
    driver = Driver()
    driver.negotiate(SPLIT)
    driver.enable()
    assert driver.suspend() == []
    assert driver.queue_status() == QueueStatus.SUSPENDED


def test_an_idle_queue_is_not_suspended():
    driver = Driver()
    driver.run()
    assert driver.suspend(1) == []
    assert driver.queue_status(1) == QueueStatus.IDLE


def test_a_queue_that_is_reset_alone_forgets_its_position():
    driver = Driver()
    driver.run(SPLIT | VirtioFeatures.RING_RESET)
    assert driver.put(CommonRegister.QUEUE_RESET, 1) == [
        StopQueue(index=0, drain=False),
        BindQueue(index=0),
    ]
    driver.state.stopped(0, RingState(avail=7, used=5))
    assert driver.get(CommonRegister.QUEUE_RESET) == 0
    assert driver.queue_status() == QueueStatus.IDLE
    assert driver.get(QueueStateRegister.AVAIL) == 0
    assert driver.get(CommonRegister.QUEUE_SIZE) == 64


def test_a_queue_is_not_reset_alone_unless_that_was_negotiated():
    driver = Driver()
    driver.run()
    assert driver.put(CommonRegister.QUEUE_RESET, 1) == []


def test_a_function_without_bus_mastering_touches_no_memory():
    driver = Driver(bus_master=False)
    assert driver.run() == []
    assert driver.set_bus_master(on=True) == [start()]
    assert driver.set_bus_master(on=False) == [StopQueue(index=0, drain=True)]
    driver.state.stopped(0, RingState(avail=4, used=4))
    assert driver.queue_status() == QueueStatus.ENABLED
    assert driver.set_bus_master(on=True) == [start(RingState(avail=4, used=4))]


def test_a_queue_waits_for_its_memory_and_goes_on():
    driver = Driver()
    driver.run()
    assert driver.state.take_memory(0x1000 + 16 * 16, 0x2000 - 0x1100) == []
    assert driver.state.take_memory(0x10FF, 1) == [StopQueue(index=0, drain=True)]
    driver.state.stopped(0, RingState(avail=4, used=4))
    assert driver.set_bus_master(on=False) == []
    assert driver.set_bus_master(on=True) == []
    assert driver.state.give_memory(lambda at, size: at + size <= 0x3000) == []
    assert driver.state.give_memory(lambda at, size: at + size <= 0x4000) == [
        start(RingState(avail=4, used=4))
    ]


# ---- interrupts, doorbells, configuration -------------------------------------------------------


def test_only_vectors_that_are_there_can_be_assigned():
    driver = Driver()
    driver.put(CommonRegister.QUEUE_SELECT, 1)
    assert driver.put(CommonRegister.QUEUE_MSIX_VECTOR, 3) == [BindQueue(index=1)]
    assert driver.get(CommonRegister.QUEUE_MSIX_VECTOR) == 3
    driver.put(CommonRegister.QUEUE_MSIX_VECTOR, 4)
    assert driver.get(CommonRegister.QUEUE_MSIX_VECTOR) == MSI_NO_VECTOR
    driver.put(CommonRegister.CONFIG_MSIX_VECTOR, 2)
    assert driver.get(CommonRegister.CONFIG_MSIX_VECTOR) == 2
    driver.put(CommonRegister.CONFIG_MSIX_VECTOR, 9)
    assert driver.get(CommonRegister.CONFIG_MSIX_VECTOR) == MSI_NO_VECTOR


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("layout", [LAYOUT, replace(LAYOUT, shared_notify=True)])
def test_a_doorbell_is_rung_by_a_store_of_16_or_32_bits(layout, width):
    driver = Driver(layout)
    for index in range(3):
        data = index.to_bytes(width, "little")
        actions = driver.function.write(NOTIFY_BAR, layout.doorbell(index), data)
        assert actions == [RingDoorbell(index=index)]
    beside = layout.doorbell(2) + 2
    assert driver.function.write(NOTIFY_BAR, beside, bytes(width)) == []
    assert driver.function.write(NOTIFY_BAR, layout.doorbell(3), bytes(width)) == []


def test_a_changed_configuration_has_another_generation_and_is_told():
    driver = Driver()
    assert driver.state.show_config(b"old")
    before = driver.get(CommonRegister.CONFIG_GENERATION)
    assert driver.state.config_changed(b"old") == []
    assert driver.state.config_changed(b"new") == [TellDriver()]
    assert driver.get(CommonRegister.CONFIG_GENERATION) == before + 1
    assert driver.function.read(REGISTERS_BAR, DEVICE_AT + 1, 5) == b"ew\0\0\0"


def test_reading_the_interrupt_status_clears_it():
    driver = Driver()
    driver.state.config_changed(b"new")
    assert driver.function.read(REGISTERS_BAR, ISR_AT, 1) == bytes([IsrStatus.CONFIG])
    assert driver.function.read(REGISTERS_BAR, ISR_AT, 1) == b"\0"


def test_a_write_to_the_configuration_is_passed_on_if_it_lies_inside():
    driver = Driver()
    assert driver.function.write(REGISTERS_BAR, DEVICE_AT + 32, b"\1") == [
        WriteConfig(offset=32, data=b"\1")
    ]
    assert driver.function.write(REGISTERS_BAR, DEVICE_AT + 254, b"1234") == []


def test_the_bars_are_reached_through_configuration_space():
    driver = Driver()
    config = driver.function.read(CONFIG_REGION, 0, 256)
    at = config[PciHeader.CAPABILITIES]
    while config[at] != 9 or config[at + 3] != CapabilityType.PCI:
        at = config[at + 1]

    def window(bar: int, offset: int, width: int) -> None:
        driver.function.write(CONFIG_REGION, at + 4, bytes([bar]))
        driver.function.write(CONFIG_REGION, at + 8, offset.to_bytes(4, "little"))
        driver.function.write(CONFIG_REGION, at + 12, width.to_bytes(4, "little"))

    window(REGISTERS_BAR, CommonRegister.NUM_QUEUES.value.offset, 2)
    assert driver.function.read(CONFIG_REGION, at + 16, 2) == b"\3\0"
    window(REGISTERS_BAR, CommonRegister.DEVICE_STATUS.value.offset, 1)
    driver.function.write(CONFIG_REGION, at + 16, b"\3")
    assert driver.get(CommonRegister.DEVICE_STATUS) == 3
    window(NOTIFY_BAR, LAYOUT.doorbell(1), 2)
    assert driver.function.write(CONFIG_REGION, at + 16, b"\1\0") == [RingDoorbell(index=1)]
    for bar, offset, width in ((NOTIFY_BAR, 0xFFFFFFFF, 4), (6, 0, 4), (7, 0, 4), (0, 0, 3)):
        window(bar, offset, width)
        assert driver.function.write(CONFIG_REGION, at + 16, bytes(4)) == []


def test_the_vector_table_keeps_what_is_written():
    driver = Driver()
    assert driver.function.read(MSIX_BAR, 0, 16) == bytes(12) + b"\1\0\0\0"
    driver.function.write(MSIX_BAR, 16, b"0123456789abcdef")
    assert driver.function.read(MSIX_BAR, 16, 16) == b"0123456789abcdef"
    driver.function.write(MSIX_BAR, 0x8000, b"\xff")
    assert driver.function.read(MSIX_BAR, 0x8000, 8) == bytes(8)
    driver.function.reset()
    assert driver.function.read(MSIX_BAR, 16, 16) == bytes(12) + b"\1\0\0\0"


# ---- random traffic -----------------------------------------------------------------------------

REGIONS = st.sampled_from([REGISTERS_BAR, NOTIFY_BAR, MSIX_BAR, CONFIG_REGION])
PLACES = st.one_of(
    st.sampled_from([row.value.offset for row in CommonRegister]),
    st.sampled_from([QUEUE_STATE_AT + row.value.offset for row in QueueStateRegister]),
    st.integers(0, 0xFF),
    st.integers(0, 0x20000),
)
WIDTHS = st.sampled_from([1, 2, 4, 8, 3, 64])
VALUES = st.one_of(st.sampled_from([0, 1, 2, 3, 7, 11, 15, 16, 64]), st.integers(0, (1 << 64) - 1))
ACCESSES = st.lists(st.tuples(st.booleans(), REGIONS, PLACES, WIDTHS, VALUES), max_size=60)


@settings(max_examples=300)
@given(ACCESSES, st.booleans())
def test_no_access_is_too_wild(accesses, ready):
    """A queue runs from its StartQueue to its StopQueue or a Reset; reads have their length."""
    driver = Driver()
    running: set[int] = set()
    if ready:
        running |= {action.index for action in driver.run() if isinstance(action, StartQueue)}
    for writes, region, place, width, value in accesses:
        size = driver.function.region_sizes[region]
        offset = place % size
        count = min(width, size - offset)
        if not writes:
            assert len(driver.function.read(region, offset, count)) == count
            continue
        data = (value & (1 << 8 * count) - 1).to_bytes(count, "little")
        for action in driver.function.write(region, offset, data):
            match action:
                case Reset():
                    running.clear()
                case StartQueue(index=index):
                    assert index not in running
                    assert action.num <= 64
                    running.add(index)
                case StopQueue(index=index):
                    running.remove(index)
                    driver.state.stopped(index, RingState(avail=1, used=1))
        assert running == {
            index for index, queue in enumerate(driver.state.queues) if queue.running
        }
        assert running == set() or DeviceStatus.DRIVER_OK in driver.state.status
