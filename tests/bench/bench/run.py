"""Measures rows: contestants in turns, until each has enough runs in one state of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .errors import RunFailedError
from .gate import State
from .judge import chosen_state, figures_of
from .measure import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .model import Bench, Run
    from .row import Contestant, Row

__all__ = ["Outcome", "Plan", "measure_row"]


_MOST_FAILURES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        keep: runs of each contestant that are wanted in one state.
        rounds: how many turns everyone gets at most.
        every: whether every run counts, whatever the state.
    """

    keep: int
    rounds: int
    every: bool = False


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What measuring a row gave.

    Attributes:
        row: which.
        runs: all of them, in order.
        failures: runs that failed, in words.
    """

    row: Row
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measure_row(
    bench_of: Callable[[Contestant], Bench], row: Row, plan: Plan, say: Callable[[str], None]
) -> Outcome:
    """Measure a row.

    Args:
        bench_of: with what to measure a contestant.
        row: what.
        plan: how much.
        say: told of every run.

    Returns:
        All runs. A contestant that failed twice gets no more turns.
    """
    outcome = Outcome(row=row)
    failed: dict[str, int] = {}
    for turn in range(plan.rounds):
        for contestant in row.contestants:
            if failed.get(contestant.name, 0) >= _MOST_FAILURES:
                continue
            try:
                run = measure(bench_of(contestant), contestant)
            except RunFailedError as error:
                failed[contestant.name] = failed.get(contestant.name, 0) + 1
                outcome.failures.append(f"{row.name}, {contestant.name}: {error}")
                say(f"  FAILED {contestant.name}: {error}")
                continue
            say(_line(run))
            outcome.runs.append(replace(run, state=State.MIXED.value) if plan.every else run)
        if turn + 1 >= plan.keep and (plan.every or _enough(row, outcome.runs, plan.keep)):
            break
    return outcome


def _enough(row: Row, runs: Sequence[Run], keep: int) -> bool:
    if row.gated:
        return chosen_state(row, runs, keep) is not None
    figures = figures_of(row, runs, None)
    return all(
        each.name in figures and len(figures[each.name].runs) >= keep for each in row.contestants
    )


def _line(run: Run) -> str:
    counters = "".join(f"  {name} {value:g}" for name, value in run.counters.items())
    return (
        f"  {run.contestant:18} {run.rate:12,.0f}/s  p50 {run.p50_us:9.2f} us  "
        f"cpu {run.client_cpu:.2f} {run.back_end_cpu:.2f}  "
        f"{run.before:.0f}/{run.after:.0f} ns {run.state}{counters}"
    )
