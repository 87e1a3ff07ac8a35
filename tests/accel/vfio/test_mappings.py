"""Guest memory for a device: where it can lie, and what the host's refusals mean."""

from __future__ import annotations

import contextlib
import errno
import resource

import pytest
import trio

from protocol.kernel.vfio import Request
from protocol.vhost_user import Gpa, MemRegion, Uva
from vhostuser.errors import AcceleratorError
from vhostuser.memory import MappedRegion

PAGE = 4096
MIB = 1 << 20


def memory(gpa, size, *, hva=0x7F0000000000):
    region = MemRegion(gpa=Gpa(gpa), size=size, uva=Uva(hva), offset=0)
    return MappedRegion(region, hva, None)


async def test_memory_is_mapped_at_its_guest_address_and_unmapped_as_it_was(kernel, open_device):
    device = open_device()
    low, high = memory(0, 0xA0000), memory(1 << 32, 64 * MIB)
    await device.map_memory(low)
    await device.map_memory(high)
    assert kernel.mapped == {
        0: (0x7F0000000000, 0xA0000),
        1 << 32: (0x7F0000000000, 64 * MIB),
    }
    await device.unmap_memory(low)
    assert list(kernel.mapped) == [1 << 32]
    await device.map_memory(memory(0x10000000, 2 * MIB))  # plugged in while it runs
    assert set(kernel.mapped) == {1 << 32, 0x10000000}


async def test_a_device_that_is_closed_reaches_no_memory(kernel, open_device):
    device = open_device()
    for number in range(3):
        await device.map_memory(memory(number * MIB, MIB))
    kernel.refuse[Request.IOMMU_UNMAP_DMA] = (errno.EINVAL, 2)
    device.close()
    assert len(kernel.mapped) == 1  # what the kernel refuses goes with the container
    assert kernel.log.count(Request.IOMMU_UNMAP_DMA) == 3


async def test_unmapping_what_is_not_mapped_so_is_told(kernel, open_device):
    device = open_device()
    await device.map_memory(memory(0, 4 * MIB))
    with pytest.raises(
        AcceleratorError, match="0x0 to 0x1fffff cannot be taken away from the device: Invalid"
    ):
        await device.unmap_memory(memory(0, 2 * MIB))
    with pytest.raises(AcceleratorError, match=r"of 0x200000 bytes .* the kernel took 0x0"):
        await device.unmap_memory(memory(1 << 32, 2 * MIB))
    assert list(kernel.mapped) == [0]


async def test_unmapping_is_not_cancelled(kernel, open_device):
    device = open_device()
    region = memory(0, MIB)
    await device.map_memory(region)
    with trio.CancelScope() as scope:
        scope.cancel()
        await device.unmap_memory(region)
    assert kernel.mapped == {}


async def test_mapping_that_is_cancelled_before_it_began_changes_nothing(kernel, open_device):
    device = open_device()
    with trio.CancelScope() as scope:
        scope.cancel()
        await device.map_memory(memory(0, MIB))
    assert scope.cancelled_caught
    assert kernel.mapped == {}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0x800, PAGE, 0), "not made of whole pages of 4 KiB"),
        ((0, 0x800, 0), "not made of whole pages of 4 KiB"),
        ((0, PAGE, 0x800), "not made of whole pages of 4 KiB"),
        ((0xFEE00000, PAGE, 0), r"\(0xfee00000 to 0xfee00fff; interrupts go there"),
        ((0xFEDFF000, 4 * PAGE, 0), r"\(0xfee00000 to 0xfee02fff;"),
        ((0, 1 << 32, 0), r"0x0 to 0xffffffff covers .* \(0xfee00000 to 0xfeefffff;"),
        ((1 << 48, PAGE, 0), "lies above 0xffffffffffff, the last address"),
        (((1 << 48) - PAGE, 2 * PAGE, 0), "lies above 0xffffffffffff"),
        ((2**64 - PAGE, PAGE, 0), "lies above 0xffffffffffff"),
    ],
)
async def test_what_the_iommu_cannot_map_is_said_in_words(kernel, open_device, place, words):
    device = open_device()
    gpa, size, hva = place
    with pytest.raises(AcceleratorError, match=words):
        await device.map_memory(memory(gpa, size, hva=hva))
    assert Request.IOMMU_MAP_DMA not in kernel.log


async def test_holes_are_told_in_order(kernel, open_device):
    kernel.ranges = [(0x8000, 0xFFFFF), (0x1000, 0x1FFF), (0x4000, 0x4FFF)]
    device = open_device()
    with pytest.raises(
        AcceleratorError, match="0x0 to 0xfff, 0x2000 to 0x3fff, 0x5000 to 0x7fff; interrupts"
    ):
        await device.map_memory(memory(0, 0x100000))


async def test_the_pages_of_the_iommu_count(kernel, open_device):
    kernel.page_sizes = 1 << 16 | 1 << 29
    device = open_device()
    with pytest.raises(AcceleratorError, match="whole pages of 64 KiB"):
        await device.map_memory(memory(0, 0x18000))
    await device.map_memory(memory(0, 0x20000))


async def test_a_kernel_that_tells_nothing_is_asked_to_map(kernel, open_device, monkeypatch):
    monkeypatch.setattr(type(kernel), "_iommu_get_info", lambda *_: None)
    device = open_device()
    assert device.iommu.iova_ranges is None
    await device.map_memory(memory(0, 1 << 40))
    assert kernel.mapped[0][1] == 1 << 40


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "one mapping more than the host allows.*dma_entry_limit"),
        (errno.EEXIST, "overlaps with memory that the device already reaches"),
        (errno.EFAULT, "no memory behind all of it"),
        (errno.EIO, "cannot be mapped for the device: Input/output error"),
    ],
)
async def test_a_refusal_of_the_host_is_said_in_words(kernel, open_device, number, words):
    device = open_device()
    kernel.refuse[Request.IOMMU_MAP_DMA] = number
    with pytest.raises(AcceleratorError, match=words) as caught:
        await device.map_memory(memory(0, MIB))
    assert caught.value.errno == number
    assert "guest memory 0x0 to 0xfffff" in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((8 * MIB, 1000), "needs all 3072 KiB .* may lock 8192 KiB; raise the limit .*ulimit -l"),
        ((resource.RLIM_INFINITY, 1000), "the host has not 3072 KiB free for it"),
        ((8 * MIB, 0), "the host has not 3072 KiB free for it"),
    ],
)
async def test_a_lack_of_lockable_memory_is_said_in_words(
    kernel, open_device, monkeypatch, limits, words
):
    limit, uid = limits
    monkeypatch.setattr("accel.vfio.mappings.resource.getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr("accel.vfio.mappings.os.geteuid", lambda: uid)
    device = open_device()
    await device.map_memory(memory(0, MIB))
    kernel.refuse[Request.IOMMU_MAP_DMA] = errno.ENOMEM
    with pytest.raises(AcceleratorError, match=words):
        await device.map_memory(memory(16 * MIB, 2 * MIB))
    with contextlib.suppress(OSError):
        await device.unmap_memory(memory(16 * MIB, 2 * MIB))
    assert list(kernel.mapped) == [0]


async def test_a_device_that_is_gone_still_gives_its_memory_back(kernel, open_device):
    device = open_device()
    await device.map_memory(memory(0, MIB))
    kernel.refuse[Request.DEVICE_RESET] = errno.ENODEV
    with pytest.raises(AcceleratorError):
        await device.reset()
    await device.unmap_memory(memory(0, MIB))
    assert kernel.mapped == {}
