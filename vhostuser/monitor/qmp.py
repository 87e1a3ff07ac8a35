"""The wire of the control socket: QMP, JSON objects one after the other, as QEMU's monitor does.

Pure: bytes in, lines out. A client gets a greeting, negotiates with `qmp_capabilities`, then
executes commands; events may come at any time after that. What commands there are is in
`vhostuser.monitor.common`, `disks` and `ports`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "LONGEST_COMMAND",
    "Command",
    "CommandError",
    "Splitter",
    "encode_error",
    "encode_event",
    "encode_return",
    "greeting",
    "parse",
]

_QUOTE, _ESCAPE, _LINE_END = b'"\\\n'
_OPENING, _CLOSING = b"{[", b"}]"

LONGEST_COMMAND = 64 * 1024
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


class Splitter:
    """Cuts a stream of bytes into JSON objects; no line ends are needed between them.

    What stands between objects ends at a line end and is handed out as it is, so that a client
    which speaks no JSON is told so.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def held(self) -> int:
        """Bytes of an unfinished object."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more bytes; yield each object that is now complete."""
        self._held += data
        while self._scanned < len(self._held):
            byte = self._held[self._scanned]
            self._scanned += 1
            if self._ends(byte):
                whole = bytes(self._held[: self._scanned]).strip()
                del self._held[: self._scanned]
                self._scanned = 0
                if whole:
                    yield whole

    def _ends(self, byte: int) -> bool:
        """Advance over one byte; return whether an object, or a line outside one, ends here."""
        if self._in_string:
            self._in_string = self._escaped or byte != _QUOTE
            self._escaped = byte == _ESCAPE and not self._escaped
            return False
        if byte in _OPENING:
            self._depth += 1
        elif byte in _CLOSING:
            self._depth = max(0, self._depth - 1)
            return self._depth == 0
        elif self._depth:
            self._in_string = byte == _QUOTE
        return self._depth == 0 and byte == _LINE_END


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
        raise CommandError("not JSON: send one object a command") from None
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
