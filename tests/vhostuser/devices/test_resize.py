"""A disk that changes its size while it is served."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading

import pytest
import trio

from vhostuser.devices import BlkDevice, BlkOptions, Store, memory_store, null_store, open_store
from vhostuser.errors import StoreError
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    BlockDriver,
    BlockError,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving

SIZE = 1 << 20
KINDS = ("file", "direct", "memory", "null")


def make(kind: str, folder) -> Store:
    if kind == "null":
        return null_store(SIZE)
    if kind == "memory":
        return memory_store(SIZE)
    path = folder / "disk.img"
    path.write_bytes(bytes(SIZE))
    return open_store(path, direct=kind == "direct")


class Driven:
    """A served disk with a driver on it.

    Attributes:
        device: the disk.
        client: the front-end.
        disk: the driver.
    """

    def __init__(self, device, client, disk, news):
        self.device = device
        self.client = client
        self.disk = disk
        self._news = news

    async def told(self):
        """The front-end was told once; return the capacity that it then reads, in bytes."""
        await self._news.receive()
        return await self.capacity()

    async def capacity(self):
        return struct.unpack("<Q", await self.client.get_config(0, 8))[0] * 512

    def not_told(self):
        with pytest.raises(trio.WouldBlock):
            self._news.receive_nowait()


@contextlib.asynccontextmanager
async def driving(store, folder, options=BlkOptions()):  # noqa: B008 - immutable
    path = folder / "socket"
    tell, news = trio.open_memory_channel(100)

    def accept(request):
        tell.send_nowait(None)
        return True

    with trio.fail_after(60), GuestMemory() as memory:
        async with BlkDevice.open(store, options) as device, serving(path, device):
            sock = trio.socket.socket(trio.socket.AF_UNIX)
            await sock.connect(os.fspath(path))
            async with FrontendClient.over(sock, memory, order=QEMU, accept=accept) as client:
                await client.negotiate(features=TRANSPORT_FEATURES | BLK_DRIVER_FEATURES)
                queue = client.setup_queue(0)
                await client.start()
                yield Driven(device, client, BlockDriver([queue]), news)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_disk_grows_under_its_driver(tmp_path, kind):
    async with driving(make(kind, tmp_path), tmp_path) as it:
        with pytest.raises(BlockError):
            await it.disk.write(SIZE // 512, bytes(512))
        assert await it.device.resize(2 * SIZE) == 2 * SIZE
        assert await it.told() == 2 * SIZE
        await it.disk.write(2 * SIZE // 512 - 1, b"last".ljust(512))
        if kind != "null":
            assert await it.disk.read(2 * SIZE // 512 - 1, 512) == b"last".ljust(512)
            assert await it.disk.read(SIZE // 512, 512) == bytes(512)
        with pytest.raises(BlockError):
            await it.disk.read(2 * SIZE // 512, 512)
        it.not_told()


async def test_a_disk_follows_a_file_that_others_grew_and_cut(tmp_path):
    async with driving(make("file", tmp_path), tmp_path) as it:
        for size in (3 * SIZE, SIZE // 2):
            os.truncate(tmp_path / "disk.img", size)
            assert await it.device.resize() == size
            assert await it.told() == size
            await it.disk.read(size // 512 - 1, 512)
            with pytest.raises(BlockError):
                await it.disk.read(size // 512, 512)


async def test_a_disk_follows_a_block_device_that_its_host_grew(tmp_path, loop):
    path = loop()
    async with driving(open_store(path), tmp_path) as it:
        size = it.device.store.size
        os.truncate(tmp_path / "loop.img", 2 * size)
        subprocess.run(["losetup", "--set-capacity", path], check=True)
        assert await it.device.resize() == 2 * size
        assert await it.told() == 2 * size
        assert await it.disk.read(2 * size // 512 - 1, 512) == bytes(512)


async def test_a_front_end_is_not_told_of_what_did_not_change(tmp_path):
    async with driving(make("file", tmp_path), tmp_path) as it:
        assert await it.device.resize() == SIZE
        assert await it.device.resize(SIZE) == SIZE
        with pytest.raises(StoreError, match="would lose data"):
            await it.device.resize(SIZE // 2)
        assert await it.capacity() == SIZE
        assert await it.disk.read(SIZE // 512 - 1, 512) == bytes(512)
        it.not_told()


async def test_a_disk_without_a_front_end_grows_for_the_next_one(tmp_path):
    path = tmp_path / "socket"
    with GuestMemory() as memory, trio.fail_after(60):
        async with (
            BlkDevice.open(make("memory", tmp_path), BlkOptions()) as device,
            serving(path, device),
        ):
            assert await device.resize(2 * SIZE) == device.store.size == 2 * SIZE
            async with FrontendClient.connect(path, memory) as client:
                await client.negotiate(features=TRANSPORT_FEATURES | BLK_DRIVER_FEATURES)
                assert struct.unpack("<Q", client.config[:8])[0] == 2 * SIZE // 512


async def test_a_disk_of_large_blocks_has_whole_ones(tmp_path):
    options = BlkOptions(block_size=4096)
    async with driving(make("file", tmp_path), tmp_path, options) as it:
        with pytest.raises(StoreError, match="whole blocks: 1049088 is no multiple of 4096"):
            await it.device.resize(SIZE + 512)
        os.truncate(tmp_path / "disk.img", SIZE + 8191)
        assert await it.device.resize() == SIZE + 4096
        assert await it.told() == SIZE + 4096
        assert await it.device.resize(SIZE + 4096) == SIZE + 4096
        os.truncate(tmp_path / "disk.img", 4095)
        with pytest.raises(StoreError, match="has 3584 bytes: not one block of 4096"):
            await it.device.resize()
        assert await it.capacity() == it.device.store.size == SIZE + 4096


async def test_a_file_grows_in_a_thread_and_is_not_left_half_way(tmp_path, monkeypatch):
    grow, threads = Store.resize, []
    scope = trio.CancelScope()

    def slow(store, size):
        threads.append(threading.current_thread())
        trio.from_thread.run_sync(scope.cancel)
        return grow(store, size)

    monkeypatch.setattr(Store, "resize", slow)
    async with driving(make("file", tmp_path), tmp_path) as it:
        with scope:
            await it.device.resize(2 * SIZE)
        assert threads[0] is not threading.main_thread()
        assert await it.told() == it.device.store.size == 2 * SIZE
