"""Guest memory: mapped regions and the snapshots that rings work on."""

from vhostuser.memory.table import (
    MAX_SLOTS,
    MappedRegion,
    MemoryChange,
    MemoryTable,
    Snapshot,
    same_region,
)

__all__ = [
    "MAX_SLOTS",
    "MappedRegion",
    "MemoryChange",
    "MemoryTable",
    "Snapshot",
    "same_region",
]
