"""The file of `--config`: TOML with the program's options, and a `[[disk]]` table a disk.

Every mistake is found and told with file, disk, key and what to do; reading does not stop at the
first. What can only be known by looking at the host is `vhostuser.disks.check`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vhostuser.disks.config import DiskConfig, ProgramConfig
from vhostuser.disks.kinds import shown
from vhostuser.disks.options import Problem, Source, read
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ConfigFile", "Finding", "read_config"]

_DISKS = "disk"
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and where it is.

    Attributes:
        place: the file, and in it the disk; empty for the command line.
        problem: what is wrong.
    """

    place: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else str(self.problem)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says.

    Attributes:
        path: the file.
        program: the options at its top.
        disks: the tables that are right, in their order.
        places: what to call each of them in a message.
        partly_right: the other tables without what is wrong with them, and their places; only for
            a look at what else may be wrong.
        findings: what is wrong with it.
    """

    path: Path
    program: ProgramConfig
    disks: tuple[DiskConfig, ...]
    places: tuple[str, ...]
    partly_right: tuple[tuple[DiskConfig, str], ...]
    findings: tuple[Finding, ...]


def read_config(path: Path, *, overridden: Mapping[str, object] | None = None) -> ConfigFile:
    """Read a file and check every key and value of it.

    Relative paths in it belong to the folder that it lies in.

    Args:
        path: the file.
        overridden: options of the program that were given otherwise: the file's do not count.

    Raises:
        UsageError: it cannot be read or is no TOML.
    """
    data = _load(path)
    findings: list[Finding] = []
    tables = data.pop(_DISKS, [])
    program, problems = read(ProgramConfig, data, Source.FILE, folder=path.parent)
    findings += [Finding(str(path), each) for each in problems]
    program = program or ProgramConfig()
    given: dict[str, Any] = {
        name.replace("-", "_"): each for name, each in (overridden or {}).items()
    }
    program = replace(program, **given)
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        text = "each disk is a table of its own: begin it with [[disk]]"
        findings.append(Finding(str(path), Problem(_DISKS, text)))
        tables = []
    disks: list[DiskConfig] = []
    places: list[str] = []
    partly_right: list[tuple[DiskConfig, str]] = []
    for number, values in enumerate(tables, 1):
        place = f"{path}: disk {_name(values, number)}"
        disk, problems = read(DiskConfig, values, Source.FILE, folder=path.parent)
        findings += [Finding(place, each) for each in problems]
        if disk is not None:
            disks.append(disk)
            places.append(place)
            continue
        wrong = {each.key for each in problems}
        rest = {key: value for key, value in values.items() if key not in wrong}
        disk, _ = read(DiskConfig, rest, Source.FILE, folder=path.parent)
        if disk is not None:
            partly_right.append((disk, place))
    return ConfigFile(
        path, program, tuple(disks), tuple(places), tuple(partly_right), tuple(findings)
    )


def _name(values: Mapping[str, object], number: int) -> str:
    identity = values.get("id")
    return shown(identity) if isinstance(identity, str) else f"{number}"


def _load(path: Path) -> dict[str, object]:
    import tomllib  # noqa: PLC0415 - most disks are served without a file

    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > _LARGEST:
        raise UsageError(f"{path} has over {_LARGEST} bytes: that is no configuration")
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text, from byte {error.start} on") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
