"""The built-in disk, and what the block device says of itself."""

from __future__ import annotations

import os
import subprocess

from protocol.virtio import BlkConfig, BlkFeatures
from vhostuser.devices import (
    DEFAULT_SECTORS,
    GREETING,
    BlkDevice,
    BlkOptions,
    default_sector,
    default_store,
    null_store,
    open_store,
)
from vhostuser.testing import held


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
        config = BlkConfig.parse(await device.read_config(0, 60))
        assert (config.capacity, config.num_queues) == (1 << 21, 3)
        assert device.profile.queues == 3
        assert await device.read_config(58, 10) == bytes(10)
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
