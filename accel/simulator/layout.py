"""Where the simulated function has what: its BARs, the structures in them, its capabilities.

BAR 0 holds registers, which are reached by messages; BAR 2 holds nothing but doorbells and can be
mapped; BAR 4 holds the MSI-X table, which clients keep themselves. BARs 0 and 2 have 64 bits.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from protocol.virtio.pci import (
    COMMON_SIZE_WITH_RESET,
    QUEUE_STATE_SIZE,
    Capability,
    CapabilityType,
    MsixCapability,
    QueueStateCapability,
    StructureCapability,
)

__all__ = [
    "COMMON",
    "DEVICE",
    "ISR",
    "MSIX_BAR",
    "NOTIFY_BAR",
    "QUEUE_STATE",
    "REGISTERS_BAR",
    "Layout",
]

REGISTERS_BAR = 0
NOTIFY_BAR = 2
MSIX_BAR = 4
_STRUCTURE_ROOM = 0x1000
_PENDING_OFFSET = 0x8000
_MSIX_SIZE = 0x10000
_SHARED_MULTIPLIER = 4

COMMON = StructureCapability(
    type=CapabilityType.COMMON, bar=REGISTERS_BAR, offset=0, size=COMMON_SIZE_WITH_RESET
)
ISR = StructureCapability(
    type=CapabilityType.ISR, bar=REGISTERS_BAR, offset=_STRUCTURE_ROOM, size=1
)
DEVICE = StructureCapability(
    type=CapabilityType.DEVICE, bar=REGISTERS_BAR, offset=2 * _STRUCTURE_ROOM, size=256
)
QUEUE_STATE = QueueStateCapability(
    bar=REGISTERS_BAR, offset=3 * _STRUCTURE_ROOM, size=QUEUE_STATE_SIZE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What of the function's shape can be chosen.

    Attributes:
        device_type: virtio device type: 1 net, 2 block.
        queues: how many it has.
        vectors: MSI-X vectors, 1 to 2048.
        page_size: bytes from one doorbell to the next, each on a page of its own.
        shared_notify: all doorbells lie in one page instead, 4 bytes apart.
    """

    device_type: int
    queues: int
    vectors: int
    page_size: int = mmap.PAGESIZE
    shared_notify: bool = False

    @property
    def multiplier(self) -> int:
        """Bytes from one doorbell to the next."""
        return _SHARED_MULTIPLIER if self.shared_notify else self.page_size

    @property
    def notify_size(self) -> int:
        """Bytes of the notification structure: whole pages, of the host's, too."""
        page = max(self.page_size, mmap.PAGESIZE)
        return -(-self.queues * self.multiplier // page) * page

    @property
    def bar_sizes(self) -> dict[int, int]:
        """Bytes of each BAR, powers of two."""
        return {
            REGISTERS_BAR: 4 * _STRUCTURE_ROOM,
            NOTIFY_BAR: 1 << (self.notify_size - 1).bit_length(),
            MSIX_BAR: _MSIX_SIZE,
        }

    @property
    def wide_bars(self) -> frozenset[int]:
        """The BARs that have 64 bits."""
        return frozenset({REGISTERS_BAR, NOTIFY_BAR})

    @property
    def msix(self) -> MsixCapability:
        """Where the vectors are."""
        return MsixCapability(
            vectors=self.vectors,
            table_bar=MSIX_BAR,
            table_offset=0,
            pending_bar=MSIX_BAR,
            pending_offset=_PENDING_OFFSET,
        )

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """All capabilities, the window into the BARs last."""
        notify = StructureCapability(
            type=CapabilityType.NOTIFY,
            bar=NOTIFY_BAR,
            offset=0,
            size=self.notify_size,
            multiplier=self.multiplier,
        )
        window = StructureCapability(type=CapabilityType.PCI, bar=0, offset=0, size=0)
        return (self.msix, COMMON, notify, ISR, DEVICE, QUEUE_STATE, window)

    def doorbell(self, index: int) -> int:
        """Return where a queue's doorbell is, in bytes from the beginning of its BAR."""
        return index * self.multiplier

    def queue_of(self, offset: int) -> int | None:
        """Return whose doorbell is at an offset of its BAR; None: nobody's."""
        index, inset = divmod(offset, self.multiplier)
        return index if inset == 0 and index < self.queues else None
