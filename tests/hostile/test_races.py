"""Item 73 of the catalogue: a second thread changes a ring while it is read.

The two threads are C (tests/native/test_races.c), which says of each kind of ring whether every
buffer lay in guest memory while ten million descriptors were written.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "vhostuser" / "native"
CHANGES = 2_500_000  # of each ring
RINGS = {
    "73-split": "a split ring",
    "73-split-tables": "a split ring with tables",
    "73-packed": "a packed ring",
    "73-packed-tables": "a packed ring with tables",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the program says when it has run."""
    folder = tmp_path_factory.mktemp("races")
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    program = folder / "plain" / "test_races"
    make = ["make", "--silent", f"BUILD={folder}", str(program)]
    subprocess.run(make, cwd=NATIVE, env=environment, check=True)
    done = subprocess.run([program, str(CHANGES)], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS)
def hostile(ring: str, outcome: list[str]) -> None:
    sentence = f"ok   {ring} that changes while it is read stays in guest memory"
    assert sentence in outcome, "\n".join(outcome)
