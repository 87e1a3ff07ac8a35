"""A virtual environment for a wheel and what it asks for, whose programs find no others."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Environment"]


class Environment:
    """A virtual environment of this Python.

    Args:
        folder: where it is made; what else is there is removed.
        pip: whether it gets a pip of its own.

    Attributes:
        programs: the folder of its programs.
    """

    def __init__(self, folder: Path, *, pip: bool = False) -> None:
        venv.create(folder, clear=True, symlinks=True, with_pip=pip)
        self.programs = folder / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._packages = folder / "lib" / version / "site-packages"
        self._outside = folder / "outside"
        self._outside.mkdir()

    def install(self, wheel: Path) -> None:
        """Install a wheel, and nothing of what it asks for, with the pip that runs this."""
        pip = [sys.executable, "-m", "pip", "--quiet", f"--python={self.programs / 'python'}"]
        subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True)

    def copy_requirements(self, name: str) -> None:
        """Copy what a distribution that is installed here asks for, and what that asks for.

        It comes from the environment that runs this: no network.
        """
        (here,) = importlib.metadata.distributions(name=name, path=[str(self._packages)])
        for each in _requirements(here):
            for file in importlib.metadata.files(each) or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = self._packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(str(file.locate()), target)

    def settings(self) -> dict[str, Any]:
        """Return how subprocess shall run a program: far from the tree, warnings being errors."""
        kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
        path = {"PATH": str(self.programs), "PYTHONWARNINGS": "error"}
        return {"cwd": self._outside, "env": {**kept, **path}, "text": True}


def _requirements(distribution: importlib.metadata.Distribution) -> set[str]:
    found: set[str] = set()
    wanted = set(_asked_for(distribution))
    while wanted:
        each = wanted.pop()
        found.add(each)
        wanted |= set(_asked_for(importlib.metadata.distribution(each))) - found
    return found


def _asked_for(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    from packaging.requirements import Requirement  # noqa: PLC0415 - trying a wheel lacks it

    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name
