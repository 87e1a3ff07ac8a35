"""How the wheel is built: from the source distribution, and that from a copy of the tree.

What lies about in the tree, or what the source distribution lacks, thus can neither help nor harm.
The linking command is given: the one that Python remembers may name folders of the machine that
Python was built on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from .inspection import ENGINE, ROOT, needed_glibc

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BuildError", "build"]

_LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "*.o", "*.so", "_engine.c", "build", "dist"
)


class BuildError(Exception):
    """The wheel was not built; the text has what the tools said."""


def build(folder: Path, *, flags: str = "") -> Path:
    """Build the source distribution and the wheel into `folder`.

    Needs what builds the project in this Python's environment, and no network.

    Args:
        folder: made when missing; files of the same names are replaced.
        flags: for the compiler, behind its own.

    Returns:
        The wheel, tagged with the oldest glibc that it runs with.

    Raises:
        BuildError: a tool failed.
    """
    with tempfile.TemporaryDirectory(prefix="vhostuser-wheel-") as name:
        tree, made = Path(name) / "tree", Path(name) / "made"
        shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
        compiler = os.environ.get("CC", "cc")
        environment = {"LDSHARED": f"{compiler} -shared -Wl,--strip-debug", "CFLAGS": flags}
        _run(["build", "--no-isolation", f"--outdir={made}", str(tree)], environment)
        (wheel,) = made.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            engine = Path(archive.extract(ENGINE, name))
        tag = f"manylinux_2_{needed_glibc(engine)}_{os.uname().machine}"
        _run(["wheel", "tags", "--remove", f"--platform-tag={tag}", str(wheel)], {})
        folder.mkdir(parents=True, exist_ok=True)
        for path in made.iterdir():
            shutil.copy(path, folder)
        (wheel,) = made.glob("*.whl")
        return folder / wheel.name


def _run(module: list[str], more: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(module)} failed:\n{done.stdout}{done.stderr}")
