"""Starts back-ends and ends them: ours, the peer and the ideal one, each on its own processor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RunFailedError
from .programs import ROOT
from .row import Backend, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .programs import Programs
    from .row import Contestant

__all__ = ["DISK_BYTES", "Ours", "Place", "Served", "running", "serving", "serving_command"]

DISK_BYTES = 1 << 30
"""Size of every disk."""

_START_SECONDS = 20.0
_END_SECONDS = 5.0
_CLOCK_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """How our back-end is started.

    Attributes:
        command: the program and its first arguments, up to and without `blk`.
        folder: where to start it; `python -m vhostuser` takes the package that lies there.
        options: appended to `blk`.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "vhostuser")
    folder: Path = ROOT
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where things run and lie.

    Attributes:
        back_end_cpu, client_cpu: processors.
        shm, disk: folders of the images.
        fifo: whether both sides run before all else (SCHED_FIFO): figures that can be looked at on
            a busy machine, at the price of whoever else works there.
    """

    back_end_cpu: int = 0
    client_cpu: int = 1
    shm: Path
    disk: Path
    fifo: bool = False

    def image(self, store: Store) -> Path | None:
        """Return the image of a store; the null store has none."""
        if store is Store.NULL:
            return None
        return (self.shm if store is Store.SHM else self.disk) / "image"

    def pinned(self, cpu: int) -> list[str]:
        """Return what to put before a command to have it run on `cpu`."""
        return ["taskset", "-c", str(cpu)]


@dataclass(slots=True, kw_only=True)
class Served:
    """A running back-end.

    Attributes:
        pid: its process.
        sockets: where its disks are.
        control: its control socket, where it has one.
        finished: whether it was told to end.
    """

    process: subprocess.Popen[bytes]
    sockets: tuple[Path, ...]
    log: Path
    control: Path | None = None
    finished: bool = False

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICK

    def context_switches(self) -> int:
        """Return how often its threads have slept so far."""
        total = 0
        for status in Path(f"/proc/{self.pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):  # a thread may end meanwhile
                for line in status.read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches"):
                        total += int(line.split()[1])
        return total

    def first(self) -> None:
        """Let all its threads run before everything else on the machine (SCHED_FIFO)."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(1))

    def finish(self, words: str) -> str:
        """Say the words that make it end; return all that it has said itself.

        Raises:
            RunFailedError: it does not end.
        """
        assert self.process.stdin is not None
        self.finished = True
        try:
            self.process.stdin.write(words.encode())
            self.process.stdin.flush()
            self.process.wait(_END_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunFailedError(f"the back-end does not end: {self.complaint()}") from error
        return self.log.read_text(errors="replace")

    def complaint(self) -> str:
        """Return the end of what it has said."""
        return self.log.read_text(errors="replace")[-800:]


def _ours(ours: Ours, contestant: Contestant, place: Place, sockets: Sequence[Path]) -> list[str]:
    load = contestant.load
    image = place.image(load.store)
    control = sockets[0].with_name("control")
    if load.served > 1:
        config = sockets[0].with_name("config.toml")
        config.write_text(_configuration(sockets))
        return [*ours.command, "blk", "--config", str(config), "--control", str(control)]
    store = ["--null", str(DISK_BYTES)] if image is None else ["--blk-file", str(image)]
    direct = ["--direct"] if load.store is Store.DIRECT else []
    where = ["--socket-path", str(sockets[0]), "--control", str(control)]
    return [*ours.command, "blk", *where, *store, *direct, *ours.options]


def _configuration(sockets: Sequence[Path]) -> str:
    disks = [
        f'[[disk]]\nid = "disk{i}"\nsocket-path = "{path}"\nnull = {DISK_BYTES}\nnum-queues = 2\n'
        for i, path in enumerate(sockets)
    ]
    return "\n".join(disks)


def _peer(
    program: Path, contestant: Contestant, place: Place, sockets: Sequence[Path]
) -> list[str]:
    """One I/O thread of its own, as a production set-up has; its polling as it comes."""
    load = contestant.load
    image = place.image(load.store)
    if image is None:
        node = f"null-co,node-name=disk,size={DISK_BYTES},read-zeroes=off"
    else:
        direct = "on" if load.store is Store.DIRECT else "off"
        node = f"file,node-name=disk,filename={image},aio={contestant.aio},cache.direct={direct}"
    if contestant.aio == "native" and load.store is not Store.DIRECT:
        raise ValueError("the peer's native I/O takes a direct file")
    export = (
        f"vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={sockets[0]},"
        "writable=on,num-queues=1,iothread=thread"
    )
    return [
        str(program),
        *("--object", "iothread,id=thread"),
        *("--blockdev", node),
        *("--export", export),
    ]


def serving_command(
    contestant: Contestant, programs: Programs, ours: Ours, place: Place, sockets: Sequence[Path]
) -> list[str]:
    """Return the command that serves a contestant's disks on `sockets`."""
    if contestant.backend is Backend.OURS:
        return _ours(ours, contestant, place, sockets)
    if contestant.backend is Backend.PEER:
        return _peer(programs.peer, contestant, place, sockets)
    return [str(programs.ideal), *map(str, sockets)]


def _wait_until_served(served: Served) -> None:
    """Wait for the paths: a connection would be a front-end that leaves again."""
    end = time.monotonic() + _START_SECONDS
    while not all(path.exists() for path in served.sockets):
        if served.process.poll() is not None or time.monotonic() > end:
            raise RunFailedError(f"the back-end did not begin to listen: {served.complaint()}")
        time.sleep(0.005)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    sockets: tuple[Path, ...],
    *,
    control: Path | None = None,
    folder: Path | None = None,
    words: str = "",
) -> Iterator[Served]:
    """Run a program that serves sockets for the length of the block.

    Args:
        command: the program with its arguments.
        sockets: where it will listen; its log is put beside the first.
        control: its control socket, where it has one.
        folder: where to start it.
        words: what it hears on its standard input at once; more may be said later.

    Raises:
        RunFailedError: it did not begin to listen, or ended with a complaint.
    """
    path = sockets[0].with_suffix(".log")
    with path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    served = Served(process=process, sockets=sockets, log=path, control=control)
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its log says why
            process.stdin.write(words.encode())
            process.stdin.flush()
        _wait_until_served(served)
        yield served
        if process.poll() is not None and not served.finished:
            raise RunFailedError(f"the back-end ended by itself: {served.complaint()}")
    finally:
        _end(served)
        with contextlib.suppress(OSError):  # what it has not read
            process.stdin.close()


@contextlib.contextmanager
def serving(
    contestant: Contestant, programs: Programs, ours: Ours, place: Place
) -> Iterator[Served]:
    """Run a contestant's back-end for the length of the block.

    Raises:
        RunFailedError: it did not begin to listen, or ended with a complaint.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        sockets = tuple(folder / f"disk{i}" for i in range(contestant.load.served))
        command = serving_command(contestant, programs, ours, place, sockets)
        is_ours = contestant.backend is Backend.OURS
        with running(
            [*place.pinned(place.back_end_cpu), *command],
            sockets,
            control=folder / "control" if is_ours else None,
            folder=ours.folder if is_ours else None,
        ) as served:
            yield served


def _end(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        served.process.kill()
        served.process.wait()
