"""Tries a wheel with the Python that runs this: demo and tests, in an environment of its own.

The tests run beside nothing but themselves and what they read: the packages come from the wheel.
Left out is what drives other programs (marked interop) and what compiles the engine's sources.
What the wheel asks for is fetched from the package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from .environment import Environment
from .inspection import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["attempt"]

_COMPILE = ("native/test_in_c.py", "hostile/test_races.py", "fuzz", "bench", "wheel/test_wheel.py")
_COMPILES = "tests/vhostuser/devices/test_blk.py::test_the_boot_program_is_what"


def attempt(wheel: Path, folder: Path, arguments: Sequence[str]) -> int:
    """Install a wheel and run demo and tests with it.

    Args:
        wheel: what is tried.
        folder: where environment and tests are put; must be there.
        arguments: for pytest, behind its own.

    Returns:
        The exit status: 0 when all went well.
    """
    environment = Environment(folder / "environment", pip=True)
    pip = [str(environment.programs / "pip"), "install", "--quiet"]
    subprocess.run([*pip, f"{wheel.absolute()}[dev]"], check=True)
    tree = folder / "tree"
    for name in ("tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    where = environment.settings()
    demo = [str(environment.programs / "vhostuser"), "demo"]
    status = subprocess.run(demo, check=False, **where).returncode
    if status:
        return status
    del where["env"]["PYTHONWARNINGS"]  # pytest has its own rules
    parts = os.environ.get("VHOSTUSER_PARTS", str(ROOT / ".parts"))
    where["env"] |= {
        "PATH": f"{where['env']['PATH']}:{os.environ['PATH']}",
        "VHOSTUSER_PARTS": parts,
    }
    pytest = [str(environment.programs / "pytest"), "-q", "-m", "not interop"]
    pytest += [f"--ignore=tests/{name}" for name in _COMPILE]
    pytest += [f"--deselect={_COMPILES}", *arguments]
    return subprocess.run(pytest, check=False, **{**where, "cwd": tree}).returncode
