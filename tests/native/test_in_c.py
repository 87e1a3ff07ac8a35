"""Runs the engine's own tests, which are C programs that need no Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_NATIVE = Path(__file__).resolve().parents[2] / "vhostuser" / "native"


def test_every_test_of_the_engine_in_c_passes(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    result = subprocess.run(
        ["make", "--silent", "check", f"BUILD={tmp_path}"],
        cwd=_NATIVE,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "plain: 0 failed" in result.stdout
