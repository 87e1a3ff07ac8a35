"""What a serving command is told: by its command line, or by the file of `--config`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from vhostuser.errors import UsageError
from vhostuser.options import Problem, Source, given, read
from vhostuser.serving import Finding, ProgramConfig, ServedConfig, read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["Collected", "add_file_arguments", "from_file", "of_program", "report"]

_Program = TypeVar("_Program", bound=ProgramConfig)
_Config = TypeVar("_Config", bound=ServedConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected(Generic[_Program, _Config]):
    """What a command was told.

    Attributes:
        program: the options of the program.
        served: what to serve, each with its place in messages.
        findings: what is wrong.
        place: of the program's options in messages; empty: the command line.
    """

    program: _Program
    served: Sequence[tuple[_Config, str]]
    findings: Sequence[Finding]
    place: str = ""

    def require_right(self) -> list[_Config]:
        """Return what to serve.

        Raises:
            UsageError: something is wrong.
        """
        if self.findings:
            raise UsageError("\n".join(map(str, self.findings)))
        return [config for config, _ in self.served]

    def with_findings(self, more: Sequence[Finding]) -> Collected[_Program, _Config]:
        """Return the same, with more that is wrong."""
        return replace(self, findings=[*self.findings, *more])


def add_file_arguments(parser: argparse.ArgumentParser, table: type[ServedConfig]) -> None:
    """Add what concerns a file, and looking at what is wrong."""
    word = table.WORD
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"serve the {word}s of this TOML file: one [[{word}]] table each, with the options "
        "below",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="serve nothing: tell everything that is wrong with the options or the file",
    )


def of_program(namespace: argparse.Namespace, table: type[_Program]) -> _Program:
    """Return the options of the program that stand on the command line.

    Raises:
        UsageError: they do not go together.
    """
    program, problems = read(table, given(namespace, table), Source.COMMAND_LINE)
    if program is None:
        raise UsageError("\n".join(map(str, problems)))
    return program


def from_file(
    namespace: argparse.Namespace,
    program_table: type[_Program],
    table: type[_Config],
    names: Sequence[str],
) -> Collected[_Program, _Config]:
    """Return what the file says, and the command line about the program.

    Args:
        namespace: the command line, with `config` and `check`.
        program_table: the options of the program.
        table: those of what is served.
        names: of these, the ones that stand on the command line.

    Raises:
        UsageError: the command line describes what belongs into the file, or there is none.
    """
    path: Path = namespace.config
    if names:
        word = table.WORD
        raise UsageError(
            f"--{names[0]} is of a {word}: with --config it belongs into a [[{word}]] table "
            f"of {path}"
        )
    overridden = given(namespace, program_table)
    file = read_config(path, program_table, table, overridden=overridden)
    served = [*file.served, *(file.partly_right if namespace.check else ())]
    return Collected(
        program=file.program, served=served, findings=list(file.findings), place=str(path)
    )


def report(collected: Collected[_Program, _Config], nothing: str) -> int:
    """Print what is wrong, for `--check`; return the exit status.

    Args:
        collected: what the command was told, with all that was found.
        nothing: said where nothing is wrong, but there is nothing to serve either.
    """
    findings = collected.findings
    if not collected.served and collected.program.control is None and not findings:
        findings = [Finding(collected.place, Problem("", nothing))]
    for finding in findings:
        print(finding, file=sys.stderr)
    return 1 if findings else 0
