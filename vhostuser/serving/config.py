"""The options that are the same whatever is served: names, places of front-ends, the program.

Specification: "Backend program conventions".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vhostuser.options import (
    Choice,
    FileName,
    Group,
    Mode,
    Name,
    Number,
    OptionTable,
    Problem,
    Source,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "ID",
    "INHERITED",
    "LONGEST_POLL_US",
    "MOST_WORKERS",
    "NAMED",
    "ProgramConfig",
    "ServedConfig",
]

ID = Name("a name", "ID")
MOST_WORKERS = 64
LONGEST_POLL_US = 1_000_000
_LARGEST_FD = 1 << 20

NAMED = frozenset({Source.FILE, Source.CONTROL})
"""Where what is served has to have a name."""
INHERITED = frozenset({Source.COMMAND_LINE, Source.FILE})
"""Where the number of an inherited descriptor means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedConfig(OptionTable):
    """How one thing is served: what `DiskConfig` and `PortConfig` have in common.

    Attributes:
        WORD: what it is called: in logs, events, commands and files.
        NOWHERE: said where it has no place for front-ends.
    """

    WORD: ClassVar[str]
    NOWHERE: ClassVar[str] = (
        "where are front-ends? Give --socket-path PATH, --connect PATH or --fd N (in a file "
        "socket-path, connect, fd, or a systemd socket with FileDescriptorName=ID)"
    )

    id: str = option(ID, "what it is called in logs, events and commands")

    socket_path: Path | None = option(FileName(), "listen on this UNIX socket", group="socket")
    fd: int | None = option(
        Number(0, _LARGEST_FD),
        "use this inherited socket, listening or connected",
        group="socket",
        sources=INHERITED,
    )
    connect: Path | None = option(
        FileName(), "connect to a front-end that listens here, with retries", group="socket"
    )
    socket_mode: int | None = option(
        Mode(), "permissions of the socket, in octal (without: what the umask leaves)"
    )
    socket_group: str | None = option(Group(), "group of the socket, by name or number")

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        for name, value in (("socket-mode", self.socket_mode), ("socket-group", self.socket_group)):
            if value is not None and self.socket_path is None:
                yield Problem(name, "is of a socket that is made here: give socket-path")

    @property
    def placed(self) -> bool:
        """Whether its options alone say where its front-ends come from."""
        return self.has_socket

    @property
    def place(self) -> str:
        """Where its front-ends come from, in words."""
        return self.socket_words

    @property
    def has_socket(self) -> bool:
        """Whether its options name a socket."""
        return any(each is not None for each in (self.socket_path, self.connect, self.fd))

    @property
    def socket_words(self) -> str:
        """Its socket, in words."""
        return str(self.socket_path or self.connect or "an inherited socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramConfig(OptionTable):
    """How the program itself behaves, whatever it serves."""

    control: Path | None = option(FileName(), "serve a control socket (QMP) here")
    log_format: str = option(
        Choice("text", "json"), "one line of text a record, or one JSON object", default="text"
    )
    log_level: str = option(
        Choice("debug", "info", "warning", "error"), "what to log, and worse", default="info"
    )
