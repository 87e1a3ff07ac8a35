"""`vhostuser demo`: serve the built-in disk, drive it, verify every byte, boot a guest from it.

The disk is served by the same server as `vhostuser blk`, on a real socket, and driven by the
front-end library in the same process.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from protocol.virtio import VirtioFeatures
from vhostuser.cli.command import Command
from vhostuser.devices import (
    DEFAULT_SECTORS,
    GREETING,
    BlkDevice,
    BlkOptions,
    default_sector,
    default_store,
)
from vhostuser.errors import leaves
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving
from vhostuser.testing.guest import (
    Guest,
    GuestFiles,
    disk_arguments,
    machine_arguments,
    run_qemu,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

__all__ = ["COMMAND"]

_QEMU = "qemu-system-x86_64"
_SECTOR = 512
_CHUNK = 128 * _SECTOR
_SIZE = DEFAULT_SECTORS * _SECTOR
_QUEUES = 2
_GUEST_SECONDS = 120
_OPTIONS = BlkOptions(queues=_QUEUES, serial="vhostuser-demo")
_LINUX_SCRIPT = """\
echo "GUEST first sector: $(dd if=/dev/vda bs=512 count=1 2>/dev/null | strings | head -n 1)"
dd if=/dev/urandom of=/data bs=4096 count=256 2>/dev/null
dd if=/data of=/dev/vda bs=4096 seek=1024 oflag=direct 2>/dev/null
dd if=/dev/vda of=/back bs=4096 skip=1024 count=256 iflag=direct 2>/dev/null
cmp /data /back && echo "GUEST wrote 1 MiB and read the same back"
"""


class DemoError(Exception):
    """Something was not as it must be; the text says what."""


def _configure(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the demo has no options."""


def _run(options: argparse.Namespace) -> int:
    if not options.verbose:
        logging.getLogger("vhostuser").setLevel(logging.WARNING)
    status = 0
    try:
        trio.run(_demo)
    except* DemoError as group:
        for error in leaves(group):
            print(f"FAILED: {error}")
        status = 1
    return status


@contextlib.asynccontextmanager
async def _served(path: Path) -> AsyncIterator[None]:
    """Serve the built-in disk on `path` for the length of the block."""
    async with BlkDevice.open(default_store(), _OPTIONS) as device, serving(path, device):
        yield


async def _demo() -> None:
    with tempfile.TemporaryDirectory(prefix="vhostuser-demo-") as folder:
        path = Path(folder) / "disk.sock"
        async with _served(path):
            print(f"Serving the built-in disk of {_SIZE >> 20} MiB on {path}\n")
            for packed in (False, True):
                await _drive(path, packed=packed)
            print()
            _print_command()
            await _boot(path)


async def _drive(path: Path, *, packed: bool) -> None:
    """Negotiate, check what is there, write the second half, read all back."""
    layout = "packed" if packed else "split"
    wanted = TRANSPORT_FEATURES | BLK_DRIVER_FEATURES
    if packed:
        wanted |= VirtioFeatures.RING_PACKED
    begin = time.monotonic()
    with GuestMemory() as memory:
        async with FrontendClient.connect(path, memory) as client:
            await client.negotiate(features=wanted, queues=_QUEUES)
            queues = [client.setup_queue(index) for index in range(_QUEUES)]
            await client.start()
            disk = BlockDriver(queues)
            serial = await disk.get_id()
            await _verify_all(disk, layout)
            await client.stop()
    seconds = time.monotonic() - begin
    print(
        f"{layout:>6} ring: {len(queues)} queues, serial '{serial}', wrote {_SIZE >> 21} MiB, "
        f"verified {_SIZE >> 20} MiB, every byte as it must be ({seconds:.2f} s)"
    )


async def _verify_all(disk: BlockDriver, layout: str) -> None:
    half = _SIZE // 2
    pattern = _pattern(layout)
    for offset in range(half, _SIZE, _CHUNK):
        await disk.write(offset // _SECTOR, pattern[offset - half :][:_CHUNK])
    await disk.flush()
    for offset in range(0, _SIZE, _CHUNK):
        first = offset // _SECTOR
        got = await disk.read(first, _CHUNK)
        if offset < half:
            wanted = b"".join(map(default_sector, range(first, first + _CHUNK // _SECTOR)))
        else:
            wanted = pattern[offset - half :][:_CHUNK]
        if got != wanted:
            raise DemoError(f"{layout} ring: sectors from {first} are not what they must be")


def _pattern(layout: str) -> bytes:
    """Half a disk of sectors that say who wrote them."""
    sectors = range(DEFAULT_SECTORS // 2, DEFAULT_SECTORS)
    lines = (f"sector {number}, written through a {layout} ring\n" for number in sectors)
    return b"".join(line.encode("ascii").ljust(_SECTOR, b"\0") for line in lines)


def _program() -> str:
    """Name this program as the user can type it."""
    program = Path(sys.argv[0])
    with contextlib.suppress(ValueError):
        return str(program.resolve().relative_to(Path.cwd()))
    return "vhostuser"


def _print_command() -> None:
    print("To attach a guest, serve the disk in one terminal:\n")
    print(f"    {_program()} blk --socket-path=/tmp/disk.sock\n")
    print("and boot from it in another:\n")
    print(f"    {shlex.join(_command(Path('/tmp/disk.sock')))}\n")  # noqa: S108 - an example


def _command(path: Path) -> list[str]:
    return [_QEMU, *machine_arguments(), *disk_arguments(path)]


async def _boot(path: Path) -> None:
    """Boot from the disk, and a Linux guest on it, as far as the host has what they need."""
    if shutil.which(_QEMU) is None:
        print(f"{_QEMU} is not installed: no guest was booted (Debian package qemu-system-x86)")
        return
    run = await trio.to_thread.run_sync(lambda: run_qemu(_command(path), seconds=_GUEST_SECONDS))
    if GREETING not in run.console:
        raise DemoError(f"the guest did not boot from the disk; its console:\n{run.console}")
    print(f'QEMU, that command: "{GREETING}" ({run.seconds:.1f} s)')
    files = GuestFiles.find()
    if files is None:
        print("no kernel at hand: no Linux guest was booted (`make parts` fetches one)")
        return
    guest = Guest(socket=path, files=files, script=_LINUX_SCRIPT, cpus=_QUEUES)
    run = await trio.to_thread.run_sync(lambda: guest.run(seconds=_GUEST_SECONDS))
    said = [line for line in run.console.splitlines() if line.startswith("GUEST")]
    if not any("read the same back" in line for line in said):
        raise DemoError(f"the Linux guest did not do its I/O; its console:\n{run.console}")
    print(f"QEMU, a Linux guest ({run.seconds:.1f} s):")
    for line in said:
        print(f"    {line.removeprefix('GUEST ')}")


COMMAND = Command(
    summary="serve the built-in disk, drive it, verify every byte, boot a guest from it",
    configure=_configure,
    run=_run,
)
