"""A quick look at some rows, for tuning: prints, writes nothing.

Several back-ends of ours can be measured in turns, each from a built checkout or by a command.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .judge import chosen_state, figures_of, judge
from .row import Backend
from .run import Plan, measure_row
from .serve import Ours
from .setting import rows_named, say, set_up, warm_image

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .model import Bench
    from .programs import Programs
    from .row import Contestant, Row
    from .run import Outcome

__all__ = ["look"]


def look(arguments: argparse.Namespace, programs: Programs) -> int:
    """Measure the rows that the command line names; return the exit status."""
    ours = _ours(arguments)
    only = set(filter(None, arguments.only.split(",")))
    rows = [_with_each_of_ours(row, list(ours), only) for row in rows_named(arguments.rows)]
    gated = not arguments.no_gate
    plan = Plan(keep=arguments.keep, rounds=2 * arguments.keep, every=not gated)
    failed = 0
    with set_up(programs, rows, disk=arguments.disk, wait=gated, fifo=arguments.fifo) as bench:
        benches = {
            name: replace(bench, ours=each, seconds=arguments.seconds)
            for name, each in ours.items()
        }

        def bench_of(contestant: Contestant) -> Bench:
            found = (each for name, each in benches.items() if contestant.name.endswith(name))
            return next(found, benches[next(iter(ours))])

        for row in rows:
            warm_image(bench, row)
            outcome = measure_row(
                bench_of,
                row if gated else replace(row, gated=False),
                plan,
                say if arguments.verbose else lambda _: None,
            )
            failed += len(outcome.failures)
            _print(outcome, plan.keep)
    return 1 if failed else 0


def _ours(arguments: argparse.Namespace) -> dict[str, Ours]:
    """Return the back-ends of ours that are to be measured, by name."""
    options = tuple(shlex.split(arguments.options))
    found = {
        tree: Ours(folder=Path(tree).resolve(), options=options) for tree in arguments.tree or ()
    }
    for command in arguments.backend or ():
        found[command] = Ours(command=tuple(shlex.split(command)), options=options)
    return found or {"ours": Ours(options=options)}


def _with_each_of_ours(row: Row, names: Sequence[str], only: set[str]) -> Row:
    """Give every back-end of ours a place of its own in a row, and drop who is not wanted."""
    contestants: list[Contestant] = []
    for each in row.contestants:
        if only and not only & {each.name, each.backend.name.lower()}:
            continue
        if each.backend is Backend.OURS and len(names) > 1:
            contestants += [replace(each, name=f"{each.name} {name}") for name in names]
        else:
            contestants.append(each)
    return replace(row, contestants=tuple(contestants))


def _print(outcome: Outcome, keep: int) -> None:
    row = outcome.row
    state = chosen_state(row, outcome.runs, keep)
    figures = figures_of(row, outcome.runs, state)
    told = state.value if state else "all runs; no state has enough" if row.gated else "all runs"
    say(f"{row.name} ({told})")
    for failure in outcome.failures:
        say(f"  FAILED {failure}")
    for each in row.contestants:
        if each.name not in figures:
            say(f"  {each.name:28} no run that counts: failed, disturbed or in another state")
    for name, found in figures.items():
        low, high = found.extremes(row.metric)
        say(
            f"  {name:28} median {found.median(row.metric):14,.2f}  "
            f"{low:14,.2f} to {high:14,.2f}  kept {len(found.runs)} dropped {found.dropped}"
        )
    for bar in row.bars:
        verdict = judge(bar, figures)
        if verdict is not None:
            limit = f">= {bar.least}" if bar.least is not None else f"<= {bar.most}"
            kept = "kept" if verdict.met else "MISSED"
            say(f"  {bar.of} / {verdict.against or '-'}: {verdict.value:.3f} ({limit}) {kept}")
