"""A real block device of the kernel as the store: every request, buffered and direct."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
import trio

from protocol.virtio import BlkConfig
from vhostuser.devices import BlkDevice, BlkOptions, BlockSizes, open_store
from vhostuser.devices.block_device import block_device_sizes, reason_in_use
from vhostuser.errors import StoreError
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    BlockError,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import held, serving

SIZE = 8 << 20


@pytest.fixture(params=[512, 4096])
def block_device(request, loop):
    return loop("--sector-size", str(request.param))


@contextlib.asynccontextmanager
async def driving(store, folder):
    """A driver on `store`, over a real socket."""
    path = folder / "socket"
    async with BlkDevice.open(store, BlkOptions()) as device, serving(path, device):
        with GuestMemory() as memory:
            async with FrontendClient.connect(path, memory) as client:
                await client.negotiate(features=TRANSPORT_FEATURES | BLK_DRIVER_FEATURES)
                queue = client.setup_queue(0)
                await client.start()
                yield BlockDriver([queue])
                await client.stop()


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
async def test_every_request_reaches_the_block_device(block_device, tmp_path, direct):
    store = open_store(block_device, direct=direct)
    assert store.size == SIZE
    with trio.fail_after(60):
        async with driving(store, tmp_path) as disk:
            assert await disk.read(0, 4096) == bytes([0xAA]) * 4096
            await disk.write(8, b"eight".ljust(4096, b"8"))
            await disk.write(1, b"one".ljust(512, b"1"))  # smaller than a sector of 4096 bytes
            await disk.write_zeroes(1024, 2048)
            await disk.write_zeroes(4096, 2048, unmap=True)
            await disk.discard(8192, 2048)
            await disk.flush()
            assert await disk.read(8, 4096) == b"eight".ljust(4096, b"8")
            assert await disk.read(0, 4096) == (
                bytes([0xAA]) * 512 + b"one".ljust(512, b"1") + bytes([0xAA]) * 3072
            )
            assert await disk.read(1024, 512 * 64) == bytes(512 * 64)
            assert await disk.read(4096, 512 * 64) == bytes(512 * 64)
            with pytest.raises(BlockError):
                await disk.read(SIZE // 512, 512)
    content = block_device.read_bytes()
    assert content[512:1024] == b"one".ljust(512, b"1")
    assert content[1024 * 512 : 3072 * 512] == bytes(2048 * 512)
    assert content[-512:] == bytes([0xAA]) * 512


async def test_a_read_only_block_device_is_not_written(block_device, tmp_path):
    with trio.fail_after(60):
        async with driving(open_store(block_device, read_only=True), tmp_path) as disk:
            with pytest.raises(BlockError):
                await disk.write(0, bytes(512))
            assert await disk.read(0, 512) == bytes([0xAA]) * 512


@contextlib.contextmanager
def mounted(device, folder):
    """A file system on the device, mounted."""
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", device], check=True)
    folder.mkdir()
    subprocess.run(["mount", device, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_mounted_device_is_refused_with_its_mount_point(loop, tmp_path, read_only):
    device, folder = loop(), tmp_path / "a folder"
    with mounted(device, folder):
        before = held()
        with pytest.raises(StoreError) as caught:
            open_store(device, read_only=read_only)
        text = f"{device} is in use: it is mounted on {folder}; unmount it first"
        assert caught.value.strerror == text
        assert held().more_than(before) == ""
    open_store(device, read_only=read_only).close()


def test_a_device_that_is_served_cannot_be_mounted(loop, tmp_path):
    device = loop()
    with mounted(device, tmp_path / "first"):
        pass
    (tmp_path / "second").mkdir()
    mount = ["mount", device, tmp_path / "second"]
    with contextlib.closing(open_store(device)):
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = ("busy", "already mounted", "Can't open blockdev")  # mount's words vary with its version
    assert any(words in done.stderr for words in said), done.stderr


def test_a_device_that_another_program_has_for_itself_is_refused(loop):
    device = loop()
    with (
        OwnedFd(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)),
        pytest.raises(StoreError, match="another program has it for itself alone"),
    ):
        open_store(device)


def test_a_device_is_written_by_one_disk_or_read_by_many(loop):
    device = loop()
    with contextlib.closing(open_store(device)):
        for read_only in (False, True):
            with pytest.raises(StoreError, match="is in use"):
                open_store(device, read_only=read_only)
    with contextlib.closing(open_store(device, read_only=True)):
        open_store(device, read_only=True).close()
        with pytest.raises(StoreError, match="is in use"):
            open_store(device)


def test_a_device_that_cannot_be_written_is_proposed_to_be_read(loop):
    device = loop("--read-only")
    with pytest.raises(StoreError, match="is write-protected; it can be read, so --read-only"):
        open_store(device)
    open_store(device, read_only=True).close()


async def test_a_disk_announces_the_blocks_of_its_device(block_device, tmp_path):
    queue = Path("/sys/block") / block_device.name / "queue"
    logical = int((queue / "logical_block_size").read_text())
    async with BlkDevice.open(open_store(block_device), BlkOptions()) as device:
        config = BlkConfig.parse(await device.read_config(0, 60))
    assert config.capacity == SIZE // 512
    assert config.blk_size == logical
    assert logical << config.physical_block_exp == int((queue / "physical_block_size").read_text())
    assert config.min_io_size * logical == int((queue / "minimum_io_size").read_text())
    assert config.opt_io_size * logical == int((queue / "optimal_io_size").read_text())
    granularity = int((queue / "discard_granularity").read_text())
    assert config.discard_sector_alignment * 512 == max(granularity, logical)


def test_a_partition_has_the_discard_granularity_of_its_disk(loop, tmp_path):
    device = loop()
    number = device.stat().st_rdev
    disk = tmp_path / "devices" / "disk"
    (disk / "queue").mkdir(parents=True)
    (disk / "queue" / "discard_granularity").write_text("65536\n")
    (disk / "part1").mkdir()
    (tmp_path / "dev" / "block").mkdir(parents=True)
    place = tmp_path / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    place.symlink_to(disk / "part1")
    with OwnedFd(os.open(device, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        assert block_device_sizes(fd, sys=tmp_path).discard == 65536
        place.unlink()
        assert block_device_sizes(fd, sys=tmp_path) == BlockSizes(
            physical=512, minimum=512, discard=512
        )


@pytest.fixture
def host(tmp_path):
    """The folders in which the kernel would say who uses device 8:0, empty yet."""
    for folder in ("proc/self", "sys/dev/block/8:0/sda1/holders", "sys/dev/block/8:0/holders"):
        (tmp_path / folder).mkdir(parents=True)
    partition = tmp_path / "sys/dev/block/8:0/sda1"
    (partition / "partition").write_text("1\n")
    (partition / "dev").write_text("8:1\n")
    return tmp_path


def reason(host: Path) -> str:
    return reason_in_use(os.makedev(8, 0), proc=host / "proc", sys=host / "sys")


def test_the_reason_is_a_mounted_partition(host):
    (host / "proc/self/mountinfo").write_text(
        "22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n"
        "29 1 8:1 / /mnt/a\\040b rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    )
    assert reason(host) == "sda1 is mounted on /mnt/a b; unmount it first"


def test_the_reason_is_a_file_system_that_has_a_number_of_its_own(host, loop):
    device = loop()  # btrfs shows no device number but the name of its device
    (host / "proc/self/mountinfo").write_text(f"29 1 0:40 / /data rw - btrfs {device} rw\n")
    number = device.stat().st_rdev
    found = reason_in_use(number, proc=host / "proc", sys=host / "sys")
    assert found == "it is mounted on /data; unmount it first"


def test_the_reason_is_swap_space(host, loop):
    device = loop()
    (host / "proc/swaps").write_text(
        "Filename\tType\tSize\tUsed\tPriority\n"
        "/no/such/file file 1 0 -2\n"
        f"{device} partition 8388604 0 -3\n"
    )
    found = reason_in_use(device.stat().st_rdev, proc=host / "proc", sys=host / "sys")
    assert found == f"it is swap space; switch it off first (swapoff {device})"


@pytest.mark.parametrize("where", ["holders", "sda1/holders"])
def test_the_reason_is_what_is_built_on_the_device(host, where):
    holder = host / "sys/dev/block/8:0" / where / "dm-3"
    holder.mkdir()
    assert reason(host).startswith("dm-3 is built on it (device mapper or RAID)")
    (holder / "dm").mkdir()
    (holder / "dm" / "name").write_text("vg-root\n")
    assert reason(host).startswith("vg-root is built on it")


def test_without_a_reason_there_is_still_advice(host):
    assert reason(host) == "another program has it for itself alone; end that first"
