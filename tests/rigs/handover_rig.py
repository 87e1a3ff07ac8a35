"""What tests with a guest on an accelerator look at: kicks, notify areas, and who ran meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from guest_rig import LiveMachine, control
from qemu.qmp import QMPClient

from vhostuser.testing.guest import (
    boot_arguments,
    build_initramfs,
    machine_arguments,
    memory_arguments,
    network_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vhostuser.testing.guest import GuestFiles

__all__ = [
    "NetGuest",
    "areas",
    "boot",
    "kicks",
    "monitor_of",
    "rest",
    "switches",
    "tell",
    "wait_for_areas",
]

_GUEST_SECONDS = 90
_ACCEL = ("-accel", "tcg,thread=single")
"""The first that is named is used. With a thread for each processor QEMU 10.0 was seen to abort
while its memory map changed (in iotlb_to_section), as others have seen of it without any hand-over.
"""
_SETTLED_SECONDS = 15
_LOOK_SECONDS = 0.05
_REST_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class NetGuest:
    """A guest with network devices.

    Args:
        sockets: where a back-end listens, and whether its doorbells have pages of their own.
        files: kernel, busybox and drivers.
        script: what the guest does.
        qemu: the QEMU program.
    """

    sockets: Mapping[Path, bool]
    files: GuestFiles
    script: str
    qemu: str

    def command(self, initramfs: Path) -> list[str]:
        """Return the whole command line; the serial console is its standard output."""
        command = [self.qemu, *machine_arguments(cpus=2), *memory_arguments(256)]
        command += boot_arguments(self.files.kernel, initramfs)
        for number, (socket, own_pages) in enumerate(self.sockets.items()):
            command += network_arguments(socket, number=number, page_per_vq=own_pages)
        return command


class _Bootable(Protocol):
    """What `boot` boots."""

    @property
    def files(self) -> GuestFiles:
        """Kernel, busybox and drivers."""

    @property
    def script(self) -> str:
        """What it does."""

    def command(self, initramfs: Path) -> list[str]:
        """Return the whole command line."""


def kicks(served: Any) -> list[int]:
    """How many kicks the process of a back-end has seen of each ring."""
    return [ring["kicks"] for ring in control(served.control, "query-rings")]


def areas(served: Any) -> list[str]:
    """How far the notify area of each ring has come."""
    return [ring["area"] for ring in control(served.control, "query-rings")]


def wait_for_areas(served: Any, wanted: str) -> None:
    """Wait until the areas of all rings are in a state."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    while set(found := areas(served)) != {wanted}:
        assert time.monotonic() < deadline, (found, served.log)
        time.sleep(_LOOK_SECONDS)


def switches(served: Any) -> dict[str, int]:
    """How often each thread of a process left a processor: one that did not run did not.

    Threads that wait for work end by themselves after ten seconds: they are missing then.
    """
    found = {}
    for thread in Path(f"/proc/{served.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            counts = re.findall(r"ctxt_switches:\s+(\d+)", (thread / "status").read_text())
            found[thread.name] = sum(map(int, counts))
    return found


def rest(served: Any) -> dict[str, int]:
    """Wait until a process sleeps; return what `switches` says then."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    before: dict[str, int] = {}
    now = switches(served)
    while now != before:
        assert time.monotonic() < deadline, "it does not come to rest"
        time.sleep(_REST_SECONDS)
        before, now = now, switches(served)
    return now


def monitor_of(folder: Path) -> Path:
    """Where a machine that `boot` made listens for commands."""
    return folder / "qmp"


def boot(guest: _Bootable, folder: Path) -> LiveMachine:
    """Return a machine with a monitor, to be entered.

    Args:
        guest: what is to run.
        folder: for its initramfs and its monitor.
    """
    initramfs = folder / "initramfs"
    initramfs.write_bytes(build_initramfs(guest.files, guest.script))
    program, *arguments = guest.command(initramfs)
    monitor = ["-qmp", f"unix:{monitor_of(folder)},server=on,wait=off"]
    command = [program, *_ACCEL, *arguments, *monitor]
    return LiveMachine(command=command, seconds=_GUEST_SECONDS)


def tell(monitor: Path, commands: Iterable[tuple[str, float]]) -> None:
    """Execute commands one after the other, each followed by a pause in seconds.

    Raises:
        ExecuteError: one was refused.
        EOFError: the machine is gone.
    """

    async def run() -> None:
        client = QMPClient("guest")
        await client.connect(str(monitor))
        try:
            for command, pause in commands:
                await client.execute(command)
                await asyncio.sleep(pause)
        finally:
            await client.disconnect()

    asyncio.run(run())
