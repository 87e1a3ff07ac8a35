"""Rings of real front-ends on accelerators of this process: the whole way, without hardware."""

from __future__ import annotations

import os

import pytest
import trio
from accelerators import entropy
from passed_rig import WANTED, random_bytes, served, started, until_broken

from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2, AddMemReg
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorNews
from vhostuser.errors import leaves
from vhostuser.frontend import (
    RegionLayout,
    RequestRefusedError,
    RingError,
)
from vhostuser.session import AreaState
from vhostuser.testing import held


@pytest.mark.parametrize("layout", [VirtioFeatures(0), VirtioFeatures.RING_PACKED])
async def test_requests_reach_the_accelerator_and_interrupts_the_driver(tmp_path, layout):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path, features=WANTED | layout) as it:
            seen = {await random_bytes(it) for _ in range(100)}
    assert len(seen) == 100
    assert accelerator.diary[:3] == ["map 0x0", "map 0x100000000", "features"]
    assert accelerator.diary[-3:] == ["reset", "unmap 0x0", "unmap 0x100000000"]
    assert accelerator.diary.count("start") == 1


async def test_the_next_front_end_finds_a_device_that_was_reset(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator) as server:
            for _ in range(3):
                async with started(tmp_path) as client:
                    await random_bytes(client)
                while server.connection is not None:
                    await trio.lowlevel.checkpoint()
                assert accelerator.diary[-3:] == ["reset", "unmap 0x0", "unmap 0x100000000"]
                assert accelerator.regions == {}


async def test_a_ring_that_starts_anew_is_passed_through_again(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            for _ in range(3):
                await random_bytes(client)
                await client.stop()
                client.setup_queue(0, num=64)
                await client.start()
            await random_bytes(client)
    assert accelerator.diary.count("start_queue 0 at the beginning") == 4


async def test_a_plain_device_goes_nowhere_but_to_the_beginning(tmp_path, caplog):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            await random_bytes(client)
            await client.stop()
            assert client.bases[0] == 1, "the used index tells where a split ring stands"
            with pytest.raises(RequestRefusedError):
                await client.start()
    assert "only start at the beginning" in caplog.text


async def test_a_packed_rings_unknown_position_is_not_started_from(tmp_path, caplog):
    with entropy() as accelerator:
        packed = WANTED | VirtioFeatures.RING_PACKED
        async with served(tmp_path, accelerator), started(tmp_path, features=packed) as client:
            await random_bytes(client)
            await client.stop()
            with pytest.raises(RequestRefusedError):
                await client.start()
    assert "only start at the beginning" in caplog.text


@pytest.mark.parametrize("dialect", [CURRENT, RFC_V1, RFC_V2])
async def test_a_notify_area_is_handed_over(tmp_path, dialect):
    with entropy(area=True) as accelerator:
        async with (
            served(tmp_path, accelerator, dialect=dialect) as server,
            started(tmp_path, dialect=dialect) as client,
        ):
            os.pwrite(accelerator.area.fileno(), b"\xff" * 4, 0)
            await client.areas.wait_mapped(0)
            queue = client.queues[0]
            before = queue.kicks.page
            queue.notify()
            assert queue.kicks.page == before + 1
            assert os.pread(accelerator.area.fileno(), 4, 0) == b"\0\0\xff\xff"
            while server.connection.areas.states[0] is not AreaState.HANDED_OVER:
                await trio.lowlevel.checkpoint()


async def test_without_an_area_kicks_are_relayed_and_counted(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator) as server, started(tmp_path) as client:
            for _ in range(20):
                await random_bytes(client)
            (statistics,) = server.device.datapath.statistics()
            assert client.areas.shown() == ()
            assert 0 < statistics.kicks <= client.queues[0].kicks.eventfd + 1
            while server.connection.areas.states[0] is not AreaState.REFUSED:
                await trio.lowlevel.checkpoint()


async def test_nothing_is_handed_over_where_that_is_not_wanted(tmp_path):
    with entropy(area=True) as accelerator:
        async with served(tmp_path, accelerator, hand_over=False), started(tmp_path) as client:
            await random_bytes(client)
            assert client.areas.shown() == ()


async def test_a_device_that_dies_breaks_its_rings_and_takes_its_areas_back(tmp_path, caplog):
    with entropy(area=True) as accelerator:
        async with served(tmp_path, accelerator) as server, started(tmp_path) as client:
            await client.areas.wait_mapped(0)
            accelerator.say(AcceleratorNews.FAILED)
            with pytest.raises(RingError, match="broken"):
                await until_broken(client)
            while client.areas.shown():
                await trio.lowlevel.checkpoint()
            assert server.connection.session.state.needs_reset
        assert "nobody knows which" in caplog.text or "no software" in caplog.text


async def test_a_device_that_a_reset_mends_serves_the_next_front_end(tmp_path, caplog):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator):
            async with started(tmp_path) as client:
                accelerator.say(AcceleratorNews.FAILED)
                with pytest.raises(RingError, match="broken"):
                    await until_broken(client)
            async with started(tmp_path) as client:
                await random_bytes(client)
    assert "works again" in caplog.text


async def test_a_device_that_no_reset_mends_ends_when_its_front_end_has_left(tmp_path):
    async def burn(accelerator):
        async with served(tmp_path, accelerator):
            async with started(tmp_path) as client:
                accelerator.burnt = True
                accelerator.say(AcceleratorNews.FAILED)
                with pytest.raises(RingError, match="broken"):
                    await until_broken(client)
                assert await client.get_config(0, 4) == bytes(4), "its front-end is not left"
            await trio.sleep_forever()

    with entropy() as accelerator, pytest.raises(ExceptionGroup) as caught:
        await burn(accelerator)
    (error,) = leaves(caught.value)
    assert "entropy is gone: start it, and then this again" in str(error)


async def test_after_its_failure_a_device_gets_the_memory_that_came_meanwhile(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            accelerator.say(AcceleratorNews.FAILED)
            with pytest.raises(RingError, match="broken"):
                await until_broken(client)
            region = client.memory.add_region(RegionLayout(gpa=2 << 32, size=1 << 20))
            await client.add_region(region)
            assert 2 << 32 not in accelerator.regions
            await client.stop()
            assert 2 << 32 in accelerator.regions
            client.setup_queue(0, num=64)
            await client.start()
            await random_bytes(client)


async def test_memory_comes_and_goes_while_the_ring_runs(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            region = client.memory.add_region(RegionLayout(gpa=2 << 32, size=1 << 20))
            await client.add_region(region)
            await random_bytes(client)
            assert sorted(accelerator.regions) == [0, 1 << 32, 2 << 32]
            await client.remove_region(region)
            assert sorted(accelerator.regions) == [0, 1 << 32]
            await random_bytes(client)


async def test_memory_that_the_device_cannot_reach_is_refused_and_the_ring_runs_on(
    tmp_path, caplog
):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            region = client.memory.add_region(RegionLayout(gpa=2 << 32, size=1 << 20))
            accelerator.refuse["map"] = "the device addresses 33 bits"
            with pytest.raises(RequestRefusedError):
                await client.add_region(region)
            assert "the device addresses 33 bits" in caplog.text
            await random_bytes(client)
            await client.request(AddMemReg(region=region.description), [region.fd])


async def test_features_that_the_device_refuses_leave_it_reset(tmp_path, caplog):
    with entropy() as accelerator:
        accelerator.refuse["features"] = "not these"
        async with served(tmp_path, accelerator):
            with pytest.raises(RequestRefusedError):
                async with started(tmp_path):
                    pass
            async with started(tmp_path) as client:
                await random_bytes(client)
    assert "not these" in caplog.text


async def test_nothing_is_held_after_all_that(tmp_path):
    before = held()
    with entropy(area=True) as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            await client.areas.wait_mapped(0)
    assert not held().more_than(before)


async def start_late(client, index):
    """Start one more ring while another runs."""
    client.setup_queue(index, num=64)
    await client._play(client.order.start, [index])


@pytest.mark.parametrize("layout", [VirtioFeatures(0), VirtioFeatures.RING_PACKED])
async def test_a_device_gets_a_late_ring_as_long_as_nothing_was_served(tmp_path, layout):
    with entropy(queues=2) as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path, features=WANTED | layout) as it:
            await start_late(it, 1)
            buffer = it.memory.alloc(64)
            assert await it.queues[1].transfer([], [buffer]) == 64
    starts = [what for what in accelerator.diary if what.startswith(("start", "reset"))]
    assert starts[:6] == [
        "start_queue 0 at the beginning",
        "start",
        "reset",
        "start_queue 0 at the beginning",
        "start_queue 1 at the beginning",
        "start",
    ]


@pytest.mark.parametrize("layout", [VirtioFeatures(0), VirtioFeatures.RING_PACKED])
async def test_a_late_ring_is_refused_once_the_device_has_served(tmp_path, layout, caplog):
    with entropy(queues=2) as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path, features=WANTED | layout) as it:
            await random_bytes(it)
            with pytest.raises(RequestRefusedError):
                await start_late(it, 1)
            await random_bytes(it)
    assert "start all of them first" in caplog.text


async def test_a_device_that_fails_while_it_gets_a_late_ring_breaks_the_others(tmp_path):
    with entropy(queues=2) as accelerator:
        async with served(tmp_path, accelerator), started(tmp_path) as client:
            accelerator.refuse["reset"] = "no more"
            with pytest.raises(RequestRefusedError):
                await start_late(client, 1)
            with pytest.raises(RingError, match="broken"):
                await until_broken(client)
