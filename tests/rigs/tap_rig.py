"""A switch of TAP devices, run in a network namespace of its own (`tap_switch.py`)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from namespaces import Namespace, namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TapSwitch", "started", "tap_switch", "two_stations"]

_PROGRAM = Path(__file__).with_name("tap_switch.py")
_END_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSwitch:
    """A switch that runs.

    Attributes:
        process: as which it runs.
        home: the namespace in which its TAP devices were made.
    """

    process: subprocess.Popen[str]
    home: Namespace

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with status {self.process.wait()}"
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self, line: str) -> dict[str, Any]:
        """Tell it something; return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def received(self, number: int) -> list[dict[str, Any]]:
        """Return the counters of what a TAP was given, one entry for each queue."""
        return list(self.ask("counters")["counters"][number][0::2])

    def sent(self, number: int) -> list[dict[str, Any]]:
        """Return the counters of what came in by a TAP, one entry for each queue."""
        return list(self.ask("counters")["counters"][number][1::2])

    def end(self) -> None:
        """Have it end, as it shall."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(_END_SECONDS) == 0


def started(home: Namespace, wanted: dict[str, Any], wrap: Sequence[str] = ()) -> TapSwitch:
    """Start one; the first that it says is to be heard yet.

    Args:
        home: where its TAP devices are made.
        wanted: what `tap_switch.py` is given.
        wrap: words before the command.
    """
    words = [*wrap, sys.executable, "-W", "error", str(_PROGRAM), json.dumps(wanted)]
    process = home.start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return TapSwitch(process=process, home=home)


@contextlib.contextmanager
def tap_switch(
    *taps: dict[str, Any], home: Namespace | None = None, **workers: Any
) -> Iterator[TapSwitch]:
    """Have a switch of TAP devices for the length of the block.

    Args:
        taps: options of each (`TapOptions`).
        home: where they are made; None: in a namespace of their own.
        workers: options of its threads (`WorkerOptions`).
    """
    with contextlib.ExitStack() as stack:
        home = home or stack.enter_context(namespace())
        switch = started(home, {"taps": taps, "workers": workers})
        with switch.process:
            try:
                assert len(switch.hear()["taps"]) == len(taps)
                yield switch
                switch.end()
            finally:
                switch.process.kill()


@contextlib.contextmanager
def two_stations(
    queues: int = 1, **workers: Any
) -> Iterator[tuple[TapSwitch, Namespace, Namespace]]:
    """Have two namespaces that reach each other through a switch alone: 10.9.0.1 and 10.9.0.2.

    They are fd09::1 and fd09::2, too; each has its TAP device, `left` and `right`.
    """
    taps = [{"name": name, "queues": queues} for name in ("left", "right")]
    with (
        namespace() as left,
        namespace() as right,
        tap_switch(*taps, **workers) as switch,
    ):
        for number, (station, name) in enumerate(((left, "left"), (right, "right")), 1):
            station.ip("link set dev lo up")
            station.take(name, switch.home, f"10.9.0.{number}/24")
            station.set_up(name, f"fd09::{number}/64")
        yield switch, left, right
