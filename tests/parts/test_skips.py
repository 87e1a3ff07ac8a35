"""A test skipped without need makes the whole run fail; a part that cannot be had does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parts.catalogue import CATALOGUE, is_excused, obtain, reason_missing
from parts.errors import UnobtainableError

_TESTS = Path(__file__).resolve().parents[1]
_NEEDS_PART = "from parts.require import require\ndef test_it(): require('qemu-10')\n"
_EXCUSE = "not on this machine: no answer from the Debian archive"


def _run(folder: Path, test: str, missing: str, *, ci: bool = False) -> tuple[int, str]:
    """Run one test file under the project's rules; return the exit status and what was printed."""
    (folder / "conftest.py").write_text((_TESTS / "conftest.py").read_text())
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    if missing:
        (folder / "qemu-10.missing").write_text(missing)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"PYTHONPATH": str(_TESTS / "parts"), "VHOSTUSER_PARTS": str(folder)}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("test", "missing", "shown"),
    [
        ("def test_it(): pass\n", "", "1 passed"),
        (_NEEDS_PART, _EXCUSE, "1 skipped"),
    ],
    ids=["nothing-skipped", "part-out-of-reach"],
)
def test_what_cannot_be_helped_does_not_fail_the_run(
    test: str, missing: str, shown: str, tmp_path: Path
) -> None:
    status, printed = _run(tmp_path, test, missing)
    assert shown in printed
    assert "tests that should have run" not in printed
    assert status == 0


@pytest.mark.parametrize(
    ("test", "missing", "shown"),
    [
        ("import pytest\ndef test_it(): pytest.skip('no mood')\n", "", "no mood"),
        ("import pytest\npytest.skip('x', allow_module_level=True)", "", "without need"),
        (_NEEDS_PART, "", "nobody fetched it yet"),
        (_NEEDS_PART, "it failed", "qemu-10: it failed"),
    ],
    ids=["whim", "whole-module", "not-fetched", "failed"],
)
def test_what_could_have_run_fails_the_run(
    test: str, missing: str, shown: str, tmp_path: Path
) -> None:
    status, printed = _run(tmp_path, test, missing)
    assert "tests that should have run" in printed
    assert shown in printed
    assert status != 0


def test_continuous_integration_excuses_nothing_that_can_be_fetched(tmp_path: Path) -> None:
    status, printed = _run(tmp_path, _NEEDS_PART, _EXCUSE, ci=True)
    assert "qemu-10: no answer from the Debian archive" in printed
    assert status != 0


@pytest.mark.parametrize("ci", [False, True])
def test_what_a_machine_has_or_has_not_is_excused_everywhere(ci: bool, tmp_path: Path) -> None:
    (tmp_path / "loop-devices.missing").write_text("not on this machine: no kernel support")
    test = _NEEDS_PART.replace("qemu-10", "loop-devices")
    status, printed = _run(tmp_path, test, "", ci=ci)
    assert "1 skipped" in printed
    assert status == 0


def test_without_losetup_loop_devices_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VHOSTUSER_PARTS", str(tmp_path))
    monkeypatch.setattr("parts.catalogue.shutil.which", lambda _name, path: None)
    part = CATALOGUE["loop-devices"]
    with pytest.raises(UnobtainableError, match="losetup"):
        obtain(part)
    assert is_excused(part)
    assert "losetup" in reason_missing(part)
