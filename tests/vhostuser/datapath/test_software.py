"""The software data path with real engine threads and a driver in the same process."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from protocol.vhost_user import Uva
from protocol.virtio import BlkFeatures, VirtioFeatures
from vhostuser.datapath import RingActual, RingFd, RingStart, StopMode
from vhostuser.devices import BlkDevice, BlkOptions, default_sector, default_store
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.frontend import BlockDriver, DriverQueue, GuestMemory
from vhostuser.memory import MemoryTable
from vhostuser.testing import held
from vhostuser.virtqueue import Fault, RingState

SPLIT = VirtioFeatures.VERSION_1 | VirtioFeatures(BlkFeatures.FLUSH)
PACKED = SPLIT | VirtioFeatures.RING_PACKED


@dataclass
class Events:
    broken: list = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    def ring_broken(self, index, fault, value):
        self.broken.append((index, fault, value))
        self.news.set()

    def config_changed(self):
        raise AssertionError("nothing changes it")


@dataclass
class Rig:
    """A device, its guest's memory, and the table that maps it."""

    device: BlkDevice
    guest: GuestMemory
    table: MemoryTable
    events: Events

    @property
    def datapath(self):
        return self.device.datapath

    async def share(self):
        (region,) = self.guest.regions
        change = self.table.prepare_replace([(region.description, region.fd)])
        await self.datapath.commit_memory(change.snapshot)
        change.commit()
        change.release()

    def queue(self, features=SPLIT, num=16):
        return DriverQueue(self.guest, 0, num=num, features=features)

    def start(self, queue, *, state=None, features=SPLIT, **places):
        areas = queue.areas
        packed = VirtioFeatures.RING_PACKED in features
        return RingStart(
            features=features,
            num=queue.num,
            desc=places.get("desc", self.guest.uva(areas.desc.gpa)),
            driver=places.get("driver", self.guest.uva(areas.driver.gpa)),
            device=places.get("device", self.guest.uva(areas.device.gpa)),
            state=state or RingState(avail=0, used=0, avail_wrap=packed, used_wrap=packed),
        )

    async def run(self, queue, **options):
        await self.datapath.set_fd(0, RingFd.CALL, queue.call.duplicate())
        await self.datapath.set_fd(0, RingFd.ERR, queue.err.duplicate())
        await self.datapath.set_enabled(0, enabled=True)
        await self.datapath.start_queue(0, self.start(queue, **options), queue.kick.duplicate())


@pytest.fixture
async def rig():
    before = held()
    with GuestMemory() as guest, trio.fail_after(30):
        async with BlkDevice.open(default_store(), BlkOptions()) as device:
            table = MemoryTable()
            events = Events()
            device.datapath.report_to(events)
            yield Rig(device, guest, table, events)
            await device.datapath.leave()
            table.close()
    assert held().more_than(before) == ""


@pytest.mark.parametrize("features", [SPLIT, PACKED])
async def test_a_ring_goes_on_where_it_was_stopped(rig, features):
    await rig.share()
    with contextlib.closing(rig.queue(features)) as queue:
        state = None
        for number in range(40):  # more than twice around
            await rig.run(queue, features=features, state=state)
            assert await BlockDriver([queue]).read(number, 512) == default_sector(number)
            state = await rig.datapath.stop_queue(0, StopMode.DRAIN)
        assert rig.datapath.statistics()[0].requests == 40
        assert rig.datapath.statistics()[0].actual is RingActual.STOPPED


async def test_a_ring_that_is_not_enabled_is_left_alone_and_looked_at_once_it_is(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        await rig.run(queue)
        await rig.datapath.set_enabled(0, enabled=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(BlockDriver([queue]).read, 0, 512)
            await trio.testing.wait_all_tasks_blocked()
            await rig.datapath.set_enabled(0, enabled=False)  # a round trip to the engine
            assert rig.datapath.statistics()[0].requests == 0
            await rig.datapath.set_enabled(0, enabled=True)
        assert rig.datapath.statistics()[0].requests == 1


async def test_a_request_from_before_the_start_needs_no_kick(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(BlockDriver([queue]).read, 0, 512)
            await trio.testing.wait_all_tasks_blocked()
            os.eventfd_read(queue.kick.fileno())  # the kick is lost
            await rig.run(queue)


@pytest.mark.parametrize("area", ["desc", "driver", "device"])
async def test_a_ring_outside_guest_memory_does_not_start(rig, area):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue, OwnedFd(os.eventfd(0)) as kick:
        start = rig.start(queue, **{area: Uva(0x10)})
        with pytest.raises(RequestError, match="inside one region") as caught:
            await rig.datapath.start_queue(0, start, kick)
        assert (caught.value.field, caught.value.value) == (area, "0x10")
        assert not kick.closed
    assert rig.events.broken == []


async def test_a_ring_without_any_guest_memory_says_that_it_must_be_shared(rig):
    with (
        contextlib.closing(rig.queue()) as queue,
        OwnedFd(os.eventfd(0)) as kick,
        pytest.raises(RequestError, match="which is empty: share the guest's memory"),
    ):
        await rig.datapath.start_queue(0, rig.start(queue), kick)


async def test_an_impossible_position_does_not_start_and_is_the_callers_news_alone(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        state = RingState(avail=17, used=0, avail_wrap=False, used_wrap=False)
        with pytest.raises(RequestError, match="a ring of 16 descriptors"):
            await rig.run(queue, state=state)
        await rig.run(queue)
        assert await BlockDriver([queue]).read(0, 512) == default_sector(0)
    assert rig.events.broken == []


async def test_a_ring_that_breaks_a_rule_is_reported_once_and_signals_err(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        await rig.run(queue)
        rig.guest.write(queue.areas.driver.gpa + 2, (17).to_bytes(2, "little"))
        os.eventfd_write(queue.kick.fileno(), 1)
        await rig.events.news.wait()
        assert rig.events.broken == [(0, Fault.AVAIL_JUMP, 17)]
        assert os.eventfd_read(queue.err.fileno()) == 1
        assert rig.datapath.statistics()[0].fault is Fault.AVAIL_JUMP


async def test_a_ring_broken_from_the_start_is_reported_too(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        rig.guest.write(queue.areas.driver.gpa + 2, (17).to_bytes(2, "little"))
        await rig.run(queue)
        await rig.events.news.wait()
    assert [fault for _, fault, _ in rig.events.broken] == [Fault.AVAIL_JUMP]


async def test_memory_may_change_under_a_running_ring(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        await rig.run(queue)
        disk = BlockDriver([queue])
        for number in range(20):
            await rig.share()  # the same memory, mapped somewhere else
            assert await disk.read(number, 512) == default_sector(number)
    assert rig.table.snapshot.number == 21


async def test_a_ring_whose_memory_goes_away_breaks_alone(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        await rig.run(queue)
        change = rig.table.prepare_replace([])
        await rig.datapath.commit_memory(change.snapshot)
        change.commit()
        change.release()
        await rig.events.news.wait()
        assert rig.events.broken[0][:2] == (0, Fault.RING_ADDRESS)


async def test_a_snapshot_is_pinned_while_a_ring_uses_it(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        assert rig.table.snapshot.pins == 0
        await rig.run(queue)
        assert rig.table.snapshot.pins > 0
        await rig.datapath.stop_queue(0, StopMode.DRAIN)
        assert rig.table.snapshot.pins == 0


async def test_leaving_abandons_rings_and_closes_their_fds(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        before = held()
        await rig.run(queue)
        await rig.datapath.leave()
        assert held().more_than(before) == ""
    assert rig.table.snapshot.pins == 0


async def test_waiting_for_the_engine_ends_also_while_everything_is_cancelled(rig):
    await rig.share()
    with contextlib.closing(rig.queue()) as queue:
        await rig.run(queue)
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.datapath.leave()
    assert rig.datapath.statistics()[0].actual is RingActual.STOPPED
