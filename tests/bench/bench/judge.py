"""From runs to figures: which runs count, their medians, and whether the bars are met."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .gate import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Run
    from .row import Bar, Metric, Row

__all__ = ["Figures", "Verdict", "chosen_state", "figures_of", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A contestant's runs that count.

    Attributes:
        runs: those that count.
        dropped: how many do not.
    """

    runs: tuple[Run, ...]
    dropped: int

    def median(self, metric: Metric) -> float:
        """Return the median of a figure."""
        return statistics.median(run.value(metric) for run in self.runs)

    def extremes(self, metric: Metric) -> tuple[float, float]:
        """Return the smallest and the largest of a figure."""
        values = [run.value(metric) for run in self.runs]
        return min(values), max(values)

    def latency(self) -> tuple[float, float]:
        """Return the medians of p50 and p99, in microseconds."""
        p50 = statistics.median(run.p50_us for run in self.runs)
        return p50, statistics.median(run.p99_us for run in self.runs)

    def cpus(self) -> tuple[float, float]:
        """Return the medians of how busy the client and the back-end were."""
        client = statistics.median(run.client_cpu for run in self.runs)
        return client, statistics.median(run.back_end_cpu for run in self.runs)

    def counters(self) -> dict[str, float]:
        """Return the medians of our rings' counters for each thousand requests."""
        names = self.runs[0].counters
        return {name: statistics.median(run.counters[name] for run in self.runs) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a bar went.

    Attributes:
        bar: the promise.
        value: the ratio of medians, or the median.
        worst, best: the same with the extremes of the runs that count, to and against its favour.
        met: whether it is kept.
        against: which contestant it was compared with, if any.
    """

    bar: Bar
    value: float
    worst: float
    best: float
    met: bool
    against: str


def chosen_state(row: Row, runs: Sequence[Run], enough: int) -> State | None:
    """Return the state whose runs count: near if there are `enough` of everyone, else far.

    None: all that were not disturbed count, because the row needs no gate or no state has enough.
    """
    if not row.gated:
        return None
    for state in (State.NEAR, State.FAR):
        counts = [
            sum(run.contestant == each.name and run.state == state.value for run in runs)
            for each in row.contestants
        ]
        if min(counts) >= enough:
            return state
    return None


def figures_of(row: Row, runs: Sequence[Run], state: State | None) -> dict[str, Figures]:
    """Return each contestant's figures from the runs in one state, or in any but disturbed ones."""
    figures = {}
    for each in row.contestants:
        own = [run for run in runs if run.contestant == each.name]
        kept = tuple(run for run in own if _counts(run, state))
        if kept:
            figures[each.name] = Figures(runs=kept, dropped=len(own) - len(kept))
    return figures


def _counts(run: Run, state: State | None) -> bool:
    if state is None:
        return run.state != State.DISTURBED.value
    return run.state == state.value


def judge(bar: Bar, figures: dict[str, Figures]) -> Verdict | None:
    """Hold a bar against figures; None where a contestant has none."""
    if any(name not in figures for name in (bar.of, *bar.over)):
        return None
    ours = figures[bar.of]
    low, high = ours.extremes(bar.metric)
    if not bar.over:
        return _verdict(bar, ours.median(bar.metric), low, high, "")
    against = max(bar.over, key=lambda name: figures[name].median(bar.metric))
    theirs = figures[against]
    their_low, their_high = theirs.extremes(bar.metric)
    if bar.each:
        ns = 1000 / bar.each
        value = ns * (ours.median(bar.metric) - theirs.median(bar.metric))
        return _verdict(bar, value, ns * (low - their_high), ns * (high - their_low), against)
    if bar.cost:  # time for each request: theirs is the larger rate
        value = theirs.median(bar.metric) / ours.median(bar.metric)
        return _verdict(bar, value, their_low / high, their_high / low, against)
    value = ours.median(bar.metric) / theirs.median(bar.metric)
    return _verdict(bar, value, low / their_high, high / their_low, against)


def _verdict(bar: Bar, value: float, low: float, high: float, against: str) -> Verdict:
    met = (bar.least is None or value >= bar.least) and (bar.most is None or value <= bar.most)
    worst, best = (low, high) if bar.most is None else (high, low)
    return Verdict(bar=bar, value=value, worst=worst, best=best, met=met, against=against)
