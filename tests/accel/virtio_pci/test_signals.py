"""Doorbells and interrupts: the quickest way to each, and what can be handed to a guest."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

import pytest
import trio
from pci_rig import BAR, COMMON_AT, NOTIFY_AT, Shape

from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import MsixCapability
from vhostuser.datapath import EventfdDoorbell, MappedDoorbell, QueueAddresses
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

GUEST = VirtioFeatures.VERSION_1
PLACE = QueueAddresses(num=64, desc=0, driver=0x1000, device=0x2000)


async def _started(accelerator):
    await accelerator.set_features(GUEST)
    for index in range(len(accelerator.queue_sizes)):
        await accelerator.start_queue(index, PLACE, None)


def _ring(doorbell):
    assert doorbell.width == 2
    ctypes.c_uint16.from_address(doorbell.address).value = doorbell.value


@contextlib.contextmanager
def _eventfd():
    with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)) as fd:
        yield fd


async def _signalled(fd):
    """Wait until an eventfd is signalled; return how often it was."""
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(fd.fileno())
    return os.eventfd_read(fd.fileno())


def _is_silent(fd):
    try:
        return os.eventfd_read(fd.fileno()) == 0
    except BlockingIOError:
        return True


@pytest.mark.parametrize("multiplier", [0, 2, 4, 4096, 65536])
async def test_a_doorbell_is_rung_by_a_store_of_the_queues_index(driven, multiplier):
    shape = Shape(sizes=(64,) * 5, notify_offs=(4, 2, 0, 1, 3), multiplier=multiplier)
    async with driven(shape) as (model, accelerator):
        await _started(accelerator)
        for index in range(5):
            doorbell = accelerator.doorbell(index)
            assert isinstance(doorbell, MappedDoorbell)
            _ring(doorbell)
            assert model.doorbell_value(index, multiplier) == struct.pack("<H", index)


async def test_doorbells_that_cannot_be_mapped_in_one_piece_are_mapped_one_by_one(driven):
    async with driven(Shape(notify_offs=(0, 3))) as (model, accelerator):
        asked = []
        whole = model.map_area

        def one_page_at_most(region, offset, size):
            asked.append((region, offset, size))
            return whole(region, offset, size) if size <= 4096 else None

        accelerator._parts.doorbells.close()  # as if it had been so from the beginning
        model.map_area = one_page_at_most
        accelerator._parts.doorbells.map()
        await _started(accelerator)
        for index in range(2):
            _ring(accelerator.doorbell(index))
            assert model.doorbell_value(index, 4096) == struct.pack("<H", index)
        assert asked[1:] == [(BAR, NOTIFY_AT, 2), (BAR, NOTIFY_AT + 3 * 4096, 2)]


async def test_without_a_mapping_an_eventfd_rings_it(driven):
    async with driven(map_doorbells=False, eventfd_doorbells=True) as (model, accelerator):
        assert accelerator.doorbell(0) is None
        await _started(accelerator)
        doorbell = accelerator.doorbell(1)
        assert isinstance(doorbell, EventfdDoorbell)
        with doorbell.fd:
            os.eventfd_write(doorbell.fd.fileno(), 3)
        assert os.eventfd_read(model.doorbells[1].fileno()) == 3


async def test_without_either_it_is_rung_by_hand(driven):
    async with driven(map_doorbells=False) as (model, accelerator):
        await _started(accelerator)
        assert accelerator.doorbell(1) is None
        await accelerator.ring(1)
        await accelerator.ring(0)
        assert model.rung == [1, 0]


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
async def test_a_page_that_a_queue_has_to_itself_can_be_handed_on(driven, page_size):
    async with driven(Shape(multiplier=page_size)) as (_, accelerator):
        area = await accelerator.notify_area(1, page_size)
        with area.fd:
            assert (area.offset, area.size) == (NOTIFY_AT + page_size, page_size)


@pytest.mark.parametrize(
    ("shape", "page_size", "text"),
    [
        (Shape(multiplier=4), 4096, "page-per-vq=off: doorbells are 4 bytes apart"),
        (Shape(multiplier=0), 4096, "page-per-vq=off: doorbells are 0 bytes apart"),
        (Shape(multiplier=4096), 65536, "so that a page of 65536 bytes holds those of other"),
        (Shape(multiplier=4096, notify_offs=(1, 1)), 4096, "queue 0 has its doorbell in the same"),
        (Shape(sizes=(64, 64), notify_offs=(0, 1), notify_size=0x1800), 4096, "ends within"),
        (
            Shape(
                extra=[
                    MsixCapability(
                        vectors=2,
                        table_bar=BAR,
                        table_offset=NOTIFY_AT + 0x1800,
                        pending_bar=1,
                        pending_offset=0,
                    )
                ]
            ),
            4096,
            "the device's MSI-X table lies in the doorbell's page",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
async def test_a_page_that_holds_more_than_a_queues_doorbell_stays_here(
    driven, shape, page_size, text
):
    async with driven(shape) as (_, accelerator):
        with pytest.raises(AcceleratorError, match=text):
            await accelerator.notify_area(1, page_size)


async def test_the_doorbell_of_an_only_queue_still_needs_a_page_of_its_own(driven):
    async with driven(Shape(sizes=(64,), multiplier=4, notify_offs=(1,))) as (_, accelerator):
        with pytest.raises(AcceleratorError, match="is at byte 4 of a page of 4096"):
            await accelerator.notify_area(0, 4096)
    async with driven(Shape(sizes=(64,), multiplier=4)) as (_, accelerator):
        area = await accelerator.notify_area(0, 4096)
        area.fd.close()
        assert area.offset == NOTIFY_AT != COMMON_AT


async def test_what_the_device_does_not_share_stays_here(driven):
    async with driven(shares=False) as (_, accelerator):
        with pytest.raises(AcceleratorError, match="the model does not share"):
            await accelerator.notify_area(0, 4096)


async def test_with_enough_vectors_each_queue_has_its_own(driven):
    async with driven(Shape(sizes=(64,) * 3, vectors=4)) as (model, accelerator):
        assert [accelerator.vector_of(index) for index in range(3)] == [1, 2, 3]
        assert set(model.bound) == {0}
        with _eventfd() as call:
            await accelerator.set_call(1, call)
            assert set(model.bound) == {0, 2}
            model.interrupt(2)
            assert os.eventfd_read(call.fileno()) == 1
            await accelerator.set_call(1, None)
            assert set(model.bound) == {0}


async def test_a_shared_vector_reaches_everybody_who_has_it(driven):
    async with driven(Shape(sizes=(64,) * 5, vectors=3)) as (model, accelerator):
        assert [accelerator.vector_of(index) for index in range(5)] == [1, 2, 1, 2, 1]
        with _eventfd() as first, _eventfd() as second, _eventfd() as third, _eventfd() as other:
            for index, call in ((0, first), (2, second), (4, third), (1, other)):
                await accelerator.set_call(index, call)
                assert await _signalled(call) >= 1  # a self-kick at each change: none is lost
            for call in (first, second, third, other):
                _is_silent(call)  # self-kicks for the others of its vector
            await accelerator.set_call(2, None)
            for call in (first, third):
                assert await _signalled(call) >= 1
            model.interrupt(1)
            for call in (first, third):
                assert await _signalled(call) == 1
            assert _is_silent(second)
            assert _is_silent(other)
            model.interrupt(2)
            assert await _signalled(other) == 1


async def test_an_interrupt_that_comes_before_anybody_waits_is_not_lost_at_the_switch(driven):
    async with driven(Shape(sizes=(64,) * 2, vectors=2)) as (model, accelerator):
        model.interrupt(1)
        with _eventfd() as call:
            await accelerator.set_call(0, call)
            assert await _signalled(call) >= 1


async def test_with_one_vector_it_means_everything(driven):
    async with driven(Shape(vectors=1)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        assert model.config_vector == 0
        assert [accelerator.vector_of(index) for index in range(2)] == [0, 0]
        with _eventfd() as first, _eventfd() as second:
            await accelerator.set_call(0, first)
            await accelerator.set_call(1, second)
            for call in (first, second):
                assert await _signalled(call) >= 1
                _is_silent(call)
            model.interrupt(0)
            for call in (first, second):
                assert await _signalled(call) >= 1
