"""What can be chosen of a simulated device, besides what its rings are served from."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from vhostuser.disks import OptionTable, option
from vhostuser.disks.kinds import Flag, Number, NumberChoice

__all__ = ["PAGE_SIZES", "SimulatorOptions"]

PAGE_SIZES = (4096, 16384, 65536)
"""Page sizes of hosts."""
_MOST_VECTORS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions(OptionTable):
    """The shape of the PCI function. Each field is an option of the same name."""

    page_size: int = option(
        NumberChoice(*PAGE_SIZES),
        "bytes of the page that each queue's doorbell has to itself",
        default=mmap.PAGESIZE,
    )
    shared_notify: bool = option(
        Flag(), "all doorbells in one page, 4 bytes apart: none can be handed over", default=False
    )
    vectors: int | None = option(
        Number(1, _MOST_VECTORS),
        "MSI-X vectors (without: one for each queue, and one for configuration changes)",
    )
