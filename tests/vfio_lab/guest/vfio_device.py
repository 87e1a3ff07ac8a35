"""Real devices, held by the kernel's VFIO: what it says of them, and how it lets them go."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import io
import json
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

import trio
from driven import BLK, NET, driver_of

from accel.cli.devices import DEVICE_COMMANDS
from accel.pci import CONFIG_REGION
from accel.vfio import Binding, DeviceAddress, Kernel, Sysfs, open_device
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.fds import OwnedFd
from vhostuser.frontend import GuestMemory, RegionLayout
from vhostuser.memory import MappedRegion
from vhostuser.testing import held

PAGE = 4096
_COMMON, _STATUS, _QUEUE_SELECT = 4, 20, 22
_NOBODY = 65534


def _accel(name, *arguments):
    """Run `vhostuser accel …`; return what it printed."""
    command = DEVICE_COMMANDS[name]
    parser = argparse.ArgumentParser()
    command.configure(parser)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command.run(parser.parse_args(arguments)) == 0
    return out.getvalue()


def _bound():
    return Binding(Kernel(), Sysfs()).bind(BLK)


@contextlib.asynccontextmanager
async def _device(*, share_fd=False):
    _bound()
    before = held()
    async with open_device(DeviceAddress(address=BLK, share_fd=share_fd)) as device:
        yield device
    assert not held().more_than(before)


@contextlib.contextmanager
def _memory(gpa, size):
    with GuestMemory((RegionLayout(gpa=gpa, size=size),)) as memory:
        region = memory.regions[0]
        yield MappedRegion(region.description, region.hva(gpa), region.fd)


async def _refused(awaitable):
    """Return the words and the number of a refusal."""
    try:
        await awaitable
    except AcceleratorError as error:
        return [error.strerror, errno.errorcode[error.errno]]
    raise AssertionError("it was not refused")


async def _unopened():
    """Return why the device cannot be opened."""
    try:
        async with open_device(DeviceAddress(address=BLK)):
            raise AssertionError("it was opened")
    except UsageError as error:
        return str(error)


def check_devices_are_bound_and_given_back():
    before = {address: driver_of(address) for address in (BLK, NET)}
    listed = json.loads(_accel("list", "--json"))
    bound = _accel("bind", BLK, NET)
    ready = json.loads(_accel("list", "--json"))
    drivers = [driver_of(BLK), driver_of(NET)]
    given_back = _accel("unbind", BLK, NET)
    assert {address: driver_of(address) for address in (BLK, NET)} == before
    return {
        "before": before,
        "listed": {entry["address"]: entry["status"] for entry in listed},
        "bound": bound,
        "drivers": drivers,
        "ready": {entry["address"]: entry["advice"] for entry in ready},
        "given back": given_back,
    }


def check_an_unbound_device_is_refused():
    assert driver_of(BLK) != "vfio-pci"
    try:
        _accel("probe", BLK)
    except UsageError as error:
        return str(error)
    raise AssertionError("it was opened")


def check_probe():
    _bound()
    return json.loads(_accel("probe", "--json", BLK))


async def check_registers():
    async with _device() as device:
        ids = await device.read(CONFIG_REGION, 0, 4)
        await device.write(_COMMON, _STATUS, 1, 3)
        status = await device.read(_COMMON, _STATUS, 1)
        block = await device.read_block(_COMMON, _STATUS, 1)
        await device.reset()
        after = await device.read(_COMMON, _STATUS, 1)
        command = await device.read(CONFIG_REGION, 4, 2)
        with device.map_area(_COMMON, 0, PAGE) as area:
            area.store(_QUEUE_SELECT, 2, 1)
        selected = await device.read(_COMMON, _QUEUE_SELECT, 2)
    assert block == bytes([status])
    return [hex(ids), status, after, command & 6, selected]


async def check_an_eventfd_stands_for_a_write():
    async with _device() as device:
        await device.write(_COMMON, _QUEUE_SELECT, 2, 0)
        fd = await device.doorbell_fd(_COMMON, _QUEUE_SELECT, 2, 1)
        assert fd is not None
        assert await device.doorbell_fd(CONFIG_REGION, 0x3C, 1, 0) is None
        with fd:
            os.eventfd_write(fd.fileno(), 1)
            # A register tells nobody that it has changed.
            while await device.read(_COMMON, _QUEUE_SELECT, 2) != 1:  # noqa: ASYNC110 - a register
                await trio.sleep(0.001)


async def check_memory_comes_and_goes():
    async with _device() as device:
        with (
            _memory(0, 1 << 20) as low,
            _memory(1 << 32, 4 << 20) as high,
            _memory(1 << 32, 2 << 20) as other,
        ):
            await device.map_memory(low)
            await device.map_memory(high)
            overlap = await _refused(device.map_memory(other))
            partly = await _refused(device.unmap_memory(other))
            await device.unmap_memory(high)
            await device.map_memory(other)
            await device.unmap_memory(low)
            twice = await _refused(device.unmap_memory(low))
    return [overlap, partly, twice]


async def check_where_memory_cannot_be():
    async with _device() as device:
        with _memory(0xFEDFF000, 4 * PAGE) as hole, _memory(1 << 60, PAGE) as above:
            return [
                await _refused(device.map_memory(hole)),
                await _refused(device.map_memory(above)),
            ]


async def check_memory_beyond_the_limit_of_locked_memory():
    async with _device() as device:
        with _memory(0, 4 << 20) as region:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
            os.seteuid(_NOBODY)  # whoever may lock as much as he likes has no limit
            try:
                return await _refused(device.map_memory(region))
            finally:
                os.seteuid(0)


async def check_truncated_memory_is_refused():
    async with _device() as device:
        with _memory(0, 4 << 20) as region:
            # The front-end's memory may be a file without a seal.
            fd = OwnedFd(os.memfd_create("unsealed", os.MFD_CLOEXEC))
            with fd, _mapped_file(fd, region) as unsealed:
                os.ftruncate(fd.fileno(), PAGE)
                return await _refused(device.map_memory(unsealed))


@contextlib.contextmanager
def _mapped_file(fd, like):
    os.ftruncate(fd.fileno(), like.region.size)
    with mmap.mmap(fd.fileno(), like.region.size, mmap.MAP_SHARED) as area:
        start = ctypes.c_char.from_buffer(area)
        yield MappedRegion(like.region, ctypes.addressof(start), fd)
        del start


async def check_vectors_are_added_later():
    async with _device() as device:
        with contextlib.ExitStack() as stack:
            fds = [stack.enter_context(OwnedFd(os.eventfd(0))) for _ in range(2)]
            await device.set_vectors({1: fds[0]})
            first = _vectors()
            await device.set_vectors({0: fds[1], 1: None})
            second = _vectors()
            await device.set_vectors({2: fds[0]})
            third = _vectors()
            await device.reset()
            assert _vectors() == third
    return [device.vectors, first, second, third, _vectors()]


def _vectors():
    """Return which vectors the kernel passes on."""
    lines = Path("/proc/interrupts").read_text().splitlines()
    return sorted(line.split()[-1] for line in lines if f"({BLK})" in line and "msix" in line)


async def check_only_one_may_have_a_device():
    refusals = []
    async with _device() as device:
        refusals.append(await _unopened())
        try:
            Binding(Kernel(), Sysfs()).unbind(BLK)
        except UsageError as error:
            refusals.append(str(error))
        with device.group() as group:
            node = await trio.Path(f"/dev/vfio/{Sysfs().function(BLK).group}").stat()
            assert os.fstat(group.fileno()).st_rdev == node.st_rdev
    assert driver_of(BLK) == "vfio-pci"
    return refusals


async def check_who_has_the_devices_file_cannot_end_our_process():
    async with _device(share_fd=True) as device:
        with device.share_area(_COMMON, 0x3000, PAGE).fd as fd:
            command = device.regions[CONFIG_REGION].file_offset + 4
            os.pwrite(fd.fileno(), b"\0\0", command)  # its memory does not answer any more
            refusals = [
                await _refused(device.read(_COMMON, _STATUS, 1)),
                await _refused(device.write(_COMMON, _STATUS, 1, 0)),
            ]
            os.pwrite(fd.fileno(), b"\6\0", command)
            assert await device.read(_COMMON, _STATUS, 1) == 0
    return refusals


async def check_who_has_the_devices_file_keeps_the_device_but_no_memory():
    _bound()
    with _memory(0, 4 << 20) as region:
        async with open_device(DeviceAddress(address=BLK, share_fd=True)) as device:
            await device.map_memory(region)
            locked = [_locked()]
            area = device.share_area(_COMMON, 0x3000, PAGE)
        locked.append(_locked())
        with area.fd:
            refusal = await _unopened()
        async with open_device(DeviceAddress(address=BLK)):
            return [locked, refusal]


def _locked():
    """Return how much memory of this process is locked, in KiB."""
    return int(Path("/proc/self/status").read_text().partition("VmLck:")[2].split()[0])


async def check_the_host_gets_a_device_back_that_is_in_use():
    _bound()
    async with open_device(DeviceAddress(address=BLK)) as device:
        path = f"/sys/bus/pci/devices/{BLK}/driver/unbind"
        script = f"open({path!r}, 'w').write({BLK!r})"
        process = await trio.lowlevel.open_process([sys.executable, "-c", script])
        why = await device.gone()
        assert process.poll() is None
        assert await device.gone() == why
    assert await process.wait() == 0
    assert driver_of(BLK) == ""
    given_back = Binding(Kernel(), Sysfs()).unbind(BLK)
    return [why, given_back]


def check_a_process_that_dies_leaves_the_device_free():
    _bound()
    script = (
        "import os; from accel.vfio import KernelVfioDevice as D; "
        f"d = D({BLK!r}); print('open', flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout == b"open\n"
    return Binding(Kernel(), Sysfs()).unbind(BLK)
