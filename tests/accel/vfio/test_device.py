"""A device held by VFIO: its regions, what may be handed on, its end."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from accel.pci import CONFIG_REGION, Area
from protocol.kernel.vfio import Request
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.testing import held

PAGE = mmap.PAGESIZE
NOTIFY = 3 * 4096
BAR4 = 4 << 40
NAME = "vfio:0000:01:00.0"


def test_its_regions_are_those_that_the_kernel_has(open_device):
    device = open_device()
    assert device.name == NAME
    assert device.vectors == 3
    assert {number: region.size for number, region in device.regions.items()} == {
        1: 4096,
        4: 5 * 4096,
        7: 4096,
    }
    assert device.regions[4].areas == (Area(0, 5 * 4096),)
    assert device.regions[4].file_offset == BAR4
    assert device.regions[7].areas == ()


def test_what_is_sparse_is_mapped_where_it_can_be(kernel, open_device):
    kernel.regions[4] = (7, 5 * 4096, [(0, 4096), (NOTIFY, 8192), (4096, 0)])
    device = open_device()
    assert device.regions[4].areas == (Area(0, 4096), Area(NOTIFY, 8192))
    assert device.map_area(4, 0x1000, 4) is None
    assert device.map_area(4, 4092, 8) is None
    with device.map_area(4, NOTIFY, 4096) as area:
        area.store(0, 2, 7)
    assert os.pread(kernel.device, 2, BAR4 + NOTIFY) == b"\x07\x00"


@pytest.mark.parametrize(
    ("size", "left"),
    [(PAGE, ()), (3 * PAGE, (Area(PAGE, 2 * PAGE),))],
)
def test_the_interrupt_table_is_never_mapped(kernel, open_device, size, left):
    kernel.regions[1] = (15, size, None)
    assert open_device().regions[1].areas == left


async def test_a_register_is_read_and_written_at_its_width(kernel, open_device):
    device = open_device()
    kernel.log.clear()
    await device.write(4, NOTIFY + 2, 2, 0x1234)
    await device.write(4, 8, 8, 0x0102030405060708)
    assert os.pread(kernel.device, 4, BAR4 + NOTIFY) == bytes.fromhex("00003412")
    assert await device.read(4, 8, 8) == 0x0102030405060708
    assert await device.read(4, 9, 1) == 0x07
    assert kernel.log == []  # all by the mapping
    await device.write(CONFIG_REGION, 0x3C, 1, 5)
    assert await device.read(CONFIG_REGION, 0x3C, 4) == 5
    assert kernel.log == [("pwrite", 7, 1), ("pread", 7, 4)]


async def test_blocks_go_by_the_kernel(kernel, open_device):
    device = open_device()
    await device.write_block(4, 4096, b"some bytes")
    assert await device.read_block(4, 4097, 9) == b"ome bytes"
    assert (await device.read_block(CONFIG_REGION, 0, 256))[:4] == bytes.fromhex("f41a4210")


@pytest.mark.parametrize(
    ("region", "offset", "width", "words"),
    [
        (4, 5 * 4096 - 2, 4, "no 4 bytes at 0x4ffe"),
        (4, 2**64, 4, "no 4 bytes"),
        (4, -4, 4, "no 4 bytes"),
        (0, 0, 4, "region 0 of the device has no"),
        (4, 2, 4, "4 bytes at 0x2 of region 4 are no register"),
        (4, 0, 3, "3 bytes at 0x0 of region 4 are no register"),
        (CONFIG_REGION, 5, 2, "2 bytes at 0x5 of region 7 are no register"),
    ],
)
async def test_nothing_outside_its_regions_is_touched(open_device, region, offset, width, words):
    device = open_device()
    for attempt in (
        lambda: device.read(region, offset, width),
        lambda: device.write(region, offset, width, 0),
        lambda: device.doorbell_fd(region, offset, width, 0),
    ):
        with pytest.raises(AcceleratorError, match=words) as caught:
            await attempt()
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("offset", [-1, 5 * 4096, 2**64])
async def test_no_block_outside_its_regions_is_touched(open_device, offset):
    device = open_device()
    with pytest.raises(AcceleratorError, match="region 4 of the device has no 2 bytes"):
        await device.read_block(4, offset, 2)
    with pytest.raises(AcceleratorError, match="region 4 of the device has no 2 bytes"):
        await device.write_block(4, offset, b"ab")
    assert device.map_area(4, offset, 2) is None
    assert device.map_area(4, 0, 0) is None


def test_it_answers_and_reaches_memory_once_it_is_open(kernel, open_device):
    open_device()
    assert os.pread(kernel.device, 2, (7 << 40) + 4) == b"\x06\x00"


async def test_a_reset_leaves_it_answering(kernel, open_device):
    device = open_device()
    await device.reset()
    assert Request.DEVICE_RESET in kernel.log
    assert os.pread(kernel.device, 2, (7 << 40) + 4) == b"\x06\x00"


async def test_a_device_without_a_reset_of_its_own_says_so(kernel, open_device):
    kernel.device_flags = 2
    device = open_device()
    with pytest.raises(AcceleratorError, match=r"has no reset of its own.*by its status") as caught:
        await device.reset()
    assert caught.value.errno == errno.EOPNOTSUPP
    assert Request.DEVICE_RESET not in kernel.log


def test_its_file_is_handed_on_only_to_those_who_were_allowed_to_have_it(open_device):
    with pytest.raises(AcceleratorError, match=f"--accel {NAME},share-device-fd=on") as caught:
        open_device().share_area(4, NOTIFY, PAGE)
    assert caught.value.errno == errno.EPERM


def test_a_page_is_handed_on_as_the_devices_file_and_its_place_in_it(kernel, open_device):
    area = open_device(share_fd=True).share_area(4, NOTIFY, PAGE)
    with area.fd:
        assert (area.offset, area.size) == (BAR4 + NOTIFY, PAGE)
        assert os.path.sameopenfile(area.fd.fileno(), kernel.device)
        assert area.fd.fileno() != kernel.device


async def test_nothing_of_a_device_is_mapped_whose_file_others_may_have(kernel, open_device):
    device = open_device(share_fd=True)
    assert device.map_area(4, NOTIFY, PAGE) is None
    kernel.log.clear()
    await device.write(4, 8, 4, 0x12345678)
    assert await device.read(4, 8, 2) == 0x5678
    assert kernel.log == [("pwrite", 4, 4), ("pread", 4, 2)]
    assert not in_maps()


@pytest.mark.parametrize(
    ("region", "offset", "size"),
    [
        (4, NOTIFY + 4, PAGE),
        (4, NOTIFY, 4),
        (4, NOTIFY, 0),
        (4, 4 * 4096, 2 * PAGE),
        (4, 2**64 - PAGE, PAGE),
        (1, 0, PAGE),  # the interrupt table
        (7, 0, PAGE),
        (0, 0, PAGE),
    ],
)
def test_only_whole_pages_that_can_be_mapped_are_handed_on(open_device, region, offset, size):
    device = open_device(share_fd=True)
    with pytest.raises(AcceleratorError, match="are no pages of 4096 bytes that can be mapped"):
        device.share_area(region, offset, size)


def test_its_group_is_given_as_a_duplicate(open_device):
    device = open_device()
    with device.group() as first, device.group() as second:
        assert first.fileno() != second.fileno()


async def test_an_eventfd_stands_for_a_write(kernel, open_device):
    device = open_device()
    with await device.doorbell_fd(4, NOTIFY, 2, 1) as first:
        kept = kernel.writes[BAR4 + NOTIFY, 2, 1]
        os.eventfd_write(first.fileno(), 1)
        assert os.eventfd_read(kept) == 1
        with await device.doorbell_fd(4, NOTIFY, 2, 1) as again:
            os.eventfd_write(again.fileno(), 1)
            assert os.eventfd_read(kept) == 1
    assert kernel.log.count(Request.DEVICE_IOEVENTFD) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC, errno.ENOTTY])
async def test_there_is_no_eventfd_for_a_write_where_the_kernel_has_none(
    kernel, open_device, number
):
    kernel.refuse[Request.DEVICE_IOEVENTFD] = number
    assert await open_device().doorbell_fd(4, NOTIFY, 2, 1) is None


async def test_closing_unmaps_before_it_closes(kernel, open_device, monkeypatch):
    device = open_device()
    area = device.map_area(4, 0, 4096)
    await device.read(4, 0, 4)
    await device.set_vectors({})
    mapped_at_close = {}

    def close(fd, close=os.close):
        mapped_at_close[fd] = in_maps()
        close(fd)

    monkeypatch.setattr("vhostuser.fds.os.close", close)
    assert in_maps()
    device.close()
    assert mapped_at_close[kernel.device] is False
    assert list(mapped_at_close)[-3] == kernel.device  # then the group, then the container
    with pytest.raises(ValueError, match="no 4 bytes at 0x0"):
        area.load(0, 4)
    device.close()


def in_maps():
    return "memfd:device" in Path("/proc/self/maps").read_text()


def test_an_open_that_fails_anywhere_leaves_nothing_behind(kernel, open_device):
    open_device().close()
    steps = list(kernel.log)
    assert len(steps) > 25
    for number, step in enumerate(steps):
        before = held()
        kernel.log.clear()
        kernel.refuse = {step: (errno.ENXIO, steps[:number].count(step))}
        with pytest.raises((OSError, UsageError)):
            open_device()
        assert not held().more_than(before), step
    kernel.refuse = {}
    open_device()


@pytest.mark.parametrize(("flags", "words"), [(1, "does not hold it as a PCI device")])
def test_what_is_no_pci_device_is_refused(kernel, open_device, flags, words):
    kernel.device_flags = flags
    with pytest.raises(UsageError, match=words):
        open_device()


def test_a_device_without_configuration_space_is_refused(kernel, open_device):
    del kernel.regions[7]
    with pytest.raises(AcceleratorError, match="no way to its configuration space"):
        open_device()


def test_an_endless_list_of_capabilities_is_refused(kernel, open_device, monkeypatch):
    monkeypatch.setattr(
        type(kernel), "pread", lambda self, fd, size, offset: b"\x10" * 6 + b"\x10" + b"\x40" * 249
    )
    with pytest.raises(AcceleratorError, match="comes back to 0x40"):
        open_device()


def test_a_device_without_msix_has_no_vectors(kernel, open_device):
    kernel.irqs[2] = (0, 0)
    assert open_device().vectors == 0


@pytest.mark.parametrize("size", [2**31, 0xFFFFFFFF])
def test_an_answer_of_absurd_size_is_not_asked_for_again(kernel, open_device, monkeypatch, size):
    monkeypatch.setattr(
        type(kernel),
        "_device_get_irq_info",
        lambda self, argument: argument.__setitem__(slice(0, 4), size.to_bytes(4, "little")),
    )
    open_device()
    assert kernel.log.count(Request.DEVICE_GET_IRQ_INFO) == 3


def test_an_answer_that_makes_no_sense_is_told(kernel, open_device):
    kernel.regions[4] = (7, 4096, [(0, 8192)])
    with pytest.raises(AcceleratorError, match=r"DEVICE_GET_REGION_INFO: .*not inside a region"):
        open_device()


async def test_a_short_read_or_write_is_an_error(kernel, open_device, monkeypatch):
    device = open_device()
    monkeypatch.setattr(type(kernel), "pread", lambda *_: b"a")
    monkeypatch.setattr(type(kernel), "pwrite", lambda *_: 1)
    with pytest.raises(AcceleratorError, match="region 4 gave 1 of 8 bytes"):
        await device.read_block(4, 0, 8)
    with pytest.raises(AcceleratorError, match="region 4 took 1 of 8 bytes"):
        await device.write_block(4, 0, bytes(8))
