"""A share of what `make fuzz` and `make fuzz-compare` do, and that a difference would be seen."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fuzzing.build import TARGETS, Workplace, build
from fuzzing.campaign import quick, run
from fuzzing.compare import compare
from fuzzing.figures import Figures
from fuzzing.oracle import Comparison, DifferenceError
from fuzzing.trace import Call, Record, Write, read_trace
from parts.require import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(400)  # compiling counts, and a minute of fuzzing

QUICK_SECONDS = 60
COMPARED_STATES = 30_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    built = build(require("clang") / "clang")
    return replace(built, corpora=tmp_path_factory.mktemp("corpora"))


def test_a_minute_of_fuzzing_finds_nothing(place: Workplace) -> None:
    figures = run(place, quick(QUICK_SECONDS))
    assert set(figures) == set(TARGETS)
    assert all(some.inputs > 1000 for some in figures.values())
    assert figures["device"].states > 10_000
    assert figures["driver"].states > 10_000


def test_the_engine_does_what_the_pure_python_ring_does(place: Workplace) -> None:
    done = compare(place, states=COMPARED_STATES, jobs=1, seed=1)
    assert done.states >= COMPARED_STATES
    assert done.refused > 0


@pytest.fixture(scope="module")
def records(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What the seeds make the engine do."""
    trace = tmp_path_factory.mktemp("trace") / "trace"
    folders = map(str, place.inputs("device"))
    subprocess.run(
        [str(place.programs / "device"), "-runs=0", *folders],
        env=dict(os.environ, VHU_FUZZ_TRACE=str(trace)),
        capture_output=True,
        check=True,
    )
    with trace.open("rb") as stream:
        return list(read_trace(stream))


def other_memory(call: Call) -> Call:
    offset = call.changes[0].offset if call.changes else 0
    old = call.changes[0].data if call.changes else bytes(8)
    return replace(call, changes=(Write(offset, bytes(byte ^ 1 for byte in old)),))


def other_chain(call: Call) -> Call:
    assert call.chain is not None
    return replace(call, chain=replace(call.chain, id=call.chain.id + 1))


@pytest.mark.parametrize(
    ("is_one", "spoil"),
    [
        (lambda call: call.kind == "b", lambda call: replace(call, result=1 - call.result)),
        (lambda call: call.kind == "k", lambda call: replace(call, result=1 - call.result)),
        (lambda call: call.kind == "p", lambda call: replace(call, result=-1)),
        (lambda call: call.fault and not call.chain, lambda call: replace(call, value=1 << 40)),
        (lambda call: call.chain, other_chain),
        (lambda call: call.kind == "u" and not call.result, other_memory),
        (
            lambda call: call.kind == "m",
            lambda call: replace(call, state=replace(call.state, avail=call.state.avail ^ 1)),
        ),
    ],
    ids=["publish", "kick enable", "pop", "fault value", "chain", "memory", "position"],
)
def test_an_engine_that_did_otherwise_is_noticed(
    records: list[Record], is_one: Callable[[Call], bool], spoil: Callable[[Call], Call]
) -> None:
    Comparison().play(records, limit=1 << 60)
    at = next(
        at for at, record in enumerate(records) if isinstance(record, Call) and is_one(record)
    )
    call = records[at]
    assert isinstance(call, Call)
    with pytest.raises(DifferenceError):
        Comparison().play([*records[:at], spoil(call), *records[at + 1 :]], limit=1 << 60)


def test_figures_of_several_runs_add_up(tmp_path: Path) -> None:
    one = Figures(3, 70, bytes([1, 0, 2]) + bytes(16381))
    other = Figures(4, 5, bytes([0, 0, 3]) + bytes(16381))
    one.write(tmp_path / "one")
    assert Figures.read(tmp_path / "one") + other == Figures(7, 75, bytes([1, 0, 3]) + bytes(16381))
