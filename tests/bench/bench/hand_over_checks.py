"""What our process does while doorbells are handed over: nothing; and what a relayed kick costs."""

from __future__ import annotations

import functools
import json
import subprocess
from typing import TYPE_CHECKING, Any

from .check import Check
from .errors import RunFailedError
from .hand_over import drive_once
from .row import Backend, Contestant, Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from .hand_over import Driven
    from .model import Bench

__all__ = ["HAND_OVER_CHECKS"]

_GROUP = "hand-over"
_REQUESTS = 1_000_000
_TIMES = 3
_LEAST_SIGNALS = 1000
"""Doorbells and interrupts without which nothing was proved."""

_SETTLE_SECONDS = 0.5
"""What a new front-end costs is over by then; after that nothing of ours is to run."""

_RELAY_TIMES = 5
_RELAY_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0


@functools.cache  # several checks are about the same requests
def _a_million(bench: Bench) -> list[Driven]:
    """Drive a million requests, each batch by a doorbell and an interrupt, several times."""
    load = Load(depth=32, poll=False, least=_REQUESTS)
    contestant = Contestant(name="passed", backend=Backend.PASSED, load=load)
    found = []
    for _ in range(_TIMES):
        driven = drive_once(bench, contestant, settle=_SETTLE_SECONDS)
        figures = driven.figures
        if figures["requests"] < _REQUESTS:
            raise RunFailedError(f"{figures['requests']} requests are too few")
        if min(figures["kicks"], figures["interrupts"]) < _LEAST_SIGNALS:
            raise RunFailedError(f"doorbell and interrupt were hardly used: {figures}")
        found.append(driven)
    return found


def _cpu(bench: Bench) -> list[float]:
    return [float(driven.ours.cpu_ns) for driven in _a_million(bench)]


def _runs(bench: Bench) -> list[float]:
    return [float(driven.ours.runs) for driven in _a_million(bench)]


@functools.cache
def _relay(bench: Bench) -> list[dict[str, Any]]:
    place = bench.place
    command = [str(bench.programs.relay_load), str(place.back_end_cpu), str(place.client_cpu)]
    command = [*(["chrt", "-f", "1"] if place.fifo else []), *command, str(_RELAY_SECONDS)]
    found = []
    for _ in range(_RELAY_TIMES):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
        )
        if done.returncode:
            raise RunFailedError(f"relay_load: {done.stderr.strip()}")
        found.append(json.loads(done.stdout))
    return found


def _relay_cpu(way: str) -> Callable[[Bench], list[float]]:
    def values(bench: Bench) -> list[float]:
        return [each[way]["cpu_ns"] for each in _relay(bench)]

    return values


def _relay_coalescing(way: str) -> Callable[[Bench], list[float]]:
    def values(bench: Bench) -> list[float]:
        return [each[way]["looks"] / each[way]["kicks"] for each in _relay(bench)]

    return values


HAND_OVER_CHECKS: tuple[Check, ...] = (
    Check(
        name="passed-cpu",
        title="doorbell and interrupt passed, a million requests: our processor time",
        unit="ns",
        most=0,
        values=_cpu,
        group=_GROUP,
    ),
    Check(
        name="passed-runs",
        title="the same: times that a thread of ours ran, as it must to make a system call",
        unit="times",
        most=0,
        values=_runs,
        group=_GROUP,
    ),
    Check(
        name="relay-doorbell",
        title="relay, kicks back to back, eventfd to doorbell: our processor time for a kick",
        unit="ns",
        most=1000,
        values=_relay_cpu("doorbell"),
        group=_GROUP,
    ),
    Check(
        name="relay-eventfd",
        title="relay, kicks back to back, eventfd to eventfd: our processor time for a kick",
        unit="ns",
        most=1000,
        values=_relay_cpu("eventfd"),
        group=_GROUP,
    ),
    Check(
        name="relay-coalesces",
        title="relay, kicks back to back, eventfd to doorbell: stores for a kick",
        unit="stores",
        most=1,
        values=_relay_coalescing("doorbell"),
        group=_GROUP,
    ),
    Check(
        name="relay-alone",
        title="relay, each kick when the one before has arrived, to doorbell: our processor time",
        unit="ns",
        most=None,
        values=_relay_cpu("doorbell, one by one"),
        group=_GROUP,
    ),
)
"""In the order in which they are measured and published."""
