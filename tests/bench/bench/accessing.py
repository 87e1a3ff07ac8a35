"""Reads a register of a vfio-user device again and again, by one of our clients.

`python -m bench.accessing CLIENT --socket PATH …` prints what the load generators print.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from typing import TYPE_CHECKING

import trio

from accel.vfio_user import BlockingClient, connect

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLIENTS"]

_REGION = 0
_OFFSET = 0
_COUNT = 4
_BATCH = 64


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Figures:
    """When each round trip ended: the next one begins right then.

    Args:
        warm: seconds of running in.
        seconds: of measuring.

    Attributes:
        ends: in nanoseconds; add to it.
    """

    def __init__(self, warm: float, seconds: float) -> None:
        self.ends: list[int] = []
        self._begin = time.perf_counter_ns() + int(warm * 1e9)
        self._seconds = seconds
        self._cpu: float | None = None

    def go_on(self) -> bool:
        """Whether the time is not over yet; asked now and then."""
        now = time.perf_counter_ns()
        if self._cpu is None and now >= self._begin:
            self._begin, self._cpu = now, _cpu_seconds()
            self.ends[:] = [now]
        return self._cpu is None or now < self._begin + self._seconds * 1e9

    def tell(self) -> None:
        """Print what came of it."""
        assert self._cpu is not None  # the time was over
        seconds = (self.ends[-1] - self.ends[0]) / 1e9
        took = sorted(end - start for start, end in itertools.pairwise(self.ends))
        figures = {
            "rate": len(took) / seconds,
            "p50_us": took[len(took) // 2] / 1000,
            "p99_us": took[len(took) * 99 // 100] / 1000,
            "client_cpu": (_cpu_seconds() - self._cpu) / seconds,
            "requests": len(took),
            "errors": 0,
        }
        sys.stdout.write(json.dumps(figures) + "\n")


def _blocking(path: str, figures: _Figures) -> None:
    now = time.perf_counter_ns
    with BlockingClient.connect(path) as client:
        while figures.go_on():
            for _ in range(_BATCH):
                client.read(_REGION, _OFFSET, _COUNT)
                figures.ends.append(now())


async def _with_trio(path: str, figures: _Figures) -> None:
    now = time.perf_counter_ns
    async with connect(path) as client:
        while figures.go_on():
            for _ in range(_BATCH):
                await client.read(_REGION, _OFFSET, _COUNT)
                figures.ends.append(now())


CLIENTS: dict[str, Callable[[str, _Figures], None]] = {
    "blocking": _blocking,
    "trio": lambda path, figures: trio.run(_with_trio, path, figures),
}
"""Each of our clients."""


def _main() -> None:
    parser = argparse.ArgumentParser(prog="bench.accessing", description=__doc__)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--socket", required=True, help="of the server")
    parser.add_argument("--warm", type=float, default=0.2, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring")
    arguments = parser.parse_args()
    figures = _Figures(arguments.warm, arguments.seconds)
    CLIENTS[arguments.client](arguments.socket, figures)
    figures.tell()


if __name__ == "__main__":
    _main()
