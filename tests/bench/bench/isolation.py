"""What an attack on one disk costs another of the same process.

The disk's rate beside a front-end that attacks the other disk (tests/rigs/hostile_load.py) is
compared with its rate beside a process that is merely busy: an attacker has a right to its
processor.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from .errors import RunFailedError
from .measure import client_figures, spinning
from .programs import ROOT
from .row import Backend, Contestant, Load
from .serve import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .model import Bench

__all__ = ["ATTACKS", "attacked"]

ATTACKS = ("garbage", "truncation", "spoilt-ring", "connect-storm", "stall", "kick-storm", "flood")
"""Attacks of tests/rigs/hostile_load.py."""

_PROGRAM = ROOT / "tests" / "rigs" / "hostile_load.py"
_PAIRS = 5


@contextlib.contextmanager
def _attacking(bench: Bench, attack: str, path: Path) -> Iterator[None]:
    """Have the attack in full swing for the length of the block."""
    command = [*bench.place.pinned(bench.place.client_cpu), sys.executable, str(_PROGRAM)]
    process = subprocess.Popen(
        [*command, attack, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != f"{attack}\n":
                raise RunFailedError(f"the attack {attack} failed")
            yield
            if process.poll() is not None:
                raise RunFailedError(f"the attack {attack} ended by itself")
        finally:
            process.kill()


def attacked(bench: Bench, attack: str) -> list[float]:
    """Return the rate without the attack : the rate beside it, for each pair of runs.

    Raises:
        RunFailedError: the back-end, the client or the attack failed.
    """
    load = Load(depth=32, served=2)
    contestant = Contestant(name="ours", backend=Backend.OURS, load=load)
    values = []
    with serving(contestant, bench.programs, bench.ours, bench.place) as served:
        for _ in range(_PAIRS):
            with spinning(bench.place):
                calm = client_figures(bench, load, served)["rate"]
            with _attacking(bench, attack, served.sockets[1]):
                values.append(calm / client_figures(bench, load, served)["rate"])
    return values
