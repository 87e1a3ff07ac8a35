"""Every fault that can be asked for is one that a driver sees."""

from __future__ import annotations

import select

import pytest
import trio
from simulator_rig import DISK_SECTORS, RINGS, disk_guest, simulated_disk

from accel.simulator import FaultKind, FaultRequest
from accel.simulator.injector import Injector
from protocol.virtio import BlkHeader, BlkRequest
from vhostuser.datapath import AcceleratorNews
from vhostuser.frontend import BlockDriver, RingError

SECONDS = 20
A_MOMENT = 0.2


@pytest.mark.parametrize("ring", RINGS)
async def test_a_stuck_queue_takes_no_more_requests_and_the_other_goes_on(ring):
    async with simulated_disk() as device, disk_guest(device, ring=ring) as guest:
        stuck, free = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        device.injector.inject(FaultRequest(kind=FaultKind.STUCK_QUEUE, queue=0))
        driver = BlockDriver([stuck, free])
        with trio.move_on_after(A_MOMENT) as waiting:
            await driver.read(0, 512, queue=stuck)
        assert waiting.cancelled_caught
        with trio.fail_after(SECONDS):
            assert await driver.read(0, 512, queue=free) == bytes(512)
            state = await guest.accelerator.stop_queue(0)
        assert state is not None, "a stuck queue can be suspended all the same"


@pytest.mark.parametrize("ring", RINGS)
async def test_a_lost_interrupt_leaves_the_request_in_the_ring(ring):
    fault = FaultRequest(kind=FaultKind.LOST_INTERRUPT, count=1)
    async with (
        simulated_disk(queues=1, faults=[fault]) as device,
        disk_guest(device, ring=ring) as guest,
    ):
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        queue.add(*flush_request(guest))
        with trio.fail_after(SECONDS):
            while not device._datapath.statistics()[0].requests:  # noqa: ASYNC110 - a counter of C
                await trio.sleep(0.001)
            # A suspended queue has said all that it had to say.
            state = await guest.accelerator.stop_queue(0)
            assert not select.select([queue.call], [], [], 0)[0]
            assert queue._reap()
            assert not queue._ring.call_enable()
            queue.add(*flush_request(guest))
            await guest.start_queue(queue, state)
            await trio.lowlevel.wait_readable(queue.call.fileno())


def flush_request(guest):
    header = guest.memory.alloc(16)
    guest.memory.write(header.gpa, bytes(BlkHeader(type=BlkRequest.FLUSH, sector=0)))
    return [header], [guest.memory.alloc(1)]


@pytest.mark.parametrize("ring", RINGS)
async def test_a_wrong_used_id_is_no_request_of_the_driver(ring):
    fault = FaultRequest(kind=FaultKind.WRONG_USED_ID, count=1, after=3)
    async with (
        simulated_disk(queues=1, faults=[fault]) as device,
        disk_guest(device, ring=ring) as guest,
    ):
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        good = 0
        with trio.fail_after(SECONDS):
            try:
                while True:
                    await driver.read(good, 512)
                    good += 1
            except RingError as error:
                assert "the device returned" in str(error)  # noqa: PT017 - see `good`
        assert good >= 3


async def test_a_device_needs_a_reset_when_the_signal_comes_and_works_after_it():
    fault = FaultRequest(kind=FaultKind.NEEDS_RESET, on_signal=True)
    async with simulated_disk(queues=1, faults=[fault]) as device, disk_guest(device) as guest:
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        assert await driver.read(0, 512) == bytes(512)
        device.injector.signal()
        with trio.fail_after(SECONDS):
            assert await guest.accelerator.news() is AcceleratorNews.FAILED
            state = await guest.accelerator.stop_queue(0)
            await guest.accelerator.reset()
            await guest.accelerator.set_features(guest.features)
            await guest.start_queue(queue, state)
            await guest.accelerator.start()
            assert await driver.read(DISK_SECTORS - 1, 512) == bytes(512)


async def test_a_device_dies_after_its_requests_and_not_before():
    died: list[int] = []
    async with simulated_disk(queues=1) as device, disk_guest(device) as guest:
        fault = FaultRequest(kind=FaultKind.SUDDEN_DEATH, after=5)
        injector = Injector(device._datapath, [fault], lambda _: None, died.append)
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(injector.run)
                for sector in range(4):
                    await driver.read(sector, 512)
                await trio.sleep(0.01)
                assert died == []
                await driver.read(4, 512)
        assert died == [137]
