"""Features, queues and their positions: what is programmed, and what a device may refuse."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pci_rig import BASIC, ModelDevice, Shape

from accel.virtio_pci import open_virtio
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import CommonRegister, DeviceStatus, QueueStateRegister, QueueStatus
from vhostuser.datapath import QueueAddresses
from vhostuser.errors import AcceleratorError
from vhostuser.virtqueue import RingState

GUEST = VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX
PACKED = BASIC | VirtioFeatures.RING_PACKED
PLACE = QueueAddresses(
    num=128, desc=0x1_2345_6780, driver=0x9_8765_4320, device=0xFEDC_BA98_7654_3210
)
READY = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK


def _place(**changes):
    fields = {"num": 128, "desc": 0, "driver": 0x1000, "device": 0x2000}
    return QueueAddresses(**(fields | changes))


async def test_the_driver_adds_what_its_bus_needs_and_nothing_else(driven):
    more = VirtioFeatures.RING_RESET | VirtioFeatures.NOTIFICATION_DATA | VirtioFeatures.IN_ORDER
    async with driven(Shape(features=BASIC | more)) as (model, accelerator):
        await accelerator.set_features(GUEST | VirtioFeatures.PROTOCOL_FEATURES)
        own = VirtioFeatures.ACCESS_PLATFORM | VirtioFeatures.RING_RESET
        assert model.accepted == int(GUEST | own)
        assert model.status == READY
        assert model.config_vector == 0


async def test_a_device_behind_no_iommu_is_not_told_of_one(driven):
    async with driven(Shape(features=GUEST)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        assert model.accepted == int(GUEST)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (VirtioFeatures.EVENT_IDX, "a driver without VERSION_1 cannot use it"),
        (GUEST | VirtioFeatures.IN_ORDER, "does not offer the features 0x800000000"),
        (GUEST | VirtioFeatures.ACCESS_PLATFORM, "does not offer the features 0x200000000"),
        (GUEST | VirtioFeatures.LOG_ALL, "does not offer the features 0x4000000"),
    ],
)
async def test_features_that_cannot_be_are_refused(driven, features, text):
    async with driven() as (model, accelerator):
        before = len(model.writes)
        with pytest.raises(AcceleratorError, match=text):
            await accelerator.set_features(features)
        assert len(model.writes) == before


async def test_a_device_may_refuse_the_features(driven):
    async with driven(refuses_features=True) as (model, accelerator):
        with pytest.raises(AcceleratorError, match="model does not take the features 0x320000000"):
            await accelerator.set_features(GUEST)
        assert model.status & DeviceStatus.FAILED
        await accelerator.reset()
        model.refuses_features = False
        await accelerator.set_features(GUEST)
        with pytest.raises(AcceleratorError, match="has its features; reset it first"):
            await accelerator.set_features(GUEST)


async def test_a_device_may_refuse_the_configurations_vector(driven):
    async with driven(refused_vectors={0}) as (_, accelerator):
        with pytest.raises(AcceleratorError, match="vector 0 for its configuration"):
            await accelerator.set_features(GUEST)


async def test_a_queue_is_programmed_in_full_before_it_is_enabled(driven):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        start = len(model.writes)
        await accelerator.start_queue(1, PLACE, None)
        queue = model.queues[1]
        assert (queue.size, queue.vector, queue.enable) == (128, 2, 1)
        assert queue.areas == {
            CommonRegister.QUEUE_DESC: PLACE.desc,
            CommonRegister.QUEUE_DRIVER: PLACE.driver,
            CommonRegister.QUEUE_DEVICE: PLACE.device,
        }
        writes = model.writes[start:]
        assert writes[-1] == (CommonRegister.QUEUE_ENABLE, 1)
        halves = [value for row, value in writes if row is CommonRegister.QUEUE_DEVICE]
        assert halves == [0x7654_3210, 0xFEDC_BA98]
        assert not model.status & DeviceStatus.DRIVER_OK
        await accelerator.start()
        assert model.status == READY | DeviceStatus.DRIVER_OK


@pytest.mark.parametrize(
    ("index", "place", "text"),
    [
        (-1, _place(), "has no queue -1"),
        (2, _place(), "has no queue 2"),
        (0, _place(num=512), "has up to 256 descriptors, a split ring a power of two, not 512"),
        (0, _place(num=0), "not 0"),
        (0, _place(num=100), "not 100"),
        (0, _place(desc=8), "the desc area of a queue is at a multiple of 16, not at 0x8"),
        (0, _place(driver=1), "the driver area of a queue is at a multiple of 2"),
        (0, _place(device=2), "the device area of a queue is at a multiple of 4"),
        (0, _place(device=1 << 64), "not at 0x10000000000000000"),
        (0, _place(desc=-16), "not at -0x10"),
    ],
)
async def test_a_queue_that_cannot_be_is_refused_before_the_device_hears_of_it(
    driven, index, place, text
):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        before = len(model.writes)
        with pytest.raises(AcceleratorError, match=text):
            await accelerator.start_queue(index, place, None)
        assert len(model.writes) == before


async def test_a_packed_queue_may_have_any_size(driven):
    async with driven(Shape(features=PACKED)) as (model, accelerator):
        await accelerator.set_features(GUEST | VirtioFeatures.RING_PACKED)
        await accelerator.start_queue(0, _place(num=100, driver=4), None)
        assert model.queues[0].size == 100
        with pytest.raises(AcceleratorError, match="driver area of a queue is at a multiple of 4"):
            await accelerator.start_queue(1, _place(driver=2), None)


@pytest.mark.parametrize(
    ("lies", "text"),
    [
        ({CommonRegister.QUEUE_SIZE: 256}, "does not take 128 as its queue_size"),
        ({CommonRegister.QUEUE_MSIX_VECTOR: 0xFFFF}, "does not take 1 as its queue_msix_vector"),
        ({CommonRegister.QUEUE_ENABLE: 1}, "queue 0 of model runs"),
        ({CommonRegister.DEVICE_STATUS: READY | 64}, "model needs a reset"),
        ({CommonRegister.DEVICE_STATUS: 3}, "model has no features yet"),
        ({CommonRegister.DEVICE_STATUS: 0xFF}, "does not answer any more"),
    ],
)
async def test_a_device_that_does_not_take_a_queue_is_believed(driven, lies, text):
    async with driven(patience=0.01) as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.lies = lies
        with pytest.raises(AcceleratorError, match=text):
            await accelerator.start_queue(0, _place(), None)
        model.lies = {}


async def test_a_queue_that_does_not_come_to_life_is_no_queue(driven):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.lies = {CommonRegister.QUEUE_ENABLE: 0}
        with pytest.raises(AcceleratorError, match="does not take 1 as its queue_enable"):
            await accelerator.start_queue(0, _place(), None)
        model.lies = {}


async def test_nothing_starts_before_the_features_are_agreed_on(driven):
    async with driven() as (_, accelerator):
        with pytest.raises(AcceleratorError, match="has no features yet"):
            await accelerator.start_queue(0, _place(), None)
        with pytest.raises(AcceleratorError, match="has no features yet"):
            await accelerator.start()


async def test_a_plain_device_starts_at_the_beginning_and_all_at_once(driven):
    async with driven() as (_, accelerator):
        await accelerator.set_features(GUEST)
        with pytest.raises(AcceleratorError, match="can start queues at the beginning only"):
            await accelerator.start_queue(0, _place(), RingState(avail=5, used=5))
        await accelerator.start_queue(0, _place(), None)
        await accelerator.start()
        with pytest.raises(AcceleratorError, match="its queues can be started before that only"):
            await accelerator.start_queue(1, _place(), None)
        assert await accelerator.stop_queue(0) is None
        assert not await accelerator.reset_queue(0)
        with pytest.raises(AcceleratorError, match="before that only"):
            await accelerator.start_queue(0, _place(), None)
        await accelerator.reset()
        await accelerator.set_features(GUEST)
        await accelerator.start_queue(0, _place(), None)


async def test_a_device_that_fails_at_the_start_says_so(driven):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.lies = {CommonRegister.DEVICE_STATUS: READY | DeviceStatus.NEEDS_RESET}
        with pytest.raises(AcceleratorError, match="needs a reset"):
            await accelerator.start()
        model.lies = {}


@pytest.mark.parametrize(
    ("features", "state", "registers"),
    [
        (GUEST, RingState(avail=0xFFFF, used=0xFFFE), (0xFFFF, 0xFFFE)),
        (GUEST, None, (0, 0)),
        (GUEST | VirtioFeatures.RING_PACKED, None, (0x8000, 0x8000)),
        (
            GUEST | VirtioFeatures.RING_PACKED,
            RingState(avail=3, used=127, avail_wrap=False, used_wrap=True),
            (3, 0x807F),
        ),
    ],
)
async def test_a_queue_starts_where_it_is_told(driven, features, state, registers):
    async with driven(Shape(features=PACKED, queue_state=True)) as (model, accelerator):
        await accelerator.set_features(features)
        await accelerator.start_queue(1, _place(), state)
        assert (model.queues[1].avail, model.queues[1].used) == registers


@pytest.mark.parametrize("state", [RingState(avail=0x8000, used=0), RingState(avail=0, used=-1)])
async def test_a_position_that_no_ring_has_is_refused(driven, state):
    async with driven(Shape(features=PACKED, queue_state=True)) as (model, accelerator):
        await accelerator.set_features(GUEST | VirtioFeatures.RING_PACKED)
        with pytest.raises(AcceleratorError, match="no ring has a position"):
            await accelerator.start_queue(0, _place(), state)
        assert model.queues[0].enable == 0


@pytest.mark.parametrize(
    ("features", "register", "state"),
    [
        (GUEST, 0xFFFF, RingState(avail=0xFFFF, used=0xFFFF)),
        (
            GUEST | VirtioFeatures.RING_PACKED,
            0x7F,
            RingState(avail=127, used=127, avail_wrap=False, used_wrap=False),
        ),
    ],
)
async def test_a_suspended_queue_says_where_it_stands_and_goes_on(
    driven, features, register, state
):
    async with driven(Shape(features=PACKED, queue_state=True)) as (model, accelerator):
        await accelerator.set_features(features)
        await accelerator.start_queue(0, _place(), None)
        await accelerator.start()
        queue = model.queues[0]
        queue.avail = queue.used = register
        assert await accelerator.stop_queue(0) == state
        assert queue.status is QueueStatus.SUSPENDED
        assert await accelerator.stop_queue(0) is None
        await accelerator.start_queue(0, _place(num=64) if features == GUEST else _place(), state)
        assert queue.status is QueueStatus.ENABLED
        assert (queue.avail, queue.used) == (register, register)


@pytest.mark.parametrize(
    ("registers", "text"),
    [
        ((5, 4), "says that it stands at 0x5, 0x4"),
        ((0x8080, 0x8080), "says that it stands at 0x8080, 0x8080"),
        ((0x8001, 0x0001), "says that it stands at 0x8001, 0x1"),
    ],
)
async def test_a_position_that_cannot_be_is_not_believed(driven, caplog, registers, text):
    async with driven(Shape(features=PACKED, queue_state=True)) as (model, accelerator):
        await accelerator.set_features(GUEST | VirtioFeatures.RING_PACKED)
        await accelerator.start_queue(0, _place(), None)
        model.queues[0].avail, model.queues[0].used = registers
        assert await accelerator.stop_queue(0) is None
    assert text in caplog.text


@pytest.mark.parametrize(
    ("wrongs", "text"),
    [
        ({"stuck_queue": True}, "queue 0 has not stopped within 0.01 s"),
        ({"lies": {QueueStateRegister.STATUS: 4}}, "its status is 4"),
        ({"lies": {QueueStateRegister.STATUS: 0}}, "its status is 0"),
        ({"lies": {QueueStateRegister.STATUS: 0xFFFF}}, "its status is 65535"),
    ],
)
async def test_a_queue_that_does_not_stop_is_left_for_a_reset(driven, caplog, wrongs, text):
    async with driven(Shape(queue_state=True), patience=0.01) as (model, accelerator):
        await accelerator.set_features(GUEST)
        await accelerator.start_queue(0, _place(), None)
        for name, value in wrongs.items():
            setattr(model, name, value)
        assert await accelerator.stop_queue(0) is None
        model.lies = {}
    assert "only a reset stops queue 0: " in caplog.text
    assert text in caplog.text


async def test_stopping_on_a_device_that_is_gone_is_no_error(driven):
    async with driven(Shape(queue_state=True)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        await accelerator.start_queue(0, _place(), None)
        model.depart("pulled out")
        assert await accelerator.stop_queue(0) is None
        with pytest.raises(OSError, match="pulled out"):
            await accelerator.reset()


async def test_a_queue_is_reset_alone_where_the_device_can(driven):
    async with driven(Shape(features=BASIC | VirtioFeatures.RING_RESET)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        for index in range(2):
            await accelerator.start_queue(index, _place(), None)
        await accelerator.start()
        assert await accelerator.reset_queue(0)
        assert [queue.enable for queue in model.queues] == [0, 1]
        assert not await accelerator.reset_queue(0)
        await accelerator.start_queue(0, _place(), None)
        assert [queue.enable for queue in model.queues] == [1, 1]


async def test_a_queue_that_does_not_reset_is_an_error(driven):
    shape = Shape(features=BASIC | VirtioFeatures.RING_RESET)
    async with driven(shape, patience=0.01) as (model, accelerator):
        await accelerator.set_features(GUEST)
        await accelerator.start_queue(0, _place(), None)
        model.stuck_queue = True
        with pytest.raises(AcceleratorError, match="queue 0 of model does not reset"):
            await accelerator.reset_queue(0)


async def test_two_operations_never_share_a_select_register(driven):
    async with driven(Shape(sizes=(256,) * 4)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        async with trio.open_nursery() as nursery:
            for index in range(4):
                place = _place(num=2 << index, desc=0x1000 * index)
                nursery.start_soon(accelerator.start_queue, index, place, None)
        for index, queue in enumerate(model.queues):
            assert (queue.size, queue.vector, queue.enable) == (2 << index, index + 1, 1)
            assert queue.areas[CommonRegister.QUEUE_DESC] == 0x1000 * index


async def test_memory_is_the_devices_business(driven):
    async with driven() as (model, accelerator):
        region = object()
        await accelerator.map(region)
        assert model.mapped == [region]
        await accelerator.unmap(region)
        assert model.mapped == []


@given(
    lies=st.dictionaries(
        st.sampled_from(list(QueueStateRegister)), st.integers(0, 0xFFFF), max_size=3
    ),
    packed=st.booleans(),
)
def test_a_position_that_is_returned_is_one_that_the_ring_can_have(lies, packed):
    """Whatever the queue state registers say."""

    async def drive() -> None:
        model = ModelDevice(Shape(features=PACKED, queue_state=True))
        try:
            async with open_virtio(model, patience=0.001) as accelerator:
                ring = VirtioFeatures.RING_PACKED if packed else VirtioFeatures(0)
                await accelerator.set_features(GUEST | ring)
                await accelerator.start_queue(0, _place(), None)
                model.lies = lies
                state = await accelerator.stop_queue(0)
                if state is not None:
                    assert 0 <= state.avail < (128 if packed else 0x10000)
                    assert (state.avail, state.avail_wrap) == (state.used, state.used_wrap)
        finally:
            model.close()

    trio.run(drive)
