"""One run: start the back-end, probe the machine, load it, probe again. Figures or a failure."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .control import query_rings
from .errors import RunFailedError
from .gate import state_of
from .hand_over import measure_hand_over
from .model import Run, load_figures, run_of
from .net_measure import measure_net
from .round_trip import measure_round_trip
from .row import Backend, Client, Store
from .serve import DISK_BYTES, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Bench
    from .row import Contestant, Load
    from .serve import Place, Served

__all__ = ["client_command", "client_figures", "measure", "spinning"]

_WARM_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0


def client_command(bench: Bench, load: Load, served: Served) -> list[str]:
    """Return the command of the load generator that puts `load` on a back-end."""
    program = {
        Client.LIBBLKIO: bench.programs.blk_load,
        Client.RING: bench.programs.ring_load,
    }[load.client]
    command = [*bench.place.pinned(bench.place.client_cpu), str(program)]
    if bench.place.fifo:
        command = ["chrt", "-f", "1", *command]
    for path in served.sockets[: load.disks]:
        command += ["--socket", str(path)]
    command += ["--depth", str(load.depth), "--regions", str(load.regions)]
    command += ["--seconds", str(bench.seconds_of(load)), "--warm", str(_WARM_SECONDS)]
    flags = {
        "--write": load.write,
        "--sleep": not load.poll,
        "--packed": load.packed,
        "--indirect": load.indirect,
    }
    return command + [flag for flag, wanted in flags.items() if wanted]


def client_figures(bench: Bench, load: Load, served: Served) -> dict[str, float]:
    """Put `load` on a back-end and return what the client says of it.

    Raises:
        RunFailedError: the client failed, or nothing was completed.
    """
    return load_figures(client_command(bench, load, served), "client")


def measure(bench: Bench, contestant: Contestant) -> Run:
    """Measure one contestant once.

    Raises:
        RunFailedError: the back-end or the client failed, or nothing was completed.
        BenchError: the machine's state cannot be told.
    """
    if contestant.backend is Backend.RAW:
        return _measure_raw(bench, contestant)
    if contestant.backend in {Backend.PASSED, Backend.RELAYED, Backend.STRAIGHT}:
        return measure_hand_over(bench, contestant)
    if contestant.backend in {Backend.ECHO, Backend.DEVICE}:
        return measure_round_trip(bench, contestant)
    load = contestant.load
    if load.net is not None:
        return measure_net(bench, contestant)
    with serving(contestant, bench.programs, bench.ours, bench.place) as served:
        before = bench.gate.before()
        if bench.place.fifo:
            served.first()
        cpu, switches, start = served.cpu_seconds(), served.context_switches(), time.monotonic()
        figures = load_figures(client_command(bench, load, served), contestant.name)
        elapsed, used = time.monotonic() - start, served.cpu_seconds() - cpu
        switched = served.context_switches() - switches
        after = bench.gate.probe()
        counters = _counters(served, switched) if contestant.backend is Backend.OURS else {}
    share = round(used / elapsed, 3)
    return run_of(contestant, figures, share, (before, after), counters)


def _counters(served: Served, switches: int) -> dict[str, float]:
    """Return what serving a thousand requests took; the engine counts from its start on."""
    assert served.control is not None
    rings = query_rings(served.control)
    requests = sum(ring["requests"] for ring in rings)
    if not requests:
        raise RunFailedError("the control socket knows of no request")
    totals = {name: sum(ring[name] for ring in rings) for name in ("kicks", "calls")}
    totals["sleeps"] = switches
    return {name: round(1000 * total / requests, 3) for name, total in totals.items()}


@contextlib.contextmanager
def spinning(place: Place) -> Iterator[None]:
    """Keep the client's processor busy for the length of the block."""
    command = [*place.pinned(place.client_cpu), sys.executable, "-c", "while True: pass"]
    spinner = subprocess.Popen(command)
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


def _measure_raw(bench: Bench, contestant: Contestant) -> Run:
    """Measure the file without vhost-user: fio where our back-end would be."""
    load = contestant.load
    before = bench.gate.before()
    with spinning(bench.place) if contestant.busy else contextlib.nullcontext():
        try:
            done = subprocess.run(
                _fio(bench, load),
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailedError(f"fio: no end after {_PATIENCE_SECONDS:.0f} s") from error
    after = bench.gate.probe()
    if done.returncode:
        raise RunFailedError(f"fio: status {done.returncode}: {done.stderr.strip()}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write" if load.write else "read"]
    if not side["iops"] > 0 or job["error"]:
        raise RunFailedError(f"fio: {side['iops']} requests a second, error {job['error']}")
    percentiles = side["clat_ns"]["percentile"]
    return Run(
        contestant=contestant.name,
        rate=side["iops"],
        p50_us=percentiles["50.000000"] / 1000,
        p99_us=percentiles["99.000000"] / 1000,
        client_cpu=0,
        back_end_cpu=round((job["usr_cpu"] + job["sys_cpu"]) / 100, 3),
        before=before,
        after=after,
        state=state_of(before, after).value,
    )


def _fio(bench: Bench, load: Load) -> list[str]:
    seconds = max(1, round(bench.seconds_of(load)))
    return [
        *(["chrt", "-f", "1"] if bench.place.fifo else []),
        *bench.place.pinned(bench.place.back_end_cpu),
        str(bench.programs.fio),
        "--name=raw",
        "--output-format=json",
        "--time_based",
        f"--runtime={seconds}",
        f"--ramp_time={int(_WARM_SECONDS * 1000)}ms",
        f"--rw={'randwrite' if load.write else 'randread'}",
        "--bs=4096",
        f"--iodepth={load.depth}",
        f"--filename={bench.place.image(load.store)}",
        f"--size={DISK_BYTES}",
        "--ioengine=io_uring",
        f"--direct={int(load.store is Store.DIRECT)}",
        "--norandommap",
        "--randrepeat=0",
    ]
