"""Options as data: the fields of a frozen dataclass are the table of what can be set.

From one such table derive the options of a command line, the keys of a TOML file, the arguments of
a command on the control socket, what each of them says about a mistake, and the reference. Which
options there are is written where something is served; nothing here knows any.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vhostuser.options.kinds import Flag, Kind, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Option",
    "OptionTable",
    "Problem",
    "Source",
    "add_arguments",
    "given",
    "given_each",
    "option",
    "options",
    "read",
]

_KEY = "option"
_EACH = "given_each"


class Source(enum.Enum):
    """Where options come from; the value is what a mistake there is called."""

    COMMAND_LINE = "option"
    FILE = "key"
    CONTROL = "argument"


EVERYWHERE = frozenset(Source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        kind: what its value may be.
        help: what it does, in one sentence without a full stop.
        group: options of one group exclude each other; empty for none.
        sources: where it can be given.
        required: where it must be given.
        name: as it is written everywhere; an attribute's name with "-" for "_".
        default: the value when it is not given.
    """

    kind: Kind
    help: str
    group: str = ""
    sources: frozenset[Source] = EVERYWHERE
    required: frozenset[Source] = frozenset()
    name: str = ""
    default: object = None

    @property
    def attribute(self) -> str:
        """The field that holds it."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return f"--no-{self.name}" if self.default is True else f"--{self.name}"

    @property
    def default_in_words(self) -> str:
        """The default as a person reads it; empty for none."""
        return "" if self.default is None or self.default is False else str(self.default)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with what was given.

    Attributes:
        key: the option; empty for the whole.
        text: what is wrong and what to do.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


class OptionTable:
    """What a frozen dataclass inherits whose fields were made by `option`."""

    __slots__ = ()

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with values that are right one by one."""
        return iter(())


_Table = TypeVar("_Table", bound=OptionTable)


def option(  # noqa: PLR0913 - one argument an attribute
    kind: Kind,
    help: str,  # noqa: A002 - the word that argparse uses, too
    *,
    default: object = None,
    group: str = "",
    sources: frozenset[Source] = EVERYWHERE,
    required: frozenset[Source] = frozenset(),
) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Make a field of an option table. Args: see `Option`."""
    entry = Option(kind=kind, help=help, group=group, sources=sources, required=required)
    return dataclasses.field(default=default, metadata={_KEY: entry})


def options(table: type[OptionTable], source: Source | None = None) -> tuple[Option, ...]:
    """Return the options of a table that can be given at `source`, in their order."""
    found = (
        dataclasses.replace(
            field.metadata[_KEY], name=field.name.replace("_", "-"), default=field.default
        )
        for field in dataclasses.fields(table)  # type: ignore[arg-type]
    )
    return tuple(each for each in found if source is None or source in each.sources)


def read(
    table: type[_Table],
    values: Mapping[str, object],
    source: Source,
    *,
    folder: Path | None = None,
    others: Iterable[str] = (),
) -> tuple[_Table | None, list[Problem]]:
    """Make a table's object of what was given.

    Args:
        table: which options there are.
        values: by name; on the command line they were parsed already.
        source: where they come from.
        folder: to which relative paths belong; None on the command line (the current folder) and
            on the control socket (nobody knows: paths must be absolute).
        others: names that mean something there, too, and are meant by who mistypes one.

    Returns:
        The object, or None and what is wrong.
    """
    known = {each.name: each for each in options(table, source)}
    problems: list[Problem] = []
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            problems.append(Problem(shown(name)[1:-1], _unknown(name, [*known, *others], source)))
            continue
        try:
            kept[known[name].attribute] = _parse(known[name], value, source, folder)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    problems += [
        Problem(name, "is missing")
        for name, each in known.items()
        if source in each.required and name not in values
    ]
    problems += _exclusions(values, known)
    if problems:
        return None, problems
    made = table(**kept)
    problems += made.problems()
    return (None if problems else made), problems


def _parse(entry: Option, value: object, source: Source, folder: Path | None) -> object:
    if source is not Source.COMMAND_LINE:
        value = entry.kind.parse(value)
    if isinstance(value, Path):
        if source is Source.CONTROL and not value.is_absolute():
            raise ValueError(f"an absolute path is expected, not {shown(str(value))}")
        if folder is not None:
            value = folder / value
    return value


def _unknown(name: str, known: Sequence[str], source: Source) -> str:
    import difflib  # noqa: PLC0415 - only needed to say sorry

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"there is no such {source.value}: {hint}"


def _exclusions(values: Mapping[str, object], known: Mapping[str, Option]) -> Iterator[Problem]:
    groups: dict[str, str] = {}
    for name in known:
        group = known[name].group
        if group and name in values:
            first = groups.setdefault(group, name)
            if first != name:
                yield Problem(name, f"not together with {first}: give one of them")


def add_arguments(
    parser: argparse.ArgumentParser, table: type[OptionTable], *, each_of: str = ""
) -> None:
    """Add the options of a table to a command line. `given` reads them back.

    Args:
        parser: of the command.
        table: which options there are.
        each_of: a group whose options may be given again and again: each is of one more thing that
            is described. `given_each` reads them back.
    """
    groups: dict[str, argparse._ActionsContainer] = {}
    for each in options(table, Source.COMMAND_LINE):
        where: argparse._ActionsContainer = parser
        several = each.group != "" and each.group == each_of
        if each.group and not several:
            if each.group not in groups:
                groups[each.group] = parser.add_mutually_exclusive_group()
            where = groups[each.group]
        default = each.default_in_words
        if isinstance(each.kind, Flag):
            action = "store_false" if each.default is True else "store_true"
            where.add_argument(
                each.flag,
                action=action,
                dest=each.attribute,
                default=argparse.SUPPRESS,
                help=each.help,
            )
            continue
        text = f"{each.help} (default: {default})" if default else each.help
        where.add_argument(
            each.flag,
            action=_OneMore if several else "store",
            dest=each.attribute,
            type=_argument(each.kind),
            default=argparse.SUPPRESS,
            metavar=each.kind.metavar,
            help=(f"{text}; may be given several times" if several else text).replace("%", "%%"),
        )


class _OneMore(argparse.Action):
    """Notes an option beside those that came before it, in their order."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - as argparse has it
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        before = getattr(namespace, _EACH, ())
        setattr(namespace, _EACH, (*before, (self.dest.replace("_", "-"), values)))


def _argument(kind: Kind) -> Any:  # noqa: ANN401 - what argparse calls with a text
    def parse(text: str) -> object:
        try:
            return kind.parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def given(namespace: argparse.Namespace, table: type[OptionTable]) -> dict[str, object]:
    """Return those options of a table that stand on a command line, by name."""
    return {
        each.name: getattr(namespace, each.attribute)
        for each in options(table, Source.COMMAND_LINE)
        if hasattr(namespace, each.attribute)
    }


def given_each(namespace: argparse.Namespace) -> tuple[tuple[str, object], ...]:
    """Return name and value of each option that may be given several times, in their order."""
    found: tuple[tuple[str, object], ...] = getattr(namespace, _EACH, ())
    return found
