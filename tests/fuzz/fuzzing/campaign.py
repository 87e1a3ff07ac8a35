"""Runs fuzz targets side by side for a while, on shared corpora, and sums up their figures.

The first finding ends it. A long campaign is a number of such rounds, so that an interrupted one
has lost no more than a round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .build import RING_TARGETS
from .figures import Figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .build import Workplace

__all__ = [
    "ASAN_OPTIONS",
    "FindingError",
    "Turn",
    "quick",
    "ring_states",
    "run",
    "say",
    "total",
]

ASAN_OPTIONS = "quarantine_size_mb=16:detect_stack_use_after_return=1"
_LONGEST_INPUT = 1024
_INPUT_SECONDS = 10


class FindingError(Exception):
    """A target found something; the text says how to see it again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A target and the seconds that it runs."""

    target: str
    seconds: int


class _Lane:
    """Turns that are run one after the other, until one finds something or all shall stop."""

    def __init__(self, place: Workplace, number: int, turns: Sequence[Turn]) -> None:
        self._place = place
        self._number = number
        self._turns = turns
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def run(self) -> dict[str, Figures]:
        figures: list[dict[str, Figures]] = []
        for turn in self._turns:
            with self._lock:
                if self._stopped.is_set():
                    break
                self._process = process = self._start(turn)
            status = process.wait()
            if self._stopped.is_set():
                break
            if status:
                raise FindingError(self._describe(turn, status))
            figures.append({turn.target: Figures.read(self._states(turn))})
            self._states(turn).unlink()
        return total(figures)

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._process is not None:
                self._process.kill()

    def _states(self, turn: Turn) -> Path:
        return self._place.findings / f"{turn.target}-{self._number}.states"

    def _log(self, turn: Turn) -> Path:
        return self._place.findings / f"{turn.target}-{self._number}.log"

    def _start(self, turn: Turn) -> subprocess.Popen[bytes]:
        place = self._place
        corpus = place.corpora / turn.target
        corpus.mkdir(parents=True, exist_ok=True)
        states = str(self._states(turn))
        environment = dict(os.environ, VHU_FUZZ_STATES=states, ASAN_OPTIONS=ASAN_OPTIONS)
        environment.pop("VHU_FUZZ_TRACE", None)
        command = [
            str(place.programs / turn.target),
            f"-max_total_time={turn.seconds}",
            f"-max_len={_LONGEST_INPUT}",
            f"-timeout={_INPUT_SECONDS}",
            f"-artifact_prefix={place.findings}/{turn.target}-",
            str(corpus),
            *map(str, place.inputs(turn.target)),
        ]
        with self._log(turn).open("wb") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _describe(self, turn: Turn, status: int) -> str:
        log = self._log(turn)
        lines = log.read_text(errors="replace").splitlines()
        told = [line for line in lines if "SUMMARY" in line or "does not hold" in line]
        kept = [line.split()[-1] for line in lines if "Test unit written to" in line]
        again = "".join(f"; see it again: python -m fuzzing replay {path}" for path in kept)
        what = "; ".join(told) or f"status {status}"
        return f"{turn.target}: {what}{again} (log: {log})"


def run(place: Workplace, jobs: Sequence[Sequence[Turn]]) -> dict[str, Figures]:
    """Run jobs side by side, the turns of each one after the other.

    Args:
        place: where targets and corpora lie.
        jobs: the turns of each.

    Returns:
        The figures of each target.

    Raises:
        FindingError: a target stopped by itself; the others were stopped then.
    """
    lanes = [_Lane(place, number, turns) for number, turns in enumerate(jobs)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        started = [pool.submit(lane.run) for lane in lanes]
        try:
            wait(started, return_when=FIRST_EXCEPTION)
        finally:
            for lane in lanes:
                lane.stop()
        return total(done.result() for done in started)


def quick(seconds: int) -> list[list[Turn]]:
    """Return two jobs of so many seconds that run every target."""
    shares = {"driver": 0.4, "memory": 0.1, "blk": 0.2, "offload": 0.2}
    others = [Turn(target, max(1, round(seconds * share))) for target, share in shares.items()]
    rest = seconds - sum(turn.seconds for turn in others)
    if rest > 0:
        others.append(Turn("device", rest))
    switch = max(1, round(seconds * 0.4))
    return [[Turn("device", max(1, seconds - switch)), Turn("net", switch)], others]


def say(figures: dict[str, Figures]) -> None:
    """Print figures, one line for each target."""
    for target, some in sorted(figures.items()):
        counted = f", {some.states:,} states, about {some.distinct:,} of them different"
        counted = counted if some.states else ""
        sys.stdout.write(f"fuzz: {target}: {some.inputs:,} inputs{counted}\n")
    sys.stdout.flush()


def ring_states(figures: dict[str, Figures]) -> int:
    """Return how many ring states there are in figures."""
    return sum(figures[target].states for target in RING_TARGETS if target in figures)


def total(parts: Iterable[dict[str, Figures]]) -> dict[str, Figures]:
    """Add figures up, target by target."""
    whole: dict[str, Figures] = {}
    for part in parts:
        for target, some in part.items():
            whole[target] = whole.get(target, Figures()) + some
    return whole
