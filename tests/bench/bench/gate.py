"""Which state the machine is in: how far the two processors are apart, just now.

Two virtual processors were seen to be near (a cache line there and back in about 100 ns) or far
(about 400 ns), in turns of seconds, without a trace but this. Runs are compared within one state.
"""

from __future__ import annotations

import enum
import subprocess
import time
from typing import TYPE_CHECKING

from .errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Gate", "State", "state_of"]

_NEAR_NS = 170.0
_FAR_NS = 250.0
_WAIT_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_PATIENCE = 60.0
"""How long all waiting together may take, in seconds."""


class State(enum.Enum):
    """The machine's state during a run."""

    NEAR = "near"
    FAR = "far"
    MIXED = "mixed"
    DISTURBED = "disturbed"
    """The client, which polls, did not get its processor: others were at work on the machine."""


class Gate:
    """Probes the machine before and after each run.

    Args:
        program: the compiled ping-pong.
        cpus: the processors of the back-end and of the client.
        wait: whether to wait a while for the near state.
        fifo: whether the probe runs before all else (SCHED_FIFO), as both sides then do.
    """

    def __init__(
        self, program: Path, cpus: tuple[int, int], *, wait: bool, fifo: bool = False
    ) -> None:
        first = ["chrt", "-f", "1"] if fifo else []
        self._command = [*first, str(program), *map(str, cpus)]
        self._patience = _PATIENCE if wait else 0.0

    def probe(self) -> float:
        """Return how long a cache line takes there and back, in nanoseconds."""
        done = subprocess.run(
            self._command, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise BenchError(f"the probe of the machine's state failed: {done.stderr}")
        return float(done.stdout)

    def before(self) -> float:
        """Probe; where the machine is not near, wait a little for it, then take what there is."""
        start = time.monotonic()
        probed = self.probe()
        while probed >= _NEAR_NS and time.monotonic() - start < min(_WAIT_SECONDS, self._patience):
            time.sleep(_PAUSE_SECONDS)
            probed = self.probe()
        self._patience -= time.monotonic() - start
        return probed


def state_of(before: float, after: float) -> State:
    """Classify a run by the probes around it, in nanoseconds."""
    if max(before, after) < _NEAR_NS:
        return State.NEAR
    if min(before, after) > _FAR_NS:
        return State.FAR
    return State.MIXED
