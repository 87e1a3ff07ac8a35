"""The file of `--config`: TOML with the program's options, and a table for each thing to serve.

Every mistake is found and told with file, table, key and what to do; reading does not stop at the
first. What can only be known by looking at the host is `vhostuser.serving.check`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vhostuser.errors import UsageError
from vhostuser.options import Problem, Source, read, shown
from vhostuser.serving.config import ProgramConfig, ServedConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ConfigFile", "Finding", "read_config"]

_LARGEST = 1 << 20

_Program = TypeVar("_Program", bound=ProgramConfig)
_Config = TypeVar("_Config", bound=ServedConfig)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and where it is.

    Attributes:
        place: the file, and in it the table; empty for the command line.
        problem: what is wrong.
    """

    place: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else str(self.problem)


@dataclass(frozen=True, slots=True)
class ConfigFile(Generic[_Program, _Config]):
    """What a file says.

    Attributes:
        path: the file.
        program: the options at its top.
        served: the tables that are right, in their order, and what to call each in a message.
        partly_right: the other tables without what is wrong with them, likewise; only for a look at
            what else may be wrong.
        findings: what is wrong with it.
    """

    path: Path
    program: _Program
    served: tuple[tuple[_Config, str], ...]
    partly_right: tuple[tuple[_Config, str], ...]
    findings: tuple[Finding, ...]


def read_config(
    path: Path,
    program_table: type[_Program],
    served_table: type[_Config],
    *,
    overridden: Mapping[str, object] | None = None,
) -> ConfigFile[_Program, _Config]:
    """Read a file and check every key and value of it.

    Relative paths in it belong to the folder that it lies in.

    Args:
        path: the file.
        program_table: the keys at its top.
        served_table: the keys of a table; its `WORD` is the table's name.
        overridden: options of the program that were given otherwise: the file's do not count.

    Raises:
        UsageError: it cannot be read or is no TOML.
    """
    word = served_table.WORD
    data = _load(path)
    findings: list[Finding] = []
    tables = data.pop(word, [])
    program, problems = read(program_table, data, Source.FILE, folder=path.parent, others=[word])
    findings += [Finding(str(path), each) for each in problems]
    given: dict[str, Any] = {
        name.replace("-", "_"): each for name, each in (overridden or {}).items()
    }
    program = replace(program or program_table(), **given)
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        text = f"each {word} is a table of its own: begin it with [[{word}]]"
        findings.append(Finding(str(path), Problem(word, text)))
        tables = []
    served: list[tuple[_Config, str]] = []
    partly_right: list[tuple[_Config, str]] = []
    for number, values in enumerate(tables, 1):
        place = f"{path}: {word} {_name(values, number)}"
        config, problems = read(served_table, values, Source.FILE, folder=path.parent)
        findings += [Finding(place, each) for each in problems]
        if config is not None:
            served.append((config, place))
            continue
        wrong = {each.key for each in problems}
        rest = {key: value for key, value in values.items() if key not in wrong}
        config, _ = read(served_table, rest, Source.FILE, folder=path.parent)
        if config is not None:
            partly_right.append((config, place))
    return ConfigFile(path, program, tuple(served), tuple(partly_right), tuple(findings))


def _name(values: Mapping[str, object], number: int) -> str:
    identity = values.get("id")
    return shown(identity) if isinstance(identity, str) else f"{number}"


def _load(path: Path) -> dict[str, object]:
    import tomllib  # noqa: PLC0415 - most is served without a file

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
