"""Where a ring's three areas lie in guest memory: taken from it, cleared, given back.

Specification: VIRTIO 1.2 §2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.native import lib

if TYPE_CHECKING:
    from protocol.virtio import VirtioFeatures
    from vhostuser.frontend.memory import GuestBuffer, GuestMemory

__all__ = ["RingAreas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RingAreas:
    """The three areas of a ring in guest memory.

    Attributes:
        desc: descriptor area.
        driver: split: available ring; packed: driver event suppression.
        device: split: used ring; packed: device event suppression.
    """

    desc: GuestBuffer
    driver: GuestBuffer
    device: GuestBuffer

    @classmethod
    def allocate(cls, memory: GuestMemory, features: VirtioFeatures, num: int) -> RingAreas:
        """Take room for a ring of `num` descriptors and clear it.

        Raises:
            MemoryError: guest memory is full.
        """
        areas = []
        for area in range(3):
            size = lib.vhu_ring_area_size(int(features), num, area)
            alignment = lib.vhu_ring_area_alignment(int(features), area)
            buffer = memory.alloc(size, alignment=alignment)
            memory.write(buffer.gpa, bytes(size))
            areas.append(buffer)
        desc, driver, device = areas
        return cls(desc=desc, driver=driver, device=device)

    def free(self, memory: GuestMemory) -> None:
        """Give the room back."""
        for buffer in (self.desc, self.driver, self.device):
            memory.free(buffer)
