"""THE table of options: everything that can be set for a disk, and for the program around it.

`vhostuser blk`, the file of `--config`, the control socket's `disk-add`, `--check` and the
generated reference all derive from these classes; a new option is one more field here, and its use
where a disk is opened. Specification: "Backend program conventions", vhost-user-blk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.disks.kinds import (
    Choice,
    FileName,
    Flag,
    Group,
    Mode,
    Name,
    Number,
    NumberChoice,
    Serial,
    Size,
)
from vhostuser.disks.options import OptionTable, Problem, Source, option

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DiskConfig", "ProgramConfig"]

_LARGEST_QUEUE = 32768
_MOST_QUEUES = 256
_MOST_WORKERS = 64
_LONGEST_POLL_US = 1_000_000
_LONGEST_SERIAL = 20
_BLOCK_SIZES = (512, 4096)
_IO_ENGINES = ("auto", "io_uring", "threads")
_LARGEST_FD = 1 << 20

_NAMED = frozenset({Source.FILE, Source.CONTROL})
_INHERITED = frozenset({Source.COMMAND_LINE, Source.FILE})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig(OptionTable):
    """How one disk is served. Each field is an option of the same name, with "-" for "_"."""

    id: str = option(
        Name("a name", "ID"),
        "what the disk is called in logs, events and commands",
        default="disk",
        required=_NAMED,
    )

    socket_path: Path | None = option(FileName(), "listen on this UNIX socket", group="socket")
    fd: int | None = option(
        Number(0, _LARGEST_FD),
        "use this inherited socket, listening or connected",
        group="socket",
        sources=_INHERITED,
    )
    connect: Path | None = option(
        FileName(), "connect to a front-end that listens here, with retries", group="socket"
    )
    socket_mode: int | None = option(
        Mode(), "permissions of the socket, in octal (without: what the umask leaves)"
    )
    socket_group: str | None = option(Group(), "group of the socket, by name or number")

    blk_file: Path | None = option(
        FileName(),
        "raw disk image or block device; without any disk the built-in one is served",
        group="disk",
    )
    null: int | None = option(
        Size(),
        "a disk that transfers nothing, for measuring; bytes, or with a unit: 64M, 1G, 2T",
        group="disk",
    )
    memory: int | None = option(Size(), "a disk in memory, empty at the start", group="disk")
    read_only: bool = option(Flag(), "refuse writes", default=False)
    direct: bool = option(Flag(), "bypass the page cache (O_DIRECT)", default=False)
    locking: bool = option(
        Flag(),
        "keep other processes away from the image, as QEMU does (--no-locking: trust them)",
        default=True,
    )

    num_queues: int = option(Number(1, _MOST_QUEUES), "request queues", default=1)
    queue_size: int = option(Number(2, _LARGEST_QUEUE), "largest ring size accepted", default=1024)
    serial: str = option(
        Serial(_LONGEST_SERIAL), "serial number, up to 20 characters", default="vhostuser"
    )
    block_size: int | None = option(
        NumberChoice(*_BLOCK_SIZES), "logical block size in bytes (without: the image's own)"
    )
    workers: int = option(Number(1, _MOST_WORKERS), "threads that share the queues", default=1)
    io: str = option(
        Choice(*_IO_ENGINES),
        "how requests wait for the image (auto: io_uring if allowed)",
        default="auto",
    )
    poll_us: int = option(
        Number(0, _LONGEST_POLL_US),
        "longest time to poll an idle ring before sleeping, in us",
        default=50,
    )
    busy_poll: bool = option(
        Flag(), "never sleep: each worker keeps a processor busy", default=False
    )

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        if self.direct and self.blk_file is None:
            yield Problem("direct", "bypasses the page cache of a file: give blk-file")
        for name, value in (("socket-mode", self.socket_mode), ("socket-group", self.socket_group)):
            if value is not None and self.socket_path is None:
                yield Problem(name, "is of a socket that is made here: give socket-path")

    @property
    def built_in(self) -> bool:
        """Whether no disk was named."""
        return self.blk_file is None and self.memory is None and self.null is None


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
