"""What is published follows from the runs, and a run that failed is never a figure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from bench import run as run_module
from bench.check import CheckOutcome
from bench.checks import CHECKS
from bench.errors import RunFailedError
from bench.gate import State, state_of
from bench.judge import chosen_state, figures_of, judge
from bench.model import Run
from bench.report import PICTURES, picture, text
from bench.results import Results
from bench.row import Backend, Bar, Metric
from bench.rows import ROWS
from bench.run import Outcome, Plan, measure_row

if TYPE_CHECKING:
    from pathlib import Path

    from bench.row import Row

_ROW = next(row for row in ROWS if row.name == "null-read-qd1")
_DIRECT = next(row for row in ROWS if row.group == "direct")


def a_run(contestant: str = "ours", rate: float = 1000.0, **others: Any) -> Run:
    values: dict[str, Any] = {
        "contestant": contestant,
        "rate": rate,
        "p50_us": 1e6 / rate,
        "p99_us": 2e6 / rate,
        "client_cpu": 1.0,
        "back_end_cpu": 1.0,
        "before": 80.0,
        "after": 80.0,
        "state": State.NEAR.value,
    }
    return Run(**values | others)


def everyone(row: Row, state: State, count: int, rate: float = 1000.0) -> list[Run]:
    counters = {Metric.BUSY.value: 30.0} if row.metric is Metric.BUSY else {}
    return [
        a_run(each.name, rate, state=state.value, counters=counters)
        for each in row.contestants
        for _ in range(count)
    ]


def all_results() -> Results:
    results = Results(machine={"processor": "a"}, versions={"vhostuser": "1"})
    for row in ROWS:
        runs = everyone(row, State.NEAR, 5)
        results.rows[row.name] = Outcome(row=row, runs=runs)
        results.when[row.name] = "2026-01-01"
    for check in CHECKS:
        results.checks[check.name] = CheckOutcome(check=check, values=((check.most or 0) / 2,))
        results.when[check.name] = "2026-01-01"
    return results


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (80, 160, State.NEAR),
        (80, 171, State.MIXED),
        (260, 400, State.FAR),
        (200, 400, State.MIXED),
        (400, 80, State.MIXED),
    ],
)
def test_a_run_has_the_state_on_which_both_probes_agree(
    before: float, after: float, state: State
) -> None:
    assert state_of(before, after) is state


def test_near_runs_count_when_everyone_has_enough_of_them() -> None:
    runs = everyone(_ROW, State.FAR, 5, rate=1.0) + everyone(_ROW, State.NEAR, 3)
    state = chosen_state(_ROW, runs, 3)
    figures = figures_of(_ROW, runs, state)
    assert state is State.NEAR
    assert figures["ours"].median(Metric.RATE) == 1000
    assert figures["ours"].dropped == 5


def test_far_runs_count_when_somebody_was_hardly_ever_near() -> None:
    runs = everyone(_ROW, State.FAR, 3) + everyone(_ROW, State.NEAR, 2) + [a_run("ours")]
    assert chosen_state(_ROW, runs, 3) is State.FAR


def test_no_state_is_chosen_for_a_disk() -> None:
    assert chosen_state(_DIRECT, everyone(_DIRECT, State.NEAR, 5), 3) is None


def test_a_disturbed_run_never_counts() -> None:
    runs = [*everyone(_DIRECT, State.DISTURBED, 5), a_run("ours", state=State.MIXED.value)]
    figures = figures_of(_DIRECT, runs, None)
    assert list(figures) == ["ours"]
    assert len(figures["ours"].runs) == 1


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (Bar(least=4.0), 4.0, True),
        (Bar(least=4.1), 4.0, False),
        (Bar(over=("peer", "ideal"), least=2.0), 2.0, True),
        (Bar(over=("peer",), most=1.05, cost=True), 0.25, True),
        (Bar(of="peer", over=("ours",), most=1.05, cost=True), 4.0, False),
        (Bar(over=(), most=250.0, metric=Metric.P50), 250.0, True),
    ],
)
def test_a_bar_compares_medians_with_the_best_of_the_others(
    bar: Bar, value: float, *, met: bool
) -> None:
    rates = {"ours": 4000.0, "peer": 1000.0, "ideal": 2000.0}
    runs = [a_run(name, rate * part) for name, rate in rates.items() for part in (0.5, 1, 3)]
    verdict = judge(bar, figures_of(_ROW, runs, State.NEAR))
    assert verdict is not None
    assert verdict.value == pytest.approx(value)
    assert verdict.met is met


def test_a_bar_without_figures_has_no_verdict() -> None:
    assert judge(Bar(least=1.0), figures_of(_ROW, [a_run("ours")], State.NEAR)) is None


def test_a_contestant_that_failed_twice_gets_no_more_turns_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[str] = []

    def measure(_bench: object, contestant: Any) -> Run:
        turns.append(contestant.name)
        if contestant.name == "peer":
            raise RunFailedError("it crashed")
        return a_run(contestant.name)

    monkeypatch.setattr(run_module, "measure", measure)
    outcome = measure_row(lambda _: None, _ROW, Plan(keep=2, rounds=4), lambda _: None)
    assert turns.count("peer") == 2
    assert turns.count("ours") == 4
    assert outcome.failures == ["null-read-qd1, peer: it crashed"] * 2
    assert {run.contestant for run in outcome.runs} == {"ours", "ideal"}


def test_turns_end_as_soon_as_everyone_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "measure", lambda _, contestant: a_run(contestant.name))
    outcome = measure_row(lambda _: None, _ROW, Plan(keep=2, rounds=4), lambda _: None)
    assert [run.contestant for run in outcome.runs] == ["ours", "peer", "ideal"] * 2


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    results = all_results()
    results.save(tmp_path / "figures.json")
    again = Results.load(tmp_path / "figures.json")
    assert dataclasses.asdict(again) == dataclasses.asdict(results)


def test_a_later_measurement_replaces_its_own_rows_only() -> None:
    results = all_results()
    newer = Results(machine=results.machine, versions={})
    newer.rows[_ROW.name] = Outcome(row=_ROW, runs=[])
    newer.when[_ROW.name] = "2026-02-02"
    results.add(newer)
    assert results.rows[_ROW.name].runs == []
    assert len(results.rows) == len(ROWS)
    assert set(results.when.values()) == {"2026-01-01", "2026-02-02"}


def test_figures_of_another_processor_say_so() -> None:
    results, newer = all_results(), Results(machine={"processor": "Z80"}, versions={})
    results.machine = {"processor": "6502"}
    newer.when[_ROW.name] = "2026-02-02"
    results.add(newer)
    assert results.when.pop(_ROW.name) == "2026-02-02"
    assert set(results.when.values()) == {"2026-01-01 on a processor of another kind: 6502"}
    before = dict(results.when)
    results.add(Results(machine={"processor": "68000"}, versions={}))
    assert before.items() <= results.when.items(), "said once"


def test_the_page_holds_every_row_and_says_what_was_missed() -> None:
    page = text(all_results())
    for row in ROWS:
        assert row.title in page
    assert "- `null-read-qd1`: " in page  # everyone is as fast as the peer here, not four times
    assert "- `start`" not in page


def test_a_figure_of_which_nothing_was_promised_is_published_without_a_verdict() -> None:
    check = next(check for check in CHECKS if check.most is None)
    results = all_results()
    results.checks[check.name] = CheckOutcome(check=check, values=(1e9,))
    page = text(results)
    assert f"| {check.title} | 1000000000.00 {check.unit} |" in page
    assert f"- `{check.name}`" not in page


def test_checks_stand_in_the_table_of_their_group() -> None:
    page = text(all_results())
    heads = [page.index(f"| {name} | median") for name in ("control plane", "hand-over", "switch")]
    assert heads == sorted(heads)
    groups = list(dict.fromkeys(check.group for check in CHECKS))
    for check in CHECKS:
        above = [head for head in heads if head < page.index(f"| {check.title} |")]
        assert len(above) == 1 + groups.index(check.group)


def test_what_is_counted_is_named_above_its_column() -> None:
    results = all_results()
    row = next(row for row in ROWS if row.group == "hand-over")
    counted = everyone(row, State.NEAR, 5)
    runs = [dataclasses.replace(run, counters={"doorbells": 31.0}) for run in counted]
    results.rows[row.name] = Outcome(row=row, runs=runs)
    assert "| busy | doorbells | runs |" in text(results)


def test_the_picture_is_xml_with_a_bar_for_each_row_against_the_peer() -> None:
    rows = [row for row in ROWS if {"ours", "peer"} <= {each.name for each in row.contestants}]
    drawn = [picture(all_results(), peer) for peer in PICTURES.values()]
    trees = [ET.fromstring(each or "") for each in drawn]  # noqa: S314 - our own text
    rectangles = [tree.findall("{http://www.w3.org/2000/svg}rect") for tree in trees]
    assert min(map(len, rectangles)) > 0
    assert sum(map(len, rectangles)) == len(rows)


def test_a_peer_that_was_not_measured_has_no_picture() -> None:
    results = all_results()
    for row in ROWS:
        if row.group.startswith("net"):
            del results.rows[row.name]
    assert picture(results, Backend.DPDK) is None
    assert "benchmarks.svg" in text(results)
    assert "benchmarks-net.svg" not in text(results)


def test_what_each_of_many_adds_is_a_difference_in_nanoseconds() -> None:
    row = next(row for row in ROWS if row.name == "net-idle-ports-split")
    (bar,) = row.bars
    p50 = {bar.of: 0.36, **dict.fromkeys(bar.over, 0.23)}
    runs = [a_run(name, p50_us=us) for name, us in p50.items() for _ in range(3)]
    verdict = judge(bar, figures_of(row, runs, State.NEAR))
    assert verdict is not None
    assert verdict.value == pytest.approx(130 / 62)
    assert verdict.met is True


def test_names_of_rows_and_checks_are_unique() -> None:
    names = [row.name for row in ROWS] + [check.name for check in CHECKS]
    assert len(names) == len(set(names))


def test_bars_speak_of_contestants_of_their_row() -> None:
    for row in ROWS:
        names = {each.name for each in row.contestants}
        for bar in row.bars:
            assert {bar.of, *bar.over} <= names
            assert (bar.least is None) != (bar.most is None)
