"""Says where our back-end's time goes in one row: what stands beside a promise that was missed.

It takes `perf` (Debian: linux-perf); virtual machines without a counter are sampled by the clock.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .conversation import Conversation
from .errors import BenchError, RunFailedError
from .measure import client_command
from .net_measure import net_client_command
from .net_serve import net_serving
from .row import Backend
from .serve import serving
from .setting import rows_named, say, set_up

if TYPE_CHECKING:
    import argparse

    from .model import Bench
    from .programs import Programs
    from .row import Contestant
    from .serve import Served

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


def _load_disk(bench: Bench, contestant: Contestant, data: Path) -> str:
    with serving(contestant, bench.programs, bench.ours, bench.place) as served:
        command = client_command(bench, contestant.load, served)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            _record(served, data)
            figures, _ = client.communicate()
        if client.returncode:
            raise RunFailedError(f"the client failed: {figures}")
    return figures.strip()


def _load_switch(bench: Bench, contestant: Contestant, data: Path) -> str:
    with net_serving(bench, contestant) as served:
        command = net_client_command(bench, contestant.load, served)
        log = served.sockets[0].with_name("client.log")
        with Conversation.with_program(command, log=log) as client:
            client.hear()
            client.go_on()
            _record(served, data)
            figures = client.hear()
            client.leave()
    return json.dumps(figures)


def _record(served: Served, data: Path) -> None:
    """Sample a back-end while it is under load."""
    record = ["perf", "record", "--quiet", "--pid", str(served.pid), "-o", str(data)]
    record += ["--", "sleep", str(_SECONDS / 2)]
    subprocess.run(record, check=True, capture_output=True)


def _profile(bench: Bench, contestant: Contestant) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        load = _load_disk if contestant.load.net is None else _load_switch
        figures = load(bench, contestant, data)
        report = ["perf", "report", "--stdio", "-i", str(data), "--sort", "dso,symbol"]
        done = subprocess.run(report, check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return "\n".join([figures, *lines[:_LINES]])
