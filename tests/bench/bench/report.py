"""Writes docs/benchmarks.md and its picture from results; it measures nothing."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .check import PLANE
from .checks import CHECKS
from .gate import State
from .judge import chosen_state, figures_of, judge
from .prose import INTRODUCTION, METHOD
from .row import Backend, Metric
from .rows import ROWS
from .svg import Line, draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .judge import Figures, Verdict
    from .results import Results
    from .row import Bar, Row
    from .run import Outcome

__all__ = ["ENOUGH", "PICTURES", "picture", "text"]

PICTURES = {"benchmarks.svg": Backend.PEER, "benchmarks-net.svg": Backend.DPDK}
"""Files, and whom ours is compared with there."""

ENOUGH = 3
"""Runs of each contestant in one state that make figures of it; five are wanted."""

_NOTES = Path(__file__).resolve().parents[1] / "notes.toml"

_GROUPS = {PLANE: "control plane", "hand-over": "hand-over", "switch": "switch"}
"""What the groups of checks are about."""

_KINDS = {Metric.RATE: "", Metric.P50: ", latency", Metric.BUSY: ", processor time"}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rate(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def _value(value: float, metric: Metric) -> str:
    if metric is Metric.RATE:
        return f"{_rate(value)}/s"
    return f"{value:.2f} µs" if metric is Metric.P50 else f"{value:.1f} ns busy"


def _figures(outcome: Outcome) -> tuple[State | None, dict[str, Figures]]:
    state = chosen_state(outcome.row, outcome.runs, ENOUGH)
    return state, figures_of(outcome.row, outcome.runs, state)


def _verdicts(results: Results) -> Iterator[tuple[Row, dict[str, Figures], Verdict]]:
    for row in ROWS:
        if row.name in results.rows:
            _, figures = _figures(results.rows[row.name])
            for bar in row.bars:
                verdict = judge(bar, figures)
                if verdict is not None:
                    yield row, figures, verdict


def _limit(bar: Bar) -> str:
    return f"≥ {bar.least:g}" if bar.least is not None else f"≤ {bar.most:g}"


def _met(*, met: bool) -> str:
    return "yes" if met else "**no**"


def _promise_row(row: Row, figures: dict[str, Figures], verdict: Verdict) -> Sequence[str]:
    bar = verdict.bar
    ours = _value(figures[bar.of].median(bar.metric), bar.metric)
    if not verdict.against:
        ratio, spread, against = "", "", ""
    else:
        theirs = _value(figures[verdict.against].median(bar.metric), bar.metric)
        against = f"{verdict.against}: {theirs}"
        kind = f" ns, each of {bar.each}" if bar.each else " cost" if bar.cost else ""
        ratio = f"{verdict.value:.2f}{kind}"
        spread = f"{verdict.worst:.2f} to {verdict.best:.2f}"
    who = ours if bar.of == "ours" else f"{bar.of}: {ours}"
    return row.title, who, against, ratio, spread, _limit(bar), _met(met=verdict.met)


def _promises(results: Results) -> Iterator[str]:
    yield "## What was promised\n"
    head = ("workload", "ours", "compared with", "ratio", "worst to best", "promised", "kept")
    yield _table(head, (_promise_row(*found) for found in _verdicts(results)))
    for group in dict.fromkeys(check.group for check in CHECKS):
        found = list(_check_rows(results, group))
        if found:
            columns = (_GROUPS[group], "median", "smallest to largest", "promised", "kept")
            yield _table(columns, found)


def _check_rows(results: Results, group: str) -> Iterator[Sequence[str]]:
    for check in CHECKS:
        outcome = results.checks.get(check.name)
        if check.group == group and outcome is not None and outcome.values:
            promised = check.most is not None
            yield (
                check.title,
                f"{outcome.median:.2f} {check.unit}",
                f"{min(outcome.values):.2f} to {max(outcome.values):.2f}",
                f"≤ {check.most:g} {check.unit}" if promised else "",
                _met(met=outcome.met) if promised else "",
            )


def _missed(results: Results) -> Iterator[str]:
    rows = [row.name for row, _, verdict in _verdicts(results) if not verdict.met]
    checks = [o.check.name for o in results.checks.values() if o.values and not o.met]
    names = list(dict.fromkeys([*rows, *checks]))
    if not names:
        return
    notes = tomllib.loads(_NOTES.read_text()) if _NOTES.is_file() else {}
    yield "## What was missed, and why\n"
    for name in names:
        yield f"- `{name}`: {notes.get(name, 'not explained yet.').strip()}"
    yield ""


def _group_tables(results: Results) -> Iterator[str]:
    yield "## All figures\n"
    yield (
        "Requests or frames per second (smallest to largest), latency, processors kept busy by "
        "client and back-end, and what a thousand requests took: kicks that our back-end received, "
        "calls that it sent, times that a thread of it slept, setting up included; or what the "
        "column says.\n"
    )
    for group in dict.fromkeys(row.group for row in ROWS):
        found = [
            results.rows[row.name] for row in ROWS if row.group == group if row.name in results.rows
        ]
        if found:
            yield f"### {group}\n"
            yield _table(_head(found), (line for outcome in found for line in _lines(outcome)))


def _head(outcomes: Sequence[Outcome]) -> Sequence[str]:
    """Name the columns; what is counted in a thousand requests depends on who is measured."""
    counters = next((run.counters for o in outcomes for run in o.runs if run.counters), {})
    is_net = any(each.load.net is not None for o in outcomes for each in o.row.contestants)
    rate, named = "frames/s" if is_net else "requests/s", ", ".join(counters)
    return ("workload", "who", rate, "p50, p99", "busy", named, "runs", "state")


def _lines(outcome: Outcome) -> Iterator[Sequence[str]]:
    state, figures = _figures(outcome)
    title = outcome.row.title
    for name, found in figures.items():
        low, high = found.extremes(Metric.RATE)
        p50, p99 = found.latency()
        client, back_end = found.cpus()
        counters = found.counters()
        costs = ", ".join(f"{value:.2g}" for value in counters.values())
        yield (
            title,
            name,
            f"{_rate(found.median(Metric.RATE))} ({_rate(low)} to {_rate(high)})",
            f"{p50:.2f}, {p99:.2f} µs",
            f"{client:.2f}, {back_end:.2f}",
            costs,
            f"{len(found.runs)}" + (f" ({found.dropped} dropped)" if found.dropped else ""),
            _state(outcome, state),
        )
        title = ""


def _state(outcome: Outcome, state: State | None) -> str:
    if state is not None:
        return state.value
    return "changing" if outcome.row.gated else "any"


def _machine(results: Results) -> Iterator[str]:
    yield "## Machine and versions\n"
    yield _table(("what", "value"), [*results.machine.items(), *results.versions.items()])
    whens = Counter(results.when.values())
    told = [f"{count} rows and checks {when}" for when, count in sorted(whens.items())]
    yield f"Measured: {'; '.join(told)}.\n"
    states = Counter(run.state for outcome in results.rows.values() for run in outcome.runs)
    kept = Counter[str]()
    for outcome in results.rows.values():
        _, figures = _figures(outcome)
        kept.update(run.state for found in figures.values() for run in found.runs)
    told = [f"{states[s.value]} {s.value} ({kept[s.value]} of them count)" for s in State]
    yield f"All runs by state of the machine: {', '.join(told)}.\n"


def _pictures(results: Results) -> Iterator[str]:
    for name, peer in PICTURES.items():
        if picture(results, peer) is not None:
            yield f"![How many times faster than {peer.value}]({name})\n"


def text(results: Results) -> str:
    """Return the page."""
    parts = [
        INTRODUCTION,
        *_pictures(results),
        *_promises(results),
        *_missed(results),
        METHOD,
        *_machine(results),
        *_group_tables(results),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _ratio(figures: dict[str, Figures], of: str, over: str, metric: Metric) -> tuple[float, ...]:
    """Return how many times better `of` is than `over`: by medians, at worst, at best."""
    value = figures[of].median(metric) / figures[over].median(metric)
    low, high = figures[of].extremes(metric)
    their_low, their_high = figures[over].extremes(metric)
    if metric is Metric.RATE:
        return value, low / their_high, high / their_low
    return 1 / value, their_low / high, their_high / low


def _peers(row: Row, figures: dict[str, Figures], backend: Backend) -> list[str]:
    return [
        each.name for each in row.contestants if each.backend is backend and each.name in figures
    ]


def _chart_line(
    row: Row, figures: dict[str, Figures], peers: Sequence[str], *, met: bool | None
) -> Line:
    peer = max(peers, key=lambda name: figures[name].median(Metric.RATE))
    value, low, high = _ratio(figures, "ours", peer, row.metric)
    ideal = None
    if "ideal" in figures:
        ideal = _ratio(figures, "ideal", peer, row.metric)[0]
    promise = next((bar.least for bar in row.bars if "peer" in bar.over), None)
    label = row.title + _KINDS[row.metric]
    return Line(label=label, value=value, low=low, high=high, promise=promise, ideal=ideal, met=met)


def picture(results: Results, peer: Backend) -> str | None:
    """Return the SVG: ours against a peer, workload by workload; None: they were not measured."""
    met: dict[str, bool] = {}
    for row, _, verdict in _verdicts(results):
        met[row.name] = met.get(row.name, True) and verdict.met
    lines = []
    for row in ROWS:
        if row.name in results.rows:
            _, figures = _figures(results.rows[row.name])
            peers = _peers(row, figures, peer)
            if peers and "ours" in figures:
                lines.append(_chart_line(row, figures, peers, met=met.get(row.name)))
    if not lines:
        return None
    explanation = "Ratios of medians. Green: every promise kept; red: not; blue: nothing promised."
    return draw(f"How many times faster than {peer.value}", explanation, lines)
