"""Item 113 of the catalogue: a host that cannot do what a request wants never makes it a success.

The errors are the host's own: files that always answer them, a limit on this process, an image that
is shortened under the server.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from protocol.virtio import BlkRequest, BlkSegment, BlkStatus, VirtioFeatures
from vhostuser.devices import BlkDevice, BlkOptions, Store, open_store
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving as running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

LAYOUTS = {
    "split": TRANSPORT_FEATURES,
    "packed": TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED,
}
SECTOR = 512
SECTORS = 256
IN, OUT, FLUSH = BlkRequest.IN, BlkRequest.OUT, BlkRequest.FLUSH
OK, IOERR = BlkStatus.OK, BlkStatus.IOERR
NEW = b"new data" * 64
Case = "Callable[[Path, VirtioFeatures], Awaitable[None]]"


def pattern(sectors: int = SECTORS) -> bytes:
    return b"".join(struct.pack("<Q", sector) * 64 for sector in range(sectors))


@contextlib.asynccontextmanager
async def disk_on(
    tmp_path: Path, store: Store, features: VirtioFeatures
) -> AsyncIterator[BlockDriver]:
    """A driver of a disk that is served from this store."""
    async with (
        BlkDevice.open(store, BlkOptions()) as device,
        running(tmp_path / "socket", device),
    ):
        with GuestMemory() as memory:
            async with FrontendClient.connect(tmp_path / "socket", memory) as client:
                await client.negotiate(features=features | BLK_DRIVER_FEATURES)
                client.setup_queue(0)
                await client.start()
                yield BlockDriver([client.queues[0]])


@dataclass(frozen=True)
class Row:
    """A request, how it must end, and what it may have received."""

    kind: int
    sector: int = 0
    send: bytes = b""
    receive: int = 0
    status: int = IOERR
    data: bytes | None = None


async def check(disk: BlockDriver, row: Row) -> None:
    result = await disk.execute(row.kind, row.sector, send=row.send, receive=row.receive)
    assert result.status == row.status
    assert result.written <= row.receive + 1
    if row.status == OK:
        assert result.written == row.receive + 1
    if row.data is not None:
        assert result.data == row.data


def read(sector: int, sectors: int = 1, status: int = IOERR) -> Row:
    data = pattern()[sector * SECTOR : (sector + sectors) * SECTOR] if status == OK else None
    return Row(IN, sector, receive=sectors * SECTOR, status=status, data=data)


def write(sector: int, sectors: int = 1, status: int = IOERR) -> Row:
    return Row(OUT, sector, send=NEW * sectors, status=status)


def segments(kind: int, sector: int, sectors: int, status: int = IOERR) -> Row:
    send = bytes(BlkSegment(sector=sector, num_sectors=sectors))
    return Row(kind, send=send, status=status)


ZEROES, DISCARD = BlkRequest.WRITE_ZEROES, BlkRequest.DISCARD


def special(path: str, flags: int, *rows: Row) -> Case:
    """A file that has its own way with requests; they are made twice, so that no state helps."""

    async def case(tmp_path: Path, features: VirtioFeatures) -> None:
        fd = OwnedFd(os.open(path, flags | os.O_CLOEXEC))
        store = Store(fd=fd, size=SECTORS * SECTOR)
        async with disk_on(tmp_path, store, features) as disk:
            for row in rows * 2:
                await check(disk, row)

    return case


def image(folder: Path) -> Path:
    path = folder / "disk.img"
    path.write_bytes(pattern())
    return path


def shortened(length: int, *rows: Row) -> Case:
    """Somebody cuts the image to `length` bytes while it is served, and mends it again."""

    async def case(tmp_path: Path, features: VirtioFeatures) -> None:
        path = image(tmp_path)
        async with disk_on(tmp_path, open_store(path), features) as disk:
            await check(disk, read(0, 64, OK))
            os.truncate(path, length)
            for row in rows * 2:
                await check(disk, row)
            await disk.flush()
            path.write_bytes(pattern())
            await check(disk, read(0, 64, OK))
            await check(disk, read(200, 56, OK))

    return case


@contextlib.contextmanager
def file_size_limit(length: int) -> Iterator[None]:
    """No file is written by this process beyond `length` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def limited(tmp_path: Path, features: VirtioFeatures) -> None:
    """The host ends a write in its middle; what was written is no success."""
    path, limit = tmp_path / "disk.img", 4 << 20
    path.touch()
    os.truncate(path, 2 * limit)
    border = limit // SECTOR
    async with disk_on(tmp_path, open_store(path), features) as disk:
        with file_size_limit(limit):
            await check(disk, write(border - 1, status=OK))
            await check(disk, write(border))
            await check(disk, write(border - 2, 4))
            await check(disk, write(border + 100, 8))
            await check(disk, Row(FLUSH, status=OK))
        await check(disk, write(border, status=OK))
        assert await disk.read(border - 2, 3 * SECTOR) == NEW * 3


CASES: dict[str, Case] = {
    "no-space": special(
        "/dev/full", os.O_RDWR, write(0), write(7, 16), write(0, 128), segments(ZEROES, 3, 4)
    ),
    "io-error": special(
        "/proc/self/mem",
        os.O_RDWR,
        *(read(0), read(0, 128), write(0), write(0, 16), segments(ZEROES, 0, 4), Row(FLUSH)),
    ),
    "not-writable": special("/dev/zero", os.O_RDONLY, write(0), segments(ZEROES, 0, 4)),
    "not-readable": special("/dev/null", os.O_WRONLY, read(0), read(5, 64)),
    "no-data-at-all": special("/dev/null", os.O_RDONLY, read(0), read(5, 64)),
    "is-a-directory": special("/", os.O_RDONLY, read(0), write(0), read(0, 128)),
    "image-shortened-to-0": shortened(0, read(0), read(0, 256), read(255)),
    "image-shortened-to-half": shortened(
        SECTORS // 2 * SECTOR,
        *(read(0, 128, OK), read(127, 1, OK), read(128), read(127, 2), read(0, 256), read(255)),
    ),
    "image-shortened-within-a-sector": shortened(100 * SECTOR + 7, read(99, 1, OK), read(100)),
    "file-size-limit": limited,
}


@pytest.mark.parametrize("features", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=[f"113-{name}" for name in CASES])
async def hostile(
    case: Callable[[Path, VirtioFeatures], Awaitable[None]],
    features: VirtioFeatures,
    tmp_path: Path,
) -> None:
    await case(tmp_path, features)
