"""Stores, and what the block device says of itself."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from protocol.virtio import BlkConfig, BlkFeatures
from vhostuser.devices import (
    DEFAULT_SECTORS,
    GREETING,
    BlkDevice,
    BlkOptions,
    default_sector,
    default_store,
    memory_store,
    null_store,
    open_store,
)
from vhostuser.errors import StoreError
from vhostuser.testing import held


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 8)
    return path


def test_an_image_is_a_disk_of_its_whole_sectors_and_the_rest_is_mentioned(image, caplog):
    with image.open("ab") as file:
        file.write(b"rest")
    store = open_store(image)
    assert (store.size, store.alignment, store.read_only) == (2048, 1, False)
    assert "its last 4 bytes are not part of the disk" in caplog.text
    store.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_reading_only_is_proposed_where_it_would_help(image, monkeypatch, read_only):
    def denied(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StoreError, match="Permission denied") as caught:
        open_store(image, read_only=read_only)
    assert ("--read-only would serve it" in str(caught.value)) is not read_only


def test_a_direct_store_demands_alignment_and_keeps_a_way_around_it(image):
    store = open_store(image, direct=True)
    assert store.alignment in {512, 4096}
    assert store.buffered_fd is not None
    store.close()


def test_a_read_only_store_cannot_be_written_even_by_us(image):
    store = open_store(image, read_only=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(store.fd.fileno(), b"x", 0)
    store.close()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "cannot open .*: No such file"),
        (lambda path: path.mkdir(), "cannot open .*: Is a directory"),
        (os.mkfifo, "is a pipe: a disk is a regular file or a block device"),
        (lambda path: path.write_bytes(b"x" * 511), "has 511 bytes: a disk has at least 512"),
        (lambda path: path.symlink_to("/dev/null"), "is a character device: a disk is"),
    ],
    ids=["missing", "folder", "fifo", "short", "null"],
)
def test_what_is_no_disk_is_refused_with_the_reason_and_no_leak(tmp_path, make, text):
    before = held()
    make(tmp_path / "disk")
    with pytest.raises(StoreError, match=text):
        open_store(tmp_path / "disk")
    assert held().more_than(before) == ""


def test_a_disk_in_memory_is_sealed_at_its_size():
    store = memory_store(1 << 20)
    with pytest.raises(PermissionError):
        os.truncate(store.fd.fileno(), 0)
    store.close()


def test_sizes_are_rounded_down_to_whole_sectors():
    assert null_store(1023).size == 512
    store = memory_store(1025)
    assert store.size == 1024
    store.close()


def test_the_built_in_disk_says_what_is_in_every_sector():
    store = default_store()
    for number in (0, 1, DEFAULT_SECTORS - 1):
        assert os.pread(store.fd.fileno(), 512, number * 512) == default_sector(number)
    assert GREETING.encode() in default_sector(0)
    store.close()


def test_the_boot_program_is_what_an_assembler_makes_of_its_listing(tmp_path):
    source = tmp_path / "boot.S"
    source.write_text(
        """
        .code16
        .globl _start
        _start: xor %ax, %ax
        mov %ax, %ds
        mov $text, %si
        cld
        next: lodsb
        test %al, %al
        jz end
        push %ax
        mov $0x0e, %ah
        mov $7, %bx
        int $0x10
        pop %ax
        mov $1, %ah
        xor %dx, %dx
        int $0x14
        jmp next
        end: mov $0x5301, %ax
        xor %bx, %bx
        int $0x15
        mov $0x530e, %ax
        xor %bx, %bx
        mov $0x0102, %cx
        int $0x15
        mov $0x5307, %ax
        mov $1, %bx
        mov $3, %cx
        int $0x15
        halt: hlt
        jmp halt
        text:
        """
    )
    built = tmp_path / "boot"
    link = "-Wl,-Ttext=0x7c00,--build-id=none,--oformat=binary"
    command = ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", link, "-o", built, source]
    subprocess.run(command, check=True)
    code = built.read_bytes()
    assert default_sector(0).startswith(code + b"\r\n")


async def test_a_device_says_how_large_it_is_and_what_it_can_do():
    options = BlkOptions(queues=3, serial="x")
    async with BlkDevice.open(null_store(1 << 30), options) as device:
        config = BlkConfig.parse(device.read_config(0, 60))
        assert (config.capacity, config.num_queues) == (1 << 21, 3)
        assert device.profile.queues == 3
        assert device.read_config(58, 10) == bytes(10)
        assert BlkFeatures.RO not in BlkFeatures(int(device.profile.features))


async def test_a_read_only_device_offers_no_way_to_write():
    async with BlkDevice.open(null_store(1 << 20, read_only=True), BlkOptions()) as device:
        features = BlkFeatures(int(device.profile.features))
        assert BlkFeatures.RO in features
        assert not features & (BlkFeatures.DISCARD | BlkFeatures.WRITE_ZEROES)


async def test_a_device_closes_its_store_and_its_threads_at_the_end(image):
    before = held()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
    async with BlkDevice.open(open_store(image), BlkOptions(queues=4, workers=4)):
        assert len(os.listdir("/proc/self/task")) >= threads + 4  # noqa: PTH208
    assert held().more_than(before) == ""
