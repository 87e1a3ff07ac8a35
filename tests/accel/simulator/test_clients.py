"""What a client gives to the simulated device, and takes away: memory, vectors, time."""

from __future__ import annotations

import contextlib
import os

import pytest
import trio
import trio.testing
from simulator_rig import RINGS, disk_guest, simulated_disk, write_and_verify

from accel.simulator import device as device_module
from accel.simulator.layout import NOTIFY_BAR, REGISTERS_BAR
from accel.vfio_user import MSIX_IRQ, DmaRange
from protocol.virtio.pci import CommonRegister, DeviceStatus
from vhostuser.datapath import AcceleratorNews
from vhostuser.fds import OwnedFd
from vhostuser.frontend import BlockDriver

SECONDS = 20


@contextlib.contextmanager
def memory_file(size: int, *, read_only: bool = False):
    with OwnedFd(os.memfd_create("memory", os.MFD_CLOEXEC)) as fd:
        os.truncate(fd.fileno(), size)
        if read_only:
            with OwnedFd(os.open(f"/proc/self/fd/{fd.fileno()}", os.O_RDONLY)) as other:
                yield other
        else:
            yield fd


def dma(address: int, size: int = 4096, **changes) -> DmaRange:
    return DmaRange(
        **{"address": address, "size": size, "readable": True, "writable": True, **changes}
    )


async def test_memory_that_rings_cannot_use_is_taken_and_told_of():
    async with simulated_disk() as device:
        with memory_file(4096) as fd, memory_file(4096, read_only=True) as read_only:
            ranges = {
                dma(0x1000): "without a file",
                dma(0x2000, fd=fd, writable=False): "not map for both reading and writing",
                dma(0x3000, fd=read_only): "cannot be mapped for writing",
            }
            for each in ranges:
                await device.map(each)
            for each, words in ranges.items():
                assert words in device._memory.explain(each.address + 5)
            for each in ranges:
                await device.unmap(each)
            assert "not in memory" in device._memory.explain(0x1000)


@pytest.mark.parametrize(
    ("place", "size", "length"), [(0, 8192, 4096), (4096, 4096, 4096), (2048, 4096, 8192)]
)
async def test_memory_beyond_its_file_or_off_its_pages_is_refused(place, size, length):
    async with simulated_disk() as device:
        with memory_file(length) as fd, pytest.raises(OSError, match=r"file|4096|mapped"):
            await device.map(dma(0x10000, size, fd=fd, offset=place))
        assert device._memory._table.snapshot.regions == ()


async def test_memory_comes_and_goes_while_queues_run():
    async with simulated_disk() as device, disk_guest(device) as guest:
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        with memory_file(1 << 20) as fd, trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_and_verify, BlockDriver([queue]), 1)
                for number in range(20):
                    plugged = dma(0x1_0000_0000 + (number << 20), 1 << 20, fd=fd)
                    await device.map(plugged)
                    await device.unmap(plugged)


@pytest.mark.parametrize("ring", RINGS)
async def test_a_ring_whose_memory_is_taken_away_goes_on_when_it_is_back(ring):
    # QEMU's firmware makes it map all memory anew while the disk is in use.
    async with simulated_disk() as device, disk_guest(device, ring=ring) as guest:
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        disk = BlockDriver(queues)
        (mapped,) = device._memory._regions
        for number in range(3):
            await disk.write(number, bytes([number + 1]) * 512)
            await device.unmap(mapped)
            with trio.fail_after(SECONDS):
                async with trio.open_nursery() as nursery:
                    for queue in queues:
                        nursery.start_soon(_expect, disk, queue, number)
                    await trio.testing.wait_all_tasks_blocked()
                    assert all(queue.in_flight == 1 for queue in queues)
                    await device.map(mapped)


async def _expect(disk, queue, number):
    data = await disk.read(number, 512, queue=queue)
    assert data == bytes([number + 1]) * 512


@pytest.mark.parametrize("ring", RINGS)
async def test_memory_is_taken_away_and_given_back_in_mid_traffic(ring):
    async with simulated_disk() as device, disk_guest(device, ring=ring) as guest:
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        (mapped,) = device._memory._regions
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_and_verify, BlockDriver(queues), 1)
                for _ in range(10):
                    await device.unmap(mapped)
                    assert device._rings.started == frozenset()
                    await device.map(mapped)
                    assert device._rings.started == {0, 1}
        assert DeviceStatus.NEEDS_RESET not in device.function.state.status


async def test_a_ring_that_waits_for_its_memory_is_suspended_where_it_stands(monkeypatch):
    async with simulated_disk() as device, disk_guest(device) as guest:
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        await write_and_verify(BlockDriver([queue]), 1)
        (mapped,) = device._memory._regions
        monkeypatch.setattr(device_module, "_MISSED_SECONDS", 1000)
        await device.unmap(mapped)
        state = await guest.accelerator.stop_queue(0)
        assert state is not None
        assert state.avail == queue.state().avail
        await device.map(mapped)
        assert device._rings.started == frozenset()
        await guest.start_queue(queue, state)
        await write_and_verify(BlockDriver([queue]), 2)


async def test_a_ring_whose_memory_stays_away_fails(monkeypatch, caplog):
    monkeypatch.setattr(device_module, "_MISSED_SECONDS", 0)
    async with simulated_disk() as device, disk_guest(device) as guest:
        await guest.open_queue(0)
        await guest.accelerator.start()
        (mapped,) = device._memory._regions
        await device.unmap(mapped)
        with trio.fail_after(SECONDS):
            assert await guest.accelerator.news() is AcceleratorNews.FAILED
        assert "its ring was taken away" in caplog.text
        await device.map(mapped)  # as the guest's driver believes it to be
        assert device._rings.started == frozenset()


async def test_a_ring_whose_memory_is_taken_away_can_be_reset():
    async with simulated_disk() as device, disk_guest(device) as guest:
        await guest.open_queue(0)
        await guest.accelerator.start()
        (mapped,) = device._memory._regions
        await device.unmap(mapped)
        await guest.accelerator.reset()
        await device.map(mapped)
        assert not device._rings.started
        assert not any(queue.waits or queue.running for queue in device.function.state.queues)


async def test_a_vector_signals_eventfds_only():
    async with simulated_disk() as device:
        inside, outside = os.pipe()
        with (
            OwnedFd(inside),
            OwnedFd(outside) as pipe,
            pytest.raises(OSError, match="an eventfd, not a pipe"),
        ):
            await device.set_irqs(MSIX_IRQ, 0, [None, pipe])
        await device.set_irqs(MSIX_IRQ, 0, [None])
        await device.set_irqs(3, 0, [None])


async def test_a_client_that_fills_its_eventfd_keeps_nobody_waiting_but_itself():
    async with simulated_disk() as device, disk_guest(device) as guest:
        await guest.accelerator.start()
        with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)) as full:
            os.eventfd_write(full.fileno(), (1 << 64) - 2)
            await device.set_irqs(MSIX_IRQ, device.function.state.config_vector, [full])
            for _ in range(3):
                device._need_reset("as often as it likes")
            with trio.fail_after(SECONDS):
                status = await device.read(
                    REGISTERS_BAR, CommonRegister.DEVICE_STATUS.value.offset, 1
                )
                assert DeviceStatus.NEEDS_RESET in DeviceStatus(status[0])
                while device._vectors._signalling.borrowed_tokens:  # noqa: ASYNC110 - a thread's
                    await trio.sleep(0.001)
            await device.set_irqs(MSIX_IRQ, device.function.state.config_vector, [None])


@pytest.mark.parametrize("width", [2, 4])
async def test_a_doorbell_takes_a_store_of_16_or_32_bits(width):
    async with simulated_disk() as device, disk_guest(device) as guest:
        queue = await guest.open_queue(1)
        await guest.accelerator.start()
        pages = guest.accelerator._parts.device.map_area(NOTIFY_BAR, 0, 8192)
        assert pages is not None
        with pages:
            queue.ring = lambda: pages.store(4096, width, 1)
            await write_and_verify(BlockDriver([queue]), 2)
            queue.ring = lambda: None


async def test_the_doorbell_pages_cannot_be_truncated():
    async with simulated_disk() as device:
        fd = device.regions[NOTIFY_BAR].fd
        assert fd is not None
        with pytest.raises(PermissionError):
            os.truncate(fd.fileno(), 0)
