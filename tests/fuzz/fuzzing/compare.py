"""Feeds the traces of the device target to the oracle while the target runs.

The target goes through its corpus and then on to mutations of it, as always; the pipe makes it
wait for the oracle, which is slower by far.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .campaign import ASAN_OPTIONS
from .oracle import Comparison, DifferenceError
from .trace import Start, read_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .build import Workplace
    from .trace import Record

__all__ = ["Compared", "compare", "compare_file"]

_TARGET = "device"
_BUFFER = 1 << 20
_LONGEST_INPUT = 1024


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared: ring states, inputs, and inputs whose ring both sides refused."""

    states: int
    inputs: int
    refused: int

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            self.states + other.states,
            self.inputs + other.inputs,
            self.refused + other.refused,
        )


class _Remembering:
    """Records as they come, and the input that they belong to."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records
        self.input = b""

    def __iter__(self) -> Iterator[Record]:
        for record in self._records:
            if isinstance(record, Start):
                self.input = record.input
            yield record


def _play(place: Workplace, arguments: list[str], limit: int) -> Compared:
    """Run the target and compare what it traces, up to `limit` states."""
    comparison = Comparison()
    ours, theirs = os.pipe()
    environment = dict(os.environ, VHU_FUZZ_TRACE=f"/dev/fd/{theirs}", ASAN_OPTIONS=ASAN_OPTIONS)
    with tempfile.TemporaryFile() as log, os.fdopen(ours, "rb", _BUFFER) as stream:
        command = [str(place.programs / _TARGET), *arguments]
        process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs], stdout=log, stderr=log
        )
        os.close(theirs)
        records = _Remembering(read_trace(stream))
        try:
            comparison.play(records, limit)
        except DifferenceError as error:
            digest = hashlib.sha256(records.input).hexdigest()[:16]
            path = place.findings / f"{_TARGET}-difference-{digest}"
            path.write_bytes(records.input)
            raise DifferenceError(
                f"{error}; see it again: python -m fuzzing replay {path}"
            ) from error
        finally:
            enough = comparison.states >= limit or sys.exc_info()[0] is not None
            if enough:
                process.kill()  # it has no end of its own
            status = process.wait()
        if status and not enough:
            log.seek(0)
            raise DifferenceError(f"the target failed:\n{log.read().decode(errors='replace')}")
    return Compared(comparison.states, comparison.inputs, comparison.refused)


def _job(place: Workplace, limit: int, seed: int) -> Compared:
    with tempfile.TemporaryDirectory() as new:
        corpus = place.corpora / _TARGET
        arguments = [
            f"-seed={seed}",
            f"-max_len={_LONGEST_INPUT}",
            f"-artifact_prefix={place.findings}/{_TARGET}-",
            new,
            *map(str, place.inputs(_TARGET)),
            *([str(corpus)] if corpus.is_dir() else []),
        ]
        return _play(place, arguments, limit)


def compare(place: Workplace, *, states: int, jobs: int, seed: int) -> Compared:
    """Compare engine and oracle on inputs of the corpus and mutations of them.

    Args:
        place: where targets and corpora lie; the corpora stay as they are.
        states: how many ring states to compare, at least.
        jobs: how many to run side by side.
        seed: of the first job's mutations; the others count on from there.

    Raises:
        DifferenceError: engine and oracle are not the same, or the target failed.
    """
    share = -(-states // jobs)
    with ProcessPoolExecutor(jobs) as pool:
        started = [pool.submit(_job, place, share, seed + job) for job in range(jobs)]
        return sum((job.result() for job in started), Compared(0, 0, 0))


def compare_file(place: Workplace, path: Path) -> Compared:
    """Compare on one input.

    Raises:
        DifferenceError: as `compare` does.
    """
    return _play(place, [str(path)], sys.maxsize)
