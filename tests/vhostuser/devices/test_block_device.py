"""A real block device of the kernel as the store: every request, buffered and direct."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
import trio
from parts.require import require

from vhostuser.devices import BlkDevice, BlkOptions, open_store
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    BlockError,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving

SIZE = 8 << 20


@pytest.fixture(params=[512, 4096])
def block_device(request, tmp_path):
    require("loop-devices")
    image = tmp_path / "image"
    image.write_bytes(bytes([0xAA]) * SIZE)
    sectors = ["--sector-size", str(request.param)]
    made = subprocess.run(
        ["losetup", "--find", "--show", *sectors, image], check=True, capture_output=True, text=True
    )
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", path], check=True)


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
