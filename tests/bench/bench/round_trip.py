"""Measures how long it takes to read a register of a device over vfio-user, there and back.

The server is a device of ours, or an echo in C that knows nothing of devices; the client is one of
ours, or a loop in C. Of the two ends in C nobody can be much quicker.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .model import Run, load_figures, run_of
from .programs import ROOT
from .row import Backend, Client
from .serve import DISK_BYTES, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Bench
    from .row import Contestant, Load
    from .serve import Served

__all__ = ["measure_round_trip"]

_WARM_SECONDS = 0.2


@contextlib.contextmanager
def _server(bench: Bench, contestant: Contestant) -> Iterator[Served]:
    """Run who answers for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name) / "device"
        ours = contestant.backend is Backend.DEVICE
        command = [str(bench.programs.echo), str(path)]
        if ours:
            command = [*bench.ours.command, "simulate", "blk", "--null", str(DISK_BYTES)]
            command += ["--socket-path", str(path)]
        pinned = bench.place.pinned(bench.place.back_end_cpu)
        folder = bench.ours.folder if ours else None
        with running([*pinned, *command], (path,), folder=folder) as served:
            yield served


def _client_command(bench: Bench, load: Load, path: Path) -> list[str]:
    place = bench.place
    cpu = place.back_end_cpu if load.together else place.client_cpu
    command = [*(["chrt", "-f", "1"] if place.fifo else []), *place.pinned(cpu)]
    if load.client is Client.C:
        command.append(str(bench.programs.echo_load))
    else:
        command += [sys.executable, "-m", "bench.accessing", load.client.value]
    command += ["--socket", str(path), "--warm", str(_WARM_SECONDS)]
    return [*command, "--seconds", str(bench.seconds_of(load))]


def measure_round_trip(bench: Bench, contestant: Contestant) -> Run:
    """Measure one client with one server once.

    Raises:
        RunFailedError: one of them failed, or nothing was answered.
        BenchError: the machine's state cannot be told.
    """
    load = contestant.load
    paths = os.pathsep.join([str(ROOT / "tests" / "bench"), str(ROOT / "tests" / "parts")])
    with _server(bench, contestant) as served:
        if bench.place.fifo:
            served.first()
        before = bench.gate.before()
        cpu, start = served.cpu_seconds(), time.monotonic()
        figures = load_figures(
            _client_command(bench, load, served.sockets[0]),
            contestant.name,
            environment=os.environ | {"PYTHONPATH": paths},
        )
        elapsed, used = time.monotonic() - start, served.cpu_seconds() - cpu
        after = bench.gate.probe()
    return run_of(contestant, figures, round(used / elapsed, 3), (before, after), {})
