"""Rules for the whole test run: a test that did not run has a reason that cannot be helped.

The one accepted way to skip is `parts.require`, for a part that this machine cannot get. Any other
skip fails the run, and so does a missing part where it could have been had: on a Debian machine
whose archive answers, or, if it is a part that can be fetched, anywhere in CI.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from parts.catalogue import CATALOGUE, is_excused
from parts.require import SKIP_MARK

if TYPE_CHECKING:
    from collections.abc import Generator

    from _pytest.terminal import TerminalReporter

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_skipped = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skipped] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        item.config.stash[_skipped][item.nodeid] = _reason(report)
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _collected_skips.append((report.nodeid, _reason(report)))


_collected_skips: list[tuple[str, str]] = []


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def _unexcused(config: pytest.Config) -> list[str]:
    """Return a line for each skip that this machine cannot be excused for."""
    lines = []
    for test, reason in [*config.stash[_skipped].items(), *_collected_skips]:
        if not reason.startswith(SKIP_MARK):
            lines.append(f"{test}: skipped without need ({reason})")
        elif _could_be_had(reason):
            lines.append(f"{test}: {reason}")
    return lines


def _could_be_had(reason: str) -> bool:
    part = CATALOGUE[reason.removeprefix(SKIP_MARK).split(":")[0]]
    return not is_excused(part) or ("CI" in os.environ and part.fetched)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexcused(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    lines = _unexcused(config)
    if lines:
        terminalreporter.section("tests that should have run", red=True)
        for line in lines:
            terminalreporter.write_line(line)
        terminalreporter.write_line("the run fails for these; `make parts` fetches what is missing")
