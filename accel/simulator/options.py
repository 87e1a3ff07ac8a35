"""What can be chosen of a simulated device; a disk's own options are those of `vhostuser blk`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.options import (
    FileName,
    Flag,
    Mac,
    Number,
    NumberChoice,
    OptionTable,
    Problem,
    Source,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PAGE_SIZES", "NetSimulatorOptions", "SimulatorOptions"]

PAGE_SIZES = (4096, 16384, 65536)
"""Page sizes of hosts."""
_MOST_VECTORS = 2048
_LARGEST_QUEUE = 32768
_LONGEST_POLL_US = 1_000_000
_SMALLEST_MTU, _LARGEST_MTU = 68, 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions(OptionTable):
    """The shape of the PCI function. Each field is an option of the same name."""

    page_size: int | None = option(
        NumberChoice(*PAGE_SIZES),
        "bytes of the page that each queue's doorbell has to itself (without: the host's)",
    )
    shared_notify: bool = option(
        Flag(), "all doorbells in one page, 4 bytes apart: none can be handed over", default=False
    )
    vectors: int | None = option(
        Number(1, _MOST_VECTORS),
        "MSI-X vectors (without: one for each queue, and one for configuration changes)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetSimulatorOptions(OptionTable):
    """A simulated network device, or two of them. Each field is an option of the same name."""

    socket_path: Path | None = option(
        FileName(), "listen on this UNIX socket", required=frozenset({Source.COMMAND_LINE})
    )
    peer: Path | None = option(
        FileName(),
        "simulate a second device there: each receives what the other sends "
        "(without: a device receives what it sends itself)",
    )
    mac: bytes | None = option(
        Mac(), "address of the first device (without: 02:00:00:00:00:00, its peer's ends in 01)"
    )
    mtu: int = option(
        Number(_SMALLEST_MTU, _LARGEST_MTU), "largest payload of a frame, in bytes", default=1500
    )
    queue_size: int = option(Number(2, _LARGEST_QUEUE), "largest ring size accepted", default=1024)
    poll_us: int = option(
        Number(0, _LONGEST_POLL_US),
        "longest time to poll an idle ring before sleeping, in us",
        default=50,
    )
    busy_poll: bool = option(
        Flag(), "never sleep: the thread that moves frames keeps a processor busy", default=False
    )

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        if self.peer is not None and self.peer == self.socket_path:
            yield Problem("peer", "is the socket of the first device: give it one of its own")
