"""`make bench`: measures everything, or a part, and writes the page that publishes it."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING

from .check import run_check
from .checks import CHECKS
from .errors import BenchError
from .images import settle
from .judge import chosen_state, figures_of
from .machine import machine, versions
from .programs import ROOT
from .report import ENOUGH, PICTURES, picture, text
from .results import Results
from .rows import ROWS
from .run import Plan, measure_row
from .setting import rows_named, say, set_up, warm_image

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .check import Check
    from .model import Bench
    from .programs import Programs
    from .row import Row
    from .run import Outcome

__all__ = ["full", "publish", "saved"]

_DOCS = ROOT / "docs"
_FIGURES = _DOCS / "benchmarks.json"
_KEEP = 5
_ROUNDS = 10
_QUICK_SECONDS = 0.2
_LONG_MINUTES = 35.0
"""After so long, rows get no more turns than are wanted."""


def saved() -> Results:
    """Return what was measured last.

    Raises:
        BenchError: nothing was yet.
    """
    if not _FIGURES.is_file():
        raise BenchError("there are no figures yet; run `make bench`")
    return Results.load(_FIGURES)


def publish(results: Results) -> None:
    """Write the page and its pictures."""
    (_DOCS / "benchmarks.md").write_text(text(results))
    for name, peer in PICTURES.items():
        drawn = picture(results, peer)
        if drawn is not None:
            (_DOCS / name).write_text(drawn)


def full(arguments: argparse.Namespace, programs: Programs) -> int:
    """Measure what the command line names; return the exit status.

    The page is written when everything was measured, or when a part of it was to be renewed, and
    only when no run failed.
    """
    names = [name for name in arguments.only.split(",") if name]
    rows = rows_named([n for n in names if _is_for_rows(n)]) if names else list(ROWS)
    checks = [check for check in CHECKS if not names or {check.group, check.name} & set(names)]
    results = Results(machine=machine(arguments.disk), versions=versions(programs))
    say(f"bench: {len(rows)} workloads and {len(checks)} checks")
    with set_up(programs, rows, disk=arguments.disk, wait=True) as bench:
        _measure_rows(bench, rows, results, quick=arguments.quick)
        _measure_checks(bench, checks, results)
    for failure in results.failures:
        say(f"FAILED {failure}")
    _tell_promises(results)
    if results.failures:
        say("bench: runs failed, nothing is written")
        return 1
    if arguments.quick or (names and not arguments.update):
        say("bench: a quick look or a part of it, docs/benchmarks.md stays as it was")
        return 0
    if names and _FIGURES.is_file():
        older = saved()
        older.add(results)
        results = older
    results.save(_FIGURES)
    publish(results)
    say("bench: wrote docs/benchmarks.md, its pictures and benchmarks.json")
    return 0


def _is_for_rows(name: str) -> bool:
    """Whether a name asks for rows; a group may have both, rows and checks."""
    of_checks = {name for check in CHECKS for name in (check.group, check.name)}
    return name not in of_checks or any(name == row.group for row in ROWS)


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def _measure_rows(bench: Bench, rows: Sequence[Row], results: Results, *, quick: bool) -> None:
    begin = time.monotonic()
    if quick:
        bench = bench.measuring(_QUICK_SECONDS)
    for number, row in enumerate(rows, 1):
        minutes = (time.monotonic() - begin) / 60
        say(f"{number}/{len(rows)} {row.title} ({minutes:.1f} min)")
        image = warm_image(bench, row)
        if quick:
            plan = Plan(keep=1, rounds=1, every=True)
        else:
            keep = row.keep or _KEEP
            rounds = keep * (_ROUNDS // _KEEP) if minutes < _LONG_MINUTES else keep
            plan = Plan(keep=keep, rounds=rounds)
        outcome = measure_row(lambda _: bench, row, plan, say)
        if not quick:
            outcome.failures += _without_figures(row, outcome)
        results.rows[row.name] = outcome
        results.when[row.name] = _today()
        if image is not None:
            settle(image)


def _without_figures(row: Row, outcome: Outcome) -> list[str]:
    """Name the contestants none of whose runs counts."""
    figures = figures_of(row, outcome.runs, chosen_state(row, outcome.runs, ENOUGH))
    return [
        f"{row.name}, {each.name}: every run failed or was disturbed; is the machine busy?"
        for each in row.contestants
        if each.name not in figures
    ]


def _measure_checks(bench: Bench, checks: Sequence[Check], results: Results) -> None:
    for check in checks:
        outcome = run_check(bench, check)
        results.checks[check.name] = outcome
        results.when[check.name] = _today()
        told = f"{outcome.median:.2f} {check.unit}" if outcome.values else outcome.failure
        say(f"{check.title}: {told}")


def _tell_promises(results: Results) -> None:
    """Print the part of the page that says what was promised."""
    page = text(results)
    say(page[page.index("## What was promised") : page.index("## How it was measured")])
