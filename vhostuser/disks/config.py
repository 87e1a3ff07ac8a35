"""THE table of options of a disk; what is common to all that is served is `vhostuser.serving`'s.

`vhostuser blk`, the file of `--config`, the control socket's `disk-add`, `--check` and the
generated reference all derive from these classes; a new option is one more field here, and its use
where a disk is opened. Specification: "Backend program conventions", vhost-user-blk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vhostuser.options import (
    Choice,
    FileName,
    Flag,
    Number,
    NumberChoice,
    Problem,
    Serial,
    Size,
    option,
)
from vhostuser.serving import ID, LONGEST_POLL_US, MOST_WORKERS, NAMED, ServedConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DiskConfig"]

_LARGEST_QUEUE = 32768
_MOST_QUEUES = 256
_LONGEST_SERIAL = 20
_BLOCK_SIZES = (512, 4096)
_IO_ENGINES = ("auto", "io_uring", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig(ServedConfig):
    """How one disk is served. Each field is an option of the same name, with "-" for "_"."""

    WORD: ClassVar[str] = "disk"

    id: str = option(
        ID,
        "what the disk is called in logs, events and commands",
        default="disk",
        required=NAMED,
    )

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
    workers: int = option(Number(1, MOST_WORKERS), "threads that share the queues", default=1)
    io: str = option(
        Choice(*_IO_ENGINES),
        "how requests wait for the image (auto: io_uring if allowed)",
        default="auto",
    )
    poll_us: int = option(
        Number(0, LONGEST_POLL_US),
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
        yield from ServedConfig.problems(self)

    @property
    def built_in(self) -> bool:
        """Whether no disk was named."""
        return self.blk_file is None and self.memory is None and self.null is None
