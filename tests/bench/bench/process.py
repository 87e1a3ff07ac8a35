"""What a running process costs."""

from __future__ import annotations

import ctypes
import time

from .errors import RunFailedError

__all__ = ["busy_percent", "cpu_seconds"]

_SECONDS = 1.5


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all its threads, to the nanosecond."""
    clock = ctypes.c_int()
    failed = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if failed:
        raise RunFailedError(f"process {pid} has no CPU clock (error {failed}): it has ended")
    return time.clock_gettime(clock.value)


def busy_percent(pid: int) -> float:
    """Watch a process for a while; return how much of a processor it used."""
    before, begin = cpu_seconds(pid), time.monotonic()
    time.sleep(_SECONDS)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - begin)
