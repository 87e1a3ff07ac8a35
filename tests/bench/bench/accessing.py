"""Reads a register of a vfio-user device again and again, by one of our clients.

`python -m bench.accessing CLIENT --socket PATH …` prints what the load generators print.
"""

from __future__ import annotations

import argparse
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


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Figures:
    """What was counted between the end of running in and the end.

    Args:
        warm: seconds of running in.
        seconds: of measuring.
    """

    def __init__(self, warm: float, seconds: float) -> None:
        self._begin = time.perf_counter_ns() + int(warm * 1e9)
        self._end = self._begin + int(seconds * 1e9)
        self._took: list[int] = []
        self._cpu = 0.0

    def add(self, start: int, end: int) -> bool:
        """Count a round trip; return whether to go on."""
        if start >= self._begin:
            if not self._took:
                self._begin, self._cpu = start, _cpu_seconds()
            self._took.append(end - start)
        return end < self._end

    def tell(self) -> None:
        """Print them."""
        seconds = (time.perf_counter_ns() - self._begin) / 1e9
        cpu = _cpu_seconds() - self._cpu
        took = sorted(self._took)
        figures = {
            "rate": len(took) / seconds,
            "p50_us": took[len(took) // 2] / 1000,
            "p99_us": took[len(took) * 99 // 100] / 1000,
            "client_cpu": cpu / seconds,
            "requests": len(took),
            "errors": 0,
        }
        sys.stdout.write(json.dumps(figures) + "\n")


def _blocking(path: str, figures: _Figures) -> None:
    now = time.perf_counter_ns
    with BlockingClient.connect(path) as client:
        start = now()
        client.read(_REGION, _OFFSET, _COUNT)
        while figures.add(start, now()):
            start = now()
            client.read(_REGION, _OFFSET, _COUNT)


async def _with_trio(path: str, figures: _Figures) -> None:
    now = time.perf_counter_ns
    async with connect(path) as client:
        start = now()
        await client.read(_REGION, _OFFSET, _COUNT)
        while figures.add(start, now()):
            start = now()
            await client.read(_REGION, _OFFSET, _COUNT)


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
