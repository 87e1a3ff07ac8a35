"""The wire of the control socket: QMP, JSON objects on lines, as QEMU's monitor speaks it.

Pure: lines in, lines out. A client gets a greeting, negotiates with `qmp_capabilities`, then
executes commands; events may come at any time after that. What the commands do is in
`vhostuser.monitor.commands`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LONGEST_LINE",
    "Command",
    "CommandError",
    "encode_error",
    "encode_event",
    "encode_return",
    "greeting",
    "parse",
]

LONGEST_LINE = 64 * 1024
"""Bytes of a command at most: more is not a command but a mistake, or an attack."""


class CommandError(Exception):
    """A command was refused.

    Args:
        text: what went wrong and what to do.
        kind: the QMP error class.
        identity: the command's `id`, to be echoed.
    """

    def __init__(
        self, text: str, *, kind: str = "GenericError", identity: object | None = None
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.identity = identity


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it came.

    Attributes:
        name: what to execute.
        arguments: by name.
        identity: what the client wants echoed; None for nothing.
    """

    name: str
    arguments: Mapping[str, object]
    identity: object | None


def parse(line: bytes) -> Command:
    """Read a command.

    Raises:
        CommandError: the line is not a QMP command.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise CommandError("not JSON: send one object on one line") from None
    if not isinstance(data, dict):
        raise CommandError("not a JSON object")
    identity = data.get("id")
    name = data.get("execute")
    arguments = data.get("arguments", {})
    if not isinstance(name, str):
        raise CommandError('a command is {"execute": "NAME"}', identity=identity)
    unknown = data.keys() - {"execute", "arguments", "id"}
    if unknown:
        raise CommandError(f"unknown member '{min(unknown)}'", identity=identity)
    if not isinstance(arguments, dict):
        raise CommandError("'arguments' is an object", identity=identity)
    return Command(name, arguments, identity)


def _line(data: Mapping[str, object]) -> bytes:
    return json.dumps(data).encode() + b"\r\n"


def greeting() -> bytes:
    """Return the line that opens a connection."""
    major, minor, micro = (int(part) for part in __version__.split(".")[:3])
    version = {
        "vhostuser": {"major": major, "minor": minor, "micro": micro},
        # Clients of QEMU's monitor look for this member; the numbers are ours.
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": "vhostuser",
    }
    return _line({"QMP": {"version": version, "capabilities": []}})


def encode_return(value: object, identity: object | None) -> bytes:
    """Return the line that answers a command."""
    return _line({"return": value} | ({} if identity is None else {"id": identity}))


def encode_error(error: CommandError) -> bytes:
    """Return the line that refuses a command."""
    body = {"error": {"class": error.kind, "desc": str(error)}}
    return _line(body | ({} if error.identity is None else {"id": error.identity}))


def encode_event(name: str, data: Mapping[str, object]) -> bytes:
    """Return the line of an event, stamped with the current time."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    stamp = {"seconds": seconds, "microseconds": nanoseconds // 1000}
    return _line({"event": name, "data": dict(data), "timestamp": stamp})
