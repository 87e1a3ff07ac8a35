"""Front-ends in great numbers, paths that are taken, logs that take nothing: 117, 118, 121."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from vhostuser.disks import DiskConfig, DiskSet
from vhostuser.errors import UsageError
from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory
from vhostuser.server import bind_unix
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

SECONDS = 100
_CONNECTS = 10_000
_IDLE = 1000
_PAGE = resource.getpagesize()


class Left:
    """Counts the front-ends that were left."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](math.inf)

    def __call__(self, name: str, _data: object) -> None:
        if name == "DISCONNECTED":
            self._send.send_nowait(None)

    async def wait(self, count: int = 1) -> None:
        for _ in range(count):
            await self._receive.receive()


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Path, Left]]:
    """A disk in this process."""
    async with DiskSet.open() as disks:
        disks.notify = left = Left()
        await disks.add(DiskConfig(id="disk", socket_path=folder / "s", memory=1 << 20))
        yield folder / "s", left


async def serves(path: Path) -> None:
    """A guest writes and reads."""
    sock = trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(connected, path))
    with GuestMemory() as memory:
        async with FrontendClient.over(sock, memory) as client:
            await client.negotiate()
            disk = BlockDriver([client.setup_queue(0)])
            await client.start()
            await disk.write(1, b"!" * 512)
            assert await disk.read(1, 512) == b"!" * 512


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no file of ours
        return int(file.read().split()[1]) * _PAGE


async def ten_thousand_connects(folder: Path) -> None:
    """Nothing is left of front-ends that only come and go."""
    async with served(folder) as (path, left):
        await serves(path)
        await left.wait()
        before, memory = held(), resident()

        def connect() -> None:
            for _ in range(_CONNECTS):
                connected(path).close()

        await trio.to_thread.run_sync(connect)
        await serves(path)
        await left.wait(_CONNECTS + 1)
        assert held() == before
        assert resident() - memory < 16 << 20


async def thousand_idle(folder: Path) -> None:
    """Who waits costs nothing here, and does not keep the device from whoever is served."""
    async with served(folder) as (path, left):
        await serves(path)
        await left.wait()
        before = held()
        with contextlib.ExitStack() as stack:
            first = await trio.to_thread.run_sync(connected, path)
            stack.enter_context(first)
            await trio.testing.wait_all_tasks_blocked()
            with_one = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
            for _ in range(_IDLE):
                stack.enter_context(await trio.to_thread.run_sync(connected, path))
            await trio.testing.wait_all_tasks_blocked()
            ours = len(os.listdir("/proc/self/fd")) - with_one  # noqa: PTH208 - names only
            assert ours == _IDLE  # the client's ends: the server took none
        await serves(path)
        await left.wait(_IDLE + 2)
        assert held() == before


async def path_in_use(folder: Path) -> None:
    """A second disk on a live socket is refused; the first goes on."""
    async with served(folder) as (path, _), DiskSet.open() as others:
        with pytest.raises(UsageError, match="is in use: another process listens on it"):
            await others.add(DiskConfig(id="other", socket_path=path, null=1 << 20))
        await serves(path)


async def path_stale(folder: Path) -> None:
    """What a killed server left is replaced."""
    bind_unix(folder / "s").close()
    async with served(folder) as (path, _):
        await serves(path)


async def path_is_a_file(folder: Path) -> None:
    """A file that is no socket is never removed."""
    (folder / "s").write_text("precious")
    async with DiskSet.open() as disks:
        with pytest.raises(UsageError, match="exists and is no socket"):
            await disks.add(DiskConfig(id="disk", socket_path=folder / "s", null=1 << 20))
    assert (folder / "s").read_text() == "precious"


async def path_without_folder(folder: Path) -> None:
    """A missing folder is named."""
    async with DiskSet.open() as disks:
        with pytest.raises(UsageError, match="make the folder"):
            await disks.add(DiskConfig(id="disk", socket_path=folder / "no" / "s", null=1 << 20))


@contextlib.contextmanager
def process(folder: Path, log: int) -> Iterator[subprocess.Popen[bytes]]:
    """The program, with its log going where it cannot; yields once it listens."""
    command = [sys.executable, "-m", "vhostuser", "blk", "--socket-path", os.fspath(folder / "s")]
    command += ["--memory", "1M", "--verbose"]
    with subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL) as running:
        try:
            yield running
            running.send_signal(signal.SIGTERM)
            assert running.wait(SECONDS) == 0
        finally:
            running.kill()


async def listening(path: Path) -> None:
    """Wait until a process that cannot say so listens."""
    while True:
        try:
            (await trio.to_thread.run_sync(connected, path)).close()
        except OSError:
            await trio.sleep(0.01)
        else:
            return


async def log_on_a_full_disk(folder: Path) -> None:
    """Serving goes on when no line can be written."""
    full = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    try:
        with process(folder, full):
            await listening(folder / "s")
            for _ in range(3):
                await serves(folder / "s")
    finally:
        os.close(full)


async def log_that_nobody_reads(folder: Path) -> None:
    """Serving goes on when the log's pipe is full."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(1 << 12))
        os.set_blocking(writing, True)
        with process(folder, writing):
            await listening(folder / "s")
            for _ in range(3):
                await serves(folder / "s")
    finally:
        os.close(reading)
        os.close(writing)


async def log_with_its_reader_gone(folder: Path) -> None:
    """Serving goes on when the log's pipe is closed."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(reading)
    try:
        with process(folder, writing):
            await listening(folder / "s")
            for _ in range(3):
                await serves(folder / "s")
    finally:
        os.close(writing)


CASES: dict[str, Callable[[Any], Awaitable[None]]] = {
    "117-10000-connects": ten_thousand_connects,
    "117-1000-idle": thousand_idle,
    "118-in-use": path_in_use,
    "118-stale": path_stale,
    "118-no-socket": path_is_a_file,
    "118-no-folder": path_without_folder,
    "121-full-disk": log_on_a_full_disk,
    "121-full-pipe": log_that_nobody_reads,
    "121-closed-pipe": log_with_its_reader_gone,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Path], Awaitable[None]], tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        await case(tmp_path)
