"""Starts switches: ours, DPDK's testpmd, and the ideal one; and says how busy they were."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RunFailedError
from .net_row import Traffic
from .row import Backend, Client
from .serve import running
from .switching import switching_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .model import Bench
    from .net_row import NetLoad
    from .row import Contestant
    from .serve import Served

__all__ = [
    "EAL",
    "MEMORY_MIB",
    "busy_ns",
    "dpdk_counters",
    "needs_dpdk",
    "net_serving",
    "our_counters",
]

MEMORY_MIB = 384
"""Huge pages that both ends of DPDK take together."""

EAL = ("--no-pci", "--in-memory", "--single-file-segments", "-m", "128")
"""How every program on DPDK is started: memory in one file without a name, which can be shared."""

_RING = 1024
_FRAMES = 16384
"""Buffers of the peer: enough for all its queues, and few enough for its memory."""

_TOLD = 800
"""Characters of what a program said that are worth telling."""

_FORWARDING = {Traffic.SINK: "rxonly", Traffic.SOURCE: "txonly"}
_CYCLES = re.compile(r"CPU cycles/packet=([\d.]+) .* at (\d+) MHz")


def needs_dpdk(contestant: Contestant) -> bool:
    """Tell whether one end is on DPDK, which takes huge pages."""
    return Backend.DPDK is contestant.backend or Client.VIRTIO_USER is contestant.load.client


def _dpdk(bench: Bench, load: NetLoad, sockets: Sequence[Path]) -> list[str]:
    """One thread that forwards; the one that listens to commands sleeps, at the client's place."""
    place = bench.place
    ports = [f"net_vhost{i},iface={path},queues=1" for i, path in enumerate(sockets)]
    return [
        str(bench.programs.testpmd),
        *("--lcores", f"0@{place.client_cpu},1@{place.back_end_cpu}", *EAL),
        *(word for port in ports for word in ("--vdev", port)),
        *("--", "-i", "--nb-cores=1", f"--forward-mode={_FORWARDING.get(load.traffic, 'io')}"),
        *(f"--txd={_RING}", f"--rxd={_RING}", "--burst=32"),
        *(f"--txpkts={load.size}", f"--total-num-mbufs={_FRAMES}"),
    ]


def _ours(bench: Bench, load: NetLoad, sockets: Sequence[Path]) -> list[str]:
    """Our program; where the time is measured that it is busy, one of the benchmarks."""
    if load.counted:
        counted = ["--size", str(load.size)] if load.traffic is Traffic.SOURCE else []
        counted += ["--pairs", str(load.pairs), "--workers", str(load.workers)]
        counted += [*load.options, *bench.ours.options]
        return switching_command(load.mode, sockets, counted)
    command = [*bench.ours.command, "net", "--mode", load.mode]
    command += [word for path in sockets for word in ("--socket-path", str(path))]
    command += ["--queue-pairs", str(load.pairs), "--workers", str(load.workers)]
    if load.traffic is Traffic.SOURCE:
        command += ["--frame-size", str(load.size)]
    return [*command, *load.options, *bench.ours.options]


def _command(bench: Bench, contestant: Contestant, sockets: Sequence[Path]) -> list[str]:
    load, place = contestant.load.net, bench.place
    assert load is not None
    if contestant.backend is Backend.DPDK:
        return _dpdk(bench, load, sockets)
    if contestant.backend is Backend.IDEAL:
        command = [str(bench.programs.ideal_net), load.mode, str(load.size), *map(str, sockets)]
    else:
        command = _ours(bench, load, sockets)
    return [*place.pinned(place.back_end_cpu), *command]


@contextlib.contextmanager
def net_serving(bench: Bench, contestant: Contestant) -> Iterator[Served]:
    """Run a contestant's switch for the length of the block.

    Raises:
        RunFailedError: it did not begin to listen, or ended with a complaint.
    """
    load = contestant.load.net
    assert load is not None
    words = ""
    if contestant.backend is Backend.DPDK:
        words = "set record-core-cycles on\nstart\n" if load.counted else "start\n"
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        sockets = tuple(Path(name) / f"port{i}" for i in range(load.connections))
        is_ours = contestant.backend is Backend.OURS
        with running(
            _command(bench, contestant, sockets),
            sockets,
            folder=bench.ours.folder if is_ours else None,
            words=words,
        ) as served:
            yield served


def busy_ns(contestant: Contestant, served: Served) -> dict[str, float]:
    """End a switch that measures itself; return how long a frame kept it busy, and more.

    Raises:
        RunFailedError: it does not say.
    """
    if contestant.backend is Backend.DPDK:
        return dpdk_counters(served.finish("stop\nquit\n"))
    if contestant.backend is Backend.OURS:
        return our_counters(served.finish("\n"))
    return {}


def dpdk_counters(said: str) -> dict[str, float]:
    """Return what testpmd says of its passes that moved frames, when it stops.

    Raises:
        RunFailedError: it does not say.
    """
    found = _CYCLES.search(said)
    if found is None:
        raise RunFailedError(f"testpmd does not say how busy it was: {said[-_TOLD:]}")
    return {"busy ns": round(1000 * float(found[1]) / float(found[2]), 2)}


def our_counters(said: str) -> dict[str, float]:
    """Return what `switching.py` says at its end: of one frame, and of a thousand.

    Raises:
        RunFailedError: it does not say, or there were none.
    """
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise RunFailedError(f"our switch does not say how busy it was: {said[-_TOLD:]}")
    counted = json.loads(lines[-1])
    frames = counted["frames"]
    if not frames:
        raise RunFailedError(f"no frame went through: {counted}")
    return {
        "busy ns": round(counted["busy_ns"] / frames, 2),
        "kicks": round(1000 * counted["kicks"] / frames, 3),
        "dropped": round(1000 * counted["dropped"] / frames, 3),
    }
