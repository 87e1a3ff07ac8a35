"""Builds the fuzz targets and names them.

They are built by tests/fuzz/Makefile with the clang of the parts, into build/fuzz; only what
changed is compiled. Where inputs, corpora and findings lie stands here, too.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .seeds import write_seeds

__all__ = ["RING_TARGETS", "TARGETS", "BuildError", "Workplace", "build"]

TARGETS = ("device", "driver", "memory", "blk", "offload", "net")
RING_TARGETS = ("device", "driver")
"""The targets whose states are ring states."""

_FOLDER = Path(__file__).resolve().parents[1]
_BUILT = _FOLDER.parents[1] / "build" / "fuzz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where things lie.

    Attributes:
        programs: the folder of the built targets.
        corpora: where inputs that reach something new are kept, in a folder for each target.
        findings: where inputs that show a fault, and logs, are kept.
    """

    programs: Path = _BUILT
    corpora: Path = _BUILT / "corpus"
    findings: Path = _BUILT / "findings"

    def inputs(self, target: str) -> list[Path]:
        """Return the folders of inputs to begin with: seeds, and what once showed a fault."""
        folders = [self.programs / "seeds" / target, _FOLDER / "regressions" / target]
        return [folder for folder in folders if folder.is_dir()]


class BuildError(Exception):
    """The targets could not be built; the text is the compiler's."""


def build(clang: Path) -> Workplace:
    """Build all targets, and write their seeds.

    Args:
        clang: a clang that has libFuzzer and the sanitizers.

    Returns:
        Where the targets lie, and what they work on in the project's build folder.

    Raises:
        BuildError: the compiler gave up.
    """
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--silent", f"CLANG={clang}", f"BUILD={_BUILT}"],
        cwd=_FOLDER,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise BuildError(done.stdout)
    write_seeds(_BUILT / "seeds")
    place = Workplace()
    place.findings.mkdir(parents=True, exist_ok=True)
    return place
