"""What a command of the control socket is: a row of a table, whatever the server serves.

Dispatch, `query-commands` and the reference derive from such tables; what a command takes is an
option table like that of a disk (`vhostuser.options`). Answers are plain data for JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vhostuser.errors import UsageError
from vhostuser.monitor.qmp import CommandError
from vhostuser.options import OptionTable, Source, option, read, shown
from vhostuser.serving import ID, ServedSet

__all__ = ["Answer", "AnySet", "CommandRow", "Nothing", "Remove", "command_table", "execute"]

Answer: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]]
AnySet: TypeAlias = ServedSet[Any, Any]
"""A set of things of any kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing(OptionTable):
    """No arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(OptionTable):
    """What to end."""

    id: str = option(ID, "which one", required=frozenset({Source.CONTROL}))


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """One command.

    Attributes:
        run: does it, with the set of what is served and an object of `arguments`.
        arguments: the table of what it takes.
        returns: what the answer is, in words.
    """

    run: Callable[[Any, Any], Awaitable[Answer]]
    arguments: type[Any]
    returns: str


def command_table(*parts: Mapping[str, CommandRow]) -> dict[str, CommandRow]:
    """Make the table of a kind of server: of these commands, and `query-commands`.

    `qmp_capabilities` and `quit` are in no table: they are the connection's own.
    """
    table: dict[str, CommandRow] = {}

    async def query_commands(_served: AnySet, _arguments: Nothing) -> Answer:
        return [{"name": name} for name in sorted([*table, "qmp_capabilities", "quit"])]

    table["query-commands"] = CommandRow(
        run=query_commands, arguments=Nothing, returns="the names of all commands"
    )
    for part in parts:
        table |= part
    return table


async def execute(
    commands: Mapping[str, CommandRow], served: AnySet, name: str, arguments: Mapping[str, object]
) -> Answer:
    """Run a command.

    Raises:
        CommandError: there is no such command, it takes no such argument, or it failed.
    """
    command = commands.get(name)
    if command is None:
        raise CommandError(
            f"the command {shown(name)[1:-1]} has not been found; query-commands lists all",
            kind="CommandNotFound",
        )
    made, problems = read(command.arguments, arguments, Source.CONTROL)
    if problems:
        raise CommandError("; ".join(map(str, problems)))
    try:
        return await command.run(served, made)
    except UsageError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from error
