"""A served device as the PCI device that a driver sees: our client against our server."""

from __future__ import annotations

import errno
import mmap
import os

import pytest
import trio
from vfio_user_rig import BAR, BAR_SIZE, CONFIG, NOTIFY_PAGE, PAGE, RefusingDevice, client_of, memfd

from accel.pci import Area
from accel.vfio_user import EmulatedRegion, open_over
from protocol.vhost_user import MemRegion
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd
from vhostuser.memory import MemoryTable

GPA = 0x4000_0000


def eventfd() -> OwnedFd:
    return OwnedFd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))


def rung(fd: OwnedFd) -> int:
    try:
        return os.eventfd_read(fd.fileno())
    except BlockingIOError:
        return 0


async def test_regions_and_vectors_are_those_that_the_device_has(pci):
    assert set(pci.regions) == {BAR, CONFIG}
    assert pci.regions[BAR].size == BAR_SIZE
    assert pci.regions[BAR].areas == (Area(NOTIFY_PAGE, PAGE),)
    assert pci.regions[BAR].writable
    assert pci.regions[CONFIG].areas == ()
    assert not pci.regions[CONFIG].writable
    assert pci.vectors == 4
    assert pci.group() is None


@pytest.mark.parametrize("width", [1, 2, 4, 8])
async def test_an_access_has_exactly_the_width_that_was_asked_for(device, pci, width):
    value = 0x1122_3344_5566_7788 & ((1 << 8 * width) - 1)
    await pci.write(BAR, 16, width, value)
    assert await pci.read(BAR, 16, width) == value
    assert device.calls[-2:] == [
        ("write", BAR, 16, value.to_bytes(width, "little")),
        ("read", BAR, 16, width),
    ]


async def test_blocks_move_whole(device, pci):
    assert await pci.read_block(CONFIG, 0, 256) == bytes(range(256))
    await pci.write_block(BAR, 3, b"block")
    assert device.registers[BAR][3:8] == b"block"


async def test_more_than_fits_into_a_message_goes_in_several_with_a_remainder(device):
    data = os.urandom(2 * (1 << 20) + 77)
    device.registers[BAR] = bytearray(len(data))
    device.regions[BAR] = EmulatedRegion(size=len(data))
    async with client_of(device) as client, open_over(client) as pci:
        await pci.write_block(BAR, 0, data)
        assert bytes(device.registers[BAR]) == data
        assert await pci.read_block(BAR, 0, len(data)) == data
    counts = [call[3] for call in device.calls if call[0] == "read"]
    assert counts == [1 << 20, 1 << 20, 77]


async def test_what_the_device_refuses_is_said_with_its_errno():
    device = RefusingDevice()
    try:
        async with client_of(device) as client, open_over(client) as pci:
            for attempt in (
                pci.read(BAR, 0, 4),
                pci.write(BAR, 0, 4, 1),
            ):
                with pytest.raises(AcceleratorError, match=r"refused Region.*busy") as caught:
                    await attempt
                assert caught.value.errno == errno.EBUSY
            with eventfd() as fd, pytest.raises(AcceleratorError, match="refused DeviceSetIrqs"):
                await pci.set_vectors({0: fd})
            with pytest.raises(AcceleratorError, match="refused DeviceReset"):
                await pci.reset()
    finally:
        device.close()


@pytest.mark.parametrize(
    ("region", "offset", "width"),
    [(BAR, BAR_SIZE, 1), (BAR, BAR_SIZE - 2, 4), (BAR, (1 << 64) - 4, 4), (3, 0, 1), (99, 0, 1)],
)
async def test_an_access_outside_a_region_is_refused_before_the_device_hears_of_it(
    device, pci, region, offset, width
):
    asked = len(device.calls)
    for attempt in (pci.read(region, offset, width), pci.write(region, offset, width, 0)):
        with pytest.raises(AcceleratorError) as caught:
            await attempt
        assert caught.value.errno == errno.EINVAL
    assert len(device.calls) == asked
    assert await pci.read(BAR, 0, 1) == 0


async def test_a_region_that_cannot_be_written_is_not(device, pci):
    with pytest.raises(AcceleratorError, match="Invalid argument"):
        await pci.write(CONFIG, 4, 2, 6)
    assert device.registers[CONFIG][4] == 4


async def test_the_function_may_use_memory_from_the_start_and_after_a_reset(device):
    device.regions[CONFIG] = EmulatedRegion(size=256)
    async with client_of(device) as client, open_over(client) as pci:
        assert device.registers[CONFIG][4] & 6 == 6
        device.registers[CONFIG][4] = 1
        await pci.reset()
        assert device.registers[CONFIG][4] == 7


# What the server shares


async def test_a_store_to_a_mapped_page_is_in_the_devices_file(device, pci):
    area = pci.map_area(BAR, NOTIFY_PAGE + 8, 8)
    assert area is not None
    with area, mmap.mmap(device.file.fileno(), BAR_SIZE) as seen:
        area.store(4, 2, 0xBEEF)
        assert seen[NOTIFY_PAGE + 12 : NOTIFY_PAGE + 14] == b"\xef\xbe"
        seen[NOTIFY_PAGE + 8] = 7
        assert area.load(0, 1) == 7
        with pytest.raises(ValueError, match="no 4 bytes"):
            area.store(6, 4, 0)
        address = area.address(0, 2)
        assert address % PAGE == 8
    with pytest.raises(ValueError, match="no 2 bytes"):
        area.store(0, 2, 0)


@pytest.mark.parametrize(
    ("region", "offset", "size"),
    [
        (BAR, 0, 4),
        (BAR, NOTIFY_PAGE - 4, 8),
        (BAR, NOTIFY_PAGE, PAGE + 1),
        (CONFIG, 0, 4),
        (5, 0, 1),
    ],
)
async def test_only_what_may_be_mapped_is_mapped_or_shared(pci, region, offset, size):
    assert pci.map_area(region, offset, size) is None
    with pytest.raises(AcceleratorError, match="only be reached by messages"):
        pci.share_area(region, offset, size)


async def test_a_region_without_areas_can_be_mapped_whole(device):
    device.regions[BAR] = EmulatedRegion(size=BAR_SIZE, fd=device.file)
    async with client_of(device) as client, open_over(client) as pci:
        assert pci.regions[BAR].areas == (Area(0, BAR_SIZE),)


async def test_a_region_may_begin_inside_its_file(device):
    device.regions[BAR] = EmulatedRegion(
        size=PAGE, fd=device.file, file_offset=2 * PAGE, areas=(Area(0, PAGE),)
    )
    async with client_of(device) as client, open_over(client) as pci:
        with pci.share_area(BAR, 0, PAGE).fd as fd, mmap.mmap(fd.fileno(), BAR_SIZE) as seen:
            area = pci.map_area(BAR, 0, PAGE)
            with area:
                area.store(0, 1, 0x55)
                assert seen[2 * PAGE] == 0x55


async def test_a_shared_page_can_be_mapped_by_whoever_gets_it_and_does_not_shrink(device, pci):
    shared = pci.share_area(BAR, NOTIFY_PAGE, PAGE)
    with shared.fd as fd:
        assert (shared.offset, shared.size) == (NOTIFY_PAGE, PAGE)
        with mmap.mmap(fd.fileno(), shared.size, offset=shared.offset) as page:
            page[0] = 0x77
        assert os.pread(device.file.fileno(), 1, NOTIFY_PAGE) == b"\x77"
        with pytest.raises(PermissionError):
            os.truncate(device.file.fileno(), PAGE)


async def test_a_file_that_is_cut_short_does_not_end_this_process(device, pci):
    area = pci.map_area(BAR, NOTIFY_PAGE, PAGE)
    with area:
        os.truncate(device.file.fileno(), 0)
        area.store(0, 4, 1)
        assert area.load(0, 4) == 1
    with pytest.raises(AcceleratorError, match="ends before that"):
        pci.share_area(BAR, NOTIFY_PAGE, PAGE)
    assert pci.map_area(BAR, NOTIFY_PAGE, PAGE) is None


async def test_eventfds_ring_the_doorbell_that_a_write_would(device, pci):
    for offset, width, value, expected in (
        (NOTIFY_PAGE, 2, 0, 0),
        (NOTIFY_PAGE, 2, 1, 1),
        (NOTIFY_PAGE + 4, 4, 9, 1),
    ):
        fd = await pci.doorbell_fd(BAR, offset, width, value)
        with fd:
            os.eventfd_write(fd.fileno(), 1)
        assert [rung(each) for each in device.doorbells] == [int(expected == 0), int(expected == 1)]


@pytest.mark.parametrize(
    ("region", "offset", "width", "value"),
    [
        (BAR, NOTIFY_PAGE, 2, 7),
        (BAR, NOTIFY_PAGE, 4, 0),
        (BAR, 0, 2, 0),
        (CONFIG, 0, 2, 0),
        (3, 0, 2, 0),
    ],
)
async def test_there_is_no_eventfd_for_other_writes(pci, region, offset, width, value):
    assert await pci.doorbell_fd(region, offset, width, value) is None


async def test_eventfds_are_asked_for_once_also_by_many_at_the_same_time(pci):
    found = []

    async def ask(value):
        found.append(await pci.doorbell_fd(BAR, NOTIFY_PAGE, 2, value))

    async with trio.open_nursery() as nursery:
        for value in (0, 1, 0, 1):
            nursery.start_soon(ask, value)
    for fd in found:
        fd.close()
    assert len(found) == 4


# Interrupts


async def test_vectors_signal_what_they_are_given_and_others_stay_as_they_are(device, pci):
    with eventfd() as first, eventfd() as second, eventfd() as third:
        await pci.set_vectors({0: first, 1: second, 3: third})
        assert [fd is not None for fd in device.vectors] == [True, True, False, True]
        os.eventfd_write(device.vectors[1].fileno(), 1)
        os.eventfd_write(device.vectors[3].fileno(), 1)
        assert [rung(fd) for fd in (first, second, third)] == [0, 1, 1]
        await pci.set_vectors({1: None, 0: None})
        assert [fd is not None for fd in device.vectors] == [False, False, False, True]
        await pci.set_vectors({1: third})
        os.eventfd_write(device.vectors[1].fileno(), 1)
        assert rung(third) == 1
        assert rung(second) == 0


async def test_vectors_in_a_row_travel_together_and_no_others_do(device, pci):
    with eventfd() as fd:
        await pci.set_vectors({0: fd, 1: fd, 2: None, 3: fd})
    assert [call[2:] for call in device.calls if call[0] == "set_irqs"] == [
        (0, [True, True]),
        (2, [False]),
        (3, [True]),
    ]


async def test_a_vector_that_there_is_not_is_refused_here(device, pci):
    with eventfd() as fd, pytest.raises(AcceleratorError, match="no MSI-X vector 4: it has 4"):
        await pci.set_vectors({0: fd, 4: fd})
    assert device.vectors == [None] * 4


async def test_a_reset_reaches_the_device(device, pci):
    await pci.reset()
    assert device.calls[-1] == ("reset",)


# Memory


@pytest.fixture
def guest():
    table = MemoryTable(keep_files=True)
    with memfd(1 << 20) as fd:
        change = table.prepare_add(MemRegion(gpa=GPA, uva=0, size=1 << 16, offset=PAGE), fd)
        change.commit()
        change.release()
    yield table.snapshot.mapped[0]
    table.close()


async def test_guest_memory_is_the_devices_until_it_is_taken_away(device, pci, guest):
    await pci.map_memory(guest)
    (dma,) = device.ranges
    assert (dma.address, dma.size, dma.offset) == (GPA, 1 << 16, PAGE)
    os.pwrite(guest.fd.fileno(), b"hello", PAGE + 4)
    assert await device.memory.read(GPA + 4, 5) == b"hello"
    await device.memory.write(GPA + 0x100, b"world")
    assert os.pread(guest.fd.fileno(), 5, PAGE + 0x100) == b"world"
    await pci.unmap_memory(guest)
    assert device.ranges == []
    assert dma.fd.closed
    with pytest.raises(AcceleratorError, match="not mapped"):
        await device.memory.read(GPA, 1)


async def test_memory_can_come_and_go_many_times(device, pci, guest):
    for _ in range(20):
        await pci.map_memory(guest)
        with pytest.raises(AcceleratorError, match="overlaps"):
            await pci.map_memory(guest)
        await pci.unmap_memory(guest)
        await pci.unmap_memory(guest)
    assert device.ranges == []


async def test_memory_that_the_device_refuses_is_not_the_devices(guest):
    device = RefusingDevice()
    try:
        async with client_of(device) as client, open_over(client) as pci:
            with pytest.raises(AcceleratorError) as caught:
                await pci.map_memory(guest)
            assert caught.value.errno == errno.ENOMEM
            assert len(client.memory) == 0
    finally:
        device.close()
