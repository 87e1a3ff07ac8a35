"""What our control plane costs; and all checks, those of the hand-over, too.

Each check starts our back-end anew and returns one value per repetition; the median counts. The
front-end is the project's own, which plays QEMU's order of messages as it was recorded.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    FrontendClient,
    GuestMemory,
    RegionLayout,
)

from .check import Check
from .errors import RunFailedError
from .hand_over_checks import HAND_OVER_CHECKS
from .isolation import ATTACKS, attacked
from .measure import client_command
from .net_checks import NET_CHECKS
from .process import busy_percent, cpu_seconds
from .row import Backend, Contestant, Load
from .serve import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .model import Bench

__all__ = ["CHECKS"]

_QUEUES = 2
_MEMORY_BYTES = 256 << 20
_SETTLE_SECONDS = 0.3
_IDLE_TIMES = 3
_PATIENCE_SECONDS = 30.0
_KIB = 1024


def _contestant(disks: int = 1) -> Contestant:
    return Contestant(name="ours", backend=Backend.OURS, load=Load(served=disks))


def _private_bytes(pid: int) -> int:
    """Return how much memory a process has for itself alone; the guest's is shared."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * _KIB
    return total


@contextlib.asynccontextmanager
async def _started(path: Path, memory: GuestMemory) -> AsyncIterator[None]:
    """Be QEMU with all rings started, for the length of the block."""
    async with FrontendClient.connect(path, memory, order=QEMU) as client:
        await client.negotiate(features=TRANSPORT_FEATURES | BLK_DRIVER_FEATURES, queues=_QUEUES)
        for index in range(min(_QUEUES, client.queue_num)):
            client.setup_queue(index)
        await client.start()
        yield


def _guest_memory() -> GuestMemory:
    return GuestMemory([RegionLayout(gpa=0, size=_MEMORY_BYTES)])


def _start_to_listening(bench: Bench) -> list[float]:
    values = []
    for _ in range(5):
        begin = time.monotonic()
        with serving(_contestant(), bench.programs, bench.ours, bench.place) as served:
            # The path is there when it is bound; what counts is that somebody listens.
            while not _listens(served.sockets[0]):
                if time.monotonic() - begin > _PATIENCE_SECONDS:
                    raise RunFailedError("nobody listens")
            values.append(time.monotonic() - begin)
    return values


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def _connect_to_started(bench: Bench) -> list[float]:
    values = []

    async def connect_often(path: Path, pid: int) -> None:
        with _guest_memory() as memory, trio.fail_after(_PATIENCE_SECONDS):
            for _ in range(12):
                await trio.sleep(_SETTLE_SECONDS)
                before = cpu_seconds(pid)
                async with _started(path, memory):
                    values.append((cpu_seconds(pid) - before) * 1000)

    ours = bench.with_options("--num-queues", str(_QUEUES))
    with serving(_contestant(), bench.programs, ours, bench.place) as served:
        trio.run(connect_often, served.sockets[0], served.pid)
    return values


def _idle_connection(bench: Bench) -> list[float]:
    """Connect to each of eight disks; the first time warms up what all of them share."""
    values = []

    async def connect_all(paths: tuple[Path, ...], pid: int) -> None:
        with _guest_memory() as memory, trio.fail_after(_PATIENCE_SECONDS):
            for turn in range(4):
                await trio.sleep(_SETTLE_SECONDS)
                before = _private_bytes(pid)
                async with contextlib.AsyncExitStack() as stack:
                    for path in paths:
                        await stack.enter_async_context(_started(path, memory))
                    await trio.sleep(_SETTLE_SECONDS)
                    if turn:
                        values.append((_private_bytes(pid) - before) / len(paths) / _KIB)

    with serving(_contestant(8), bench.programs, bench.ours, bench.place) as served:
        trio.run(connect_all, served.sockets, served.pid)
    return values


def _idle_cpu(bench: Bench) -> list[float]:
    """Let a client that was busy stay connected and do nothing."""
    contestant = Contestant(name="ours", backend=Backend.OURS, load=Load(depth=32))
    with serving(contestant, bench.programs, bench.ours, bench.place) as served:
        command = client_command(bench, contestant.load, served)
        command += ["--linger", str(_PATIENCE_SECONDS)]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        try:
            if not client.stdout.readline():
                raise RunFailedError("the client failed")
            time.sleep(_SETTLE_SECONDS)
            values = [busy_percent(served.pid) for _ in range(_IDLE_TIMES)]
            if client.poll() is not None:
                raise RunFailedError("the client left")
            return values
        finally:
            client.kill()
            client.wait()
            client.stdout.close()


def _isolation(attack: str) -> Check:
    def values(bench: Bench) -> list[float]:
        return attacked(bench, attack)

    return Check(
        name=f"beside-{attack}",
        title=f"rate beside a busy process : beside an attack on another disk ({attack})",
        unit="times",
        most=1.25,
        values=values,
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="start",
        title="process start to listening",
        unit="s",
        most=0.4,
        values=_start_to_listening,
    ),
    Check(
        name="connect",
        title="from connect to all rings started, QEMU's sequence, our CPU time",
        unit="ms",
        most=10.0,
        values=_connect_to_started,
    ),
    Check(
        name="memory",
        title="private memory of an idle connection",
        unit="KiB",
        most=300.0,
        values=_idle_connection,
    ),
    Check(
        name="idle",
        title="processor time while a connected client is idle after a load",
        unit="% of a core",
        most=1.0,
        values=_idle_cpu,
    ),
    *map(_isolation, ATTACKS),
    *HAND_OVER_CHECKS,
    *NET_CHECKS,
)
"""All checks, in the order in which they are measured and published."""
