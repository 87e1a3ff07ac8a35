"""The program around its commands: exit statuses, and a word instead of a traceback."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from vhostuser.cli.command import Command
from vhostuser.cli.main import main
from vhostuser.errors import UsageError


@pytest.fixture
def command(monkeypatch):
    """Makes `vhostuser try` raise, or return, what the test gives."""

    def install(outcome):
        def run(options):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        entry = Command(summary="tries", configure=lambda parser: None, run=run)
        points = [SimpleNamespace(name="try", load=lambda: entry)]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)

    return install


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (UsageError("give a disk"), 1, "vhostuser: give a disk\n"),
        (
            ExceptionGroup("", [OSError(28, "disk full"), ExceptionGroup("", [OSError("odd")])]),
            1,
            "vhostuser: disk full\nvhostuser: odd\n",
        ),
        (KeyboardInterrupt(), 130, "vhostuser: interrupted\n"),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, "vhostuser: interrupted\n"),
    ],
)
def test_a_command_ends_with_a_status_and_at_most_a_line_an_error(
    command, capsys, outcome, status, text
):
    command(outcome)
    assert main(["try"]) == status
    assert capsys.readouterr().err == text


def test_a_bug_keeps_its_traceback(command):
    command(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["try"])


def test_a_wrong_command_line_ends_with_status_2(command):
    command(0)
    with pytest.raises(SystemExit) as caught:
        main(["try", "--nonsense"])
    assert caught.value.code == 2


def test_every_command_of_the_program_is_listed_with_its_summary(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    for name in ("blk", "demo", "doctor", "install-discovery", "install-systemd", "net"):
        assert f"\n    {name}  " in listed or f"\n    {name}\n" in listed
