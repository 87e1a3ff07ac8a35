"""Opening a device: what it says is understood, and what cannot be driven is refused in words."""

from __future__ import annotations

import struct

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pci_rig import BAR, BASIC, NOTIFY_AT, ModelDevice, Shape, config_space

from accel.virtio_pci import open_virtio
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import (
    CapabilityType,
    CommonRegister,
    DeviceStatus,
    MsixCapability,
    QueueStateRegister,
    StructureCapability,
)
from vhostuser.errors import AcceleratorError, UsageError, leaves


async def test_a_device_is_what_its_registers_say(driven):
    hidden = VirtioFeatures.NOTIFICATION_DATA | VirtioFeatures.RING_RESET | VirtioFeatures.SR_IOV
    shape = Shape(sizes=(256, 64, 8), features=BASIC | hidden | VirtioFeatures(1 << 41 | 0x7E54))
    async with driven(shape) as (model, accelerator):
        assert accelerator.identity.device_id == 2
        assert accelerator.identity.name == "model"
        assert accelerator.queue_sizes == (256, 64, 8)
        guest = VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX | VirtioFeatures(0x7E54)
        assert accelerator.features == guest
        assert not accelerator.capabilities.start_at_state
        assert not accelerator.capabilities.report_state
        assert not accelerator.capabilities.late_queues
        assert accelerator.group() is None
        assert model.status == DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER
    assert model.status == 0


async def test_the_queue_state_capability_is_seen(driven):
    async with driven(Shape(queue_state=True)) as (_, accelerator):
        assert accelerator.capabilities.start_at_state
        assert accelerator.capabilities.report_state
        assert accelerator.capabilities.late_queues


async def test_a_name_of_the_callers_choice_is_used():
    model = ModelDevice()
    async with open_virtio(model, name="vfio:0000:01:00.0") as accelerator:
        assert accelerator.identity.name == "vfio:0000:01:00.0"
    model.close()


async def test_a_running_device_is_reset_first(driven):
    async with driven(status=15) as (model, _):
        assert model.writes[0] == (CommonRegister.DEVICE_STATUS, 0)


async def test_a_device_that_ignores_its_status_is_reset_as_a_function(driven):
    async with driven(stuck_reset=True, status=15, patience=0.01) as (model, _):
        assert model.function_resets == 1


async def test_a_device_that_cannot_be_reset_at_all_is_refused(driven):
    with pytest.raises(OSError, match="no function reset"):
        async with driven(stuck_reset=True, status=15, function_resets=1, patience=0.01):
            pass


async def test_queues_after_the_last_that_can_be_used_are_not_there(driven):
    async with driven(Shape(sizes=(128, 0, 64, 0, 0))) as (_, accelerator):
        assert accelerator.queue_sizes == (128, 0, 64)


@pytest.mark.parametrize(
    ("shape", "wrongs", "error", "text"),
    [
        (Shape(), {"dead": True}, AcceleratorError, "does not answer: it is gone"),
        (Shape(vectors=0), {}, UsageError, "has no MSI-X vectors"),
        (Shape(multiplier=1), {}, UsageError, "notify_off_multiplier is 0, or a power of two"),
        (Shape(multiplier=12), {}, UsageError, "notify_off_multiplier is 0, or a power of two"),
        (Shape(features=VirtioFeatures(0x7E54)), {}, UsageError, "does not offer VERSION_1"),
        (
            Shape(features=VirtioFeatures.VERSION_1, in_group=True),
            {},
            UsageError,
            "past the IOMMU .QEMU: iommu_platform=on",
        ),
        (Shape(sizes=(0, 0)), {}, AcceleratorError, "no queue that can be used"),
        (Shape(sizes=(100,)), {}, AcceleratorError, "a split one a power of two, not 100"),
        (
            Shape(sizes=(40000,), features=BASIC | VirtioFeatures.RING_PACKED),
            {},
            AcceleratorError,
            "up to 32768 descriptors",
        ),
        (
            Shape(notify_offs=(0, 0xFFFF), notify_size=4096),
            {},
            AcceleratorError,
            "queue 1: queue_notify_off 65535 times 4096 lies beyond",
        ),
        (
            Shape(),
            {"lies": {CommonRegister.NUM_QUEUES: 0}},
            AcceleratorError,
            "1 to 1024 queues, not 0",
        ),
        (
            Shape(),
            {"lies": {CommonRegister.NUM_QUEUES: 0xFFFF}},
            AcceleratorError,
            "1 to 1024 queues, not 65535",
        ),
        (
            Shape(),
            {"lies": {CommonRegister.DEVICE_STATUS: 0xFF}},
            AcceleratorError,
            "does not answer any more",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_driven_is_refused_with_the_reason(driven, shape, wrongs, error, text):
    with pytest.raises(error, match=text):
        async with driven(shape, **wrongs):
            pass


async def test_packed_rings_need_no_power_of_two(driven):
    shape = Shape(sizes=(100,), features=BASIC | VirtioFeatures.RING_PACKED)
    async with driven(shape) as (_, accelerator):
        assert accelerator.queue_sizes == (100,)


def _structure(kind, offset, size, bar=BAR):
    return StructureCapability(type=kind, bar=bar, offset=offset, size=size, multiplier=4096)


@pytest.mark.parametrize(
    ("structures", "text"),
    [
        ([], "no modern virtio interface"),
        ([_structure(CapabilityType.COMMON, 0, 60)], "no modern virtio interface"),
        (
            [
                _structure(CapabilityType.COMMON, 0, 60, bar=2),
                _structure(CapabilityType.NOTIFY, NOTIFY_AT, 0x1000),
            ],
            "no modern virtio interface",
        ),
        (
            [
                _structure(CapabilityType.COMMON, 0, 55),
                _structure(CapabilityType.NOTIFY, NOTIFY_AT, 0x1000),
            ],
            "at least 56 bytes at a multiple of 4, not 55 at 0x0",
        ),
        (
            [
                _structure(CapabilityType.COMMON, 2, 60),
                _structure(CapabilityType.NOTIFY, NOTIFY_AT, 0x1000),
            ],
            "at least 56 bytes at a multiple of 4, not 60 at 0x2",
        ),
        (
            [
                _structure(CapabilityType.COMMON, 0, 60),
                _structure(CapabilityType.NOTIFY, NOTIFY_AT, 1),
            ],
            "notification structure has at least 2 bytes",
        ),
    ],
)
async def test_structures_that_cannot_be_are_refused(structures, text):
    model = ModelDevice()
    model.config_space = config_space(structures)
    with pytest.raises(UsageError, match=text):
        async with open_virtio(model):
            pass
    model.close()


async def test_a_device_of_another_kind_is_refused():
    model = ModelDevice()
    struct.pack_into("<HH", model.config_space, 0, 0x8086, 0x100E)
    with pytest.raises(UsageError, match=r"model cannot be driven: .* this one is 8086:100e"):
        async with open_virtio(model):
            pass
    model.close()


async def test_a_device_without_its_own_configuration_has_zeros_for_it():
    model = ModelDevice()
    model.config_space = config_space(
        [
            _structure(CapabilityType.COMMON, 0, 60),
            _structure(CapabilityType.NOTIFY, NOTIFY_AT, 0x4000),
            MsixCapability(
                vectors=4, table_bar=1, table_offset=0, pending_bar=1, pending_offset=0x800
            ),
        ],
    )
    async with open_virtio(model) as accelerator:
        assert await accelerator.read_config(0, 8) == bytes(8)
        with pytest.raises(AcceleratorError, match="no configuration at 0x0"):
            await accelerator.write_config(0, b"\1")
    model.close()


async def test_what_goes_wrong_in_the_block_leaves_nothing_behind(driven):
    with pytest.raises(ExceptionGroup) as caught:
        async with driven() as (model, _):
            raise LookupError
    assert [type(error) for error in leaves(caught.value)] == [LookupError]
    assert model.status == 0


async def test_a_device_that_goes_away_is_left_without_a_fuss(driven, caplog):
    async with driven() as (model, _):
        model.depart("pulled out")
    assert "model was left as it is" in caplog.text


async def test_cancelling_resets_the_device_all_the_same(driven):
    with trio.CancelScope() as scope:
        async with driven() as (model, accelerator):
            await accelerator.set_features(accelerator.features)
            scope.cancel()
            await trio.sleep_forever()
    assert model.status == 0


REGISTERS = st.sampled_from([*CommonRegister, *QueueStateRegister])


@settings(max_examples=150)
@given(
    lies=st.dictionaries(REGISTERS, st.integers(0, 0xFFFFFFFF), max_size=6),
    queue_state=st.booleans(),
)
def test_whatever_registers_say_the_driver_opens_or_refuses(lies, queue_state):
    """Only OSError and UsageError come out, in bounded time, and nothing is left open."""

    async def drive() -> None:
        model = ModelDevice(Shape(queue_state=queue_state))
        model.lies = {
            row: value & ((1 << 8 * min(row.value.width, 4)) - 1) for row, value in lies.items()
        }
        try:
            async with open_virtio(model, patience=0.001) as accelerator:
                assert 0 < len(accelerator.queue_sizes) <= 1024
                await accelerator.set_features(accelerator.features)
                await accelerator.read_config(0, 64)
        except* (OSError, UsageError):
            pass
        finally:
            model.close()

    trio.run(drive)
