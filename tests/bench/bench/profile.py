"""Says where our back-end's time goes in one row: what stands beside a promise that was missed.

It takes `perf` (Debian: linux-perf); virtual machines without a counter are sampled by the clock.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BenchError, RunFailedError
from .measure import client_command
from .row import Backend
from .serve import serving
from .setting import rows_named, say, set_up

if TYPE_CHECKING:
    import argparse

    from .model import Bench
    from .programs import Programs
    from .row import Contestant

__all__ = ["profile"]

_SECONDS = 3.0
_LINES = 30


def profile(arguments: argparse.Namespace, programs: Programs) -> int:
    """Profile each of our contestants of a row; return the exit status."""
    if shutil.which("perf") is None:
        raise BenchError("perf is not on this machine; install linux-perf")
    rows = rows_named([arguments.row])
    with set_up(programs, rows, disk=arguments.disk, wait=False, fifo=arguments.fifo) as usual:
        bench = usual.measuring(_SECONDS)
        for row in rows:
            for each in row.contestants:
                if each.backend is Backend.OURS or each.name in arguments.also.split(","):
                    say(f"== {row.title}: {each.name}")
                    say(_profile(bench, each))
    return 0


def _profile(bench: Bench, contestant: Contestant) -> str:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(contestant, bench.programs, bench.ours, bench.place) as served,
    ):
        data = Path(folder) / "perf.data"
        command = client_command(bench, contestant.load, served)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            record = ["perf", "record", "--quiet", "--pid", str(served.pid), "-o", str(data)]
            record += ["--", "sleep", str(_SECONDS / 2)]
            subprocess.run(record, check=True, capture_output=True)
            figures, _ = client.communicate()
        if client.returncode:
            raise RunFailedError(f"the client failed: {figures}")
        report = ["perf", "report", "--stdio", "-i", str(data), "--sort", "dso,symbol"]
        done = subprocess.run(report, check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return "\n".join([figures.strip(), *lines[:_LINES]])
