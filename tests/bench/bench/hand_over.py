"""Measures hand-overs: one driver, on a device through our back-end or straight on it.

The device is `vhostuser simulate blk`, a process of its own on the back-end's processor; the
back-end, where there is one, is `vhostuser accel`. What a back-end did meanwhile is counted by the
scheduler: a process none of whose threads ran used no processor and made no system call.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .control import query_rings
from .conversation import Conversation
from .driving import driving_command
from .errors import RunFailedError
from .model import Run, run_of
from .programs import ROOT
from .row import Backend
from .serve import DISK_BYTES, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from .model import Bench
    from .row import Contestant
    from .serve import Served

__all__ = ["Activity", "Driven", "drive_once", "measure_hand_over"]

_WARM_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0
_REST_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the threads of a process did.

    Attributes:
        cpu_ns: processor time.
        runs: times that a thread got a processor.
    """

    cpu_ns: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """What driving a ring once gave.

    Attributes:
        figures: what the driver says.
        elapsed: seconds that it took, all in all.
        ours: what our back-end did meanwhile.
        kicks: that it relayed.
        before, after: probes of the machine, in nanoseconds.
    """

    figures: dict[str, float]
    elapsed: float
    ours: Activity
    kicks: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """The processes between the driver and the store.

    Attributes:
        socket: where the driver connects.
        device: the simulated disk.
        back_end: ours, if it takes part.
    """

    socket: Path
    device: Served
    back_end: Served | None


def _activity(served: Served | None) -> dict[str, tuple[int, int]]:
    """Return CPU time and runs of each thread."""
    if served is None:
        return {}
    found = {}
    for task in Path(f"/proc/{served.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            cpu_ns, _, runs = map(int, (task / "schedstat").read_text().split())
            found[task.name] = cpu_ns, runs
    return found


def _since(served: Served | None, before: dict[str, tuple[int, int]]) -> Activity:
    now = _activity(served)
    was = [before.get(task, (0, 0)) for task in now]
    return Activity(
        cpu_ns=sum(cpu for cpu, _ in now.values()) - sum(cpu for cpu, _ in was),
        runs=sum(runs for _, runs in now.values()) - sum(runs for _, runs in was),
    )


def _rest(served: Served | None) -> dict[str, tuple[int, int]]:
    """Wait until a process has nothing left to do; return what its threads have done so far."""
    end = time.monotonic() + _PATIENCE_SECONDS
    before, now = None, _activity(served)
    while now != before:
        if time.monotonic() > end:
            raise RunFailedError("the back-end does not come to rest")
        time.sleep(_REST_SECONDS)
        before, now = now, _activity(served)
    return now


def _kicks(served: Served | None) -> int:
    if served is None or served.control is None:
        return 0
    return sum(int(ring["kicks"]) for ring in query_rings(served.control))


@contextlib.contextmanager
def _chain(bench: Bench, contestant: Contestant) -> Iterator[_Chain]:
    """Start the device, and the back-end where one takes part."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder, ours, place = Path(name), bench.ours, bench.place
        device = folder / "device"
        command = [*place.pinned(place.back_end_cpu), *ours.command, "simulate", "blk"]
        command += ["--null", str(DISK_BYTES), "--socket-path", str(device)]
        command += [] if contestant.load.poll else ["--poll-us", "0"]
        simulated = stack.enter_context(running(command, (device,), folder=ours.folder))
        if contestant.backend is Backend.STRAIGHT:
            yield _Chain(socket=device, device=simulated, back_end=None)
            return
        disk, control = folder / "disk", folder / "control"
        command = [*ours.command, "accel", "--accel", f"vfio-user:{device}"]
        command += ["--socket-path", str(disk), "--control", str(control)]
        command += [] if contestant.backend is Backend.PASSED else ["--no-hand-over"]
        served = stack.enter_context(running(command, (disk,), control=control, folder=ours.folder))
        yield _Chain(socket=disk, device=simulated, back_end=served)


def _driver(
    bench: Bench, contestant: Contestant, socket: Path
) -> AbstractContextManager[Conversation]:
    load, place = contestant.load, bench.place
    command = [
        *(["chrt", "-f", "1"] if place.fifo else []),
        *place.pinned(place.client_cpu),
        *driving_command(bench.programs.drive, contestant.backend, socket),
        *("--depth", str(load.depth), "--warm", str(_WARM_SECONDS)),
        *("--seconds", str(bench.seconds_of(load)), "--least", str(load.least)),
        *([] if load.poll else ["--sleep"]),
    ]
    paths = os.pathsep.join([str(ROOT / "tests" / "bench"), str(ROOT / "tests" / "parts")])
    return Conversation.with_program(
        command,
        log=socket.with_name("driver.log"),
        folder=bench.ours.folder,
        environment={"PYTHONPATH": paths},
    )


def drive_once(bench: Bench, contestant: Contestant, *, settle: float = 0.0) -> Driven:
    """Start everything, drive the ring once, and count what our back-end did meanwhile.

    Args:
        bench: with what.
        contestant: which way to the device.
        settle: seconds between the ring's start and its first request.

    Raises:
        RunFailedError: somebody failed, or nothing was completed.
        BenchError: the machine's state cannot be told.
    """
    with (
        _chain(bench, contestant) as chain,
        _driver(bench, contestant, chain.socket) as driver,
    ):
        driver.hear()
        time.sleep(settle)
        if bench.place.fifo:
            chain.device.first()
        before, kicks = bench.gate.before(), _kicks(chain.back_end)
        asleep, start = _rest(chain.back_end), time.monotonic()
        driver.go_on()
        figures = driver.hear()
        ours, elapsed = _since(chain.back_end, asleep), time.monotonic() - start
        after, kicks = bench.gate.probe(), _kicks(chain.back_end) - kicks
        driver.leave()
    if figures["errors"] or not figures["rate"] > 0:
        raise RunFailedError(f"{contestant.name}: {figures}")
    return Driven(
        figures=figures, elapsed=elapsed, ours=ours, kicks=kicks, before=before, after=after
    )


def measure_hand_over(bench: Bench, contestant: Contestant) -> Run:
    """Measure one way to the device once. Raises as `drive_once`."""
    driven = drive_once(bench, contestant)
    figures = driven.figures
    counted = {
        "our kicks": driven.kicks,
        "our threads' runs": driven.ours.runs,
        "doorbells": figures["kicks"],
        "interrupts": figures["interrupts"],
    }
    share = round(driven.ours.cpu_ns / 1e9 / driven.elapsed, 3)
    counters = {
        name: round(1000 * count / figures["requests"], 3) for name, count in counted.items()
    }
    return run_of(contestant, figures, share, (driven.before, driven.after), counters)
