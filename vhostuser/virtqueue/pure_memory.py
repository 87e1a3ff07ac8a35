"""Guest memory for the pure-Python rings: byte arrays at guest-physical addresses.

Nothing here is fast, shared or mapped; it is what the engine's memory table means, spelled out.
Specification: vhost-user, "Memory region description".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio import (
    RingArea,
    VirtioFeatures,
    index_distance,
    is_ring_size,
    ring_area_alignment,
)
from vhostuser.virtqueue.model import Buffer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vhostuser.virtqueue.model import RingState

__all__ = ["ADDRESS_SPACE", "PureMemory", "PureRingConfig"]

ADDRESS_SPACE = 1 << 64
_ADDRESS_ERROR = "these bytes are not all in one region of guest memory"


class PureMemory:
    """Regions of guest memory.

    Args:
        regions: the bytes of each, by the guest-physical address of the first; they must not
            overlap.
    """

    def __init__(self, regions: Mapping[int, bytearray | memoryview]) -> None:
        self.regions = {gpa: memoryview(region) for gpa, region in regions.items()}

    def _view(self, gpa: int, length: int) -> memoryview | None:
        """Return the bytes of [gpa, gpa + length), or None unless one region holds them all."""
        for start, region in self.regions.items():
            if start <= gpa and gpa + length <= start + len(region):
                return region[gpa - start : gpa - start + length]
        return None

    def holds(self, gpa: int, length: int) -> bool:
        """Return whether one region holds all of [gpa, gpa + length)."""
        return self._view(gpa, length) is not None

    def parts(self, buffer: Buffer) -> Iterator[Buffer | None]:
        """Cut a buffer at the edges of regions; the last part is None where memory has a hole."""
        gpa, end = buffer.address, buffer.address + buffer.length
        while gpa < end:
            start = next((start for start in self.regions if self._is_in(gpa, start)), None)
            if start is None:
                yield None
                return
            length = min(end, start + len(self.regions[start])) - gpa
            yield Buffer(gpa, length)
            gpa += length

    def _is_in(self, gpa: int, start: int) -> bool:
        return start <= gpa < start + len(self.regions[start])

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of bytes that one region holds.

        Raises:
            ValueError: no region does.
        """
        view = self._view(gpa, length)
        if view is None:
            raise ValueError(_ADDRESS_ERROR)
        return bytes(view)

    def write(self, gpa: int, data: bytes) -> None:
        """Overwrite bytes that one region holds.

        Raises:
            ValueError: no region does.
        """
        view = self._view(gpa, len(data))
        if view is None:
            raise ValueError(_ADDRESS_ERROR)
        view[:] = data

    def read_u16(self, gpa: int) -> int:
        """Return a 16-bit field."""
        return int.from_bytes(self.read(gpa, 2), "little")

    def write_u16(self, gpa: int, value: int) -> None:
        """Overwrite a 16-bit field with the low 16 bits of a number."""
        self.write(gpa, (value % (1 << 16)).to_bytes(2, "little"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PureRingConfig:
    """A ring by its guest-physical addresses: what `RingConfig` is to the engine.

    Attributes:
        features: negotiated virtio features; they choose layout and notification.
        num: ring size in descriptors, 1 to 32768, a power of two for a split ring.
        desc: address of the descriptor area.
        driver: address of the available ring, or of a packed ring's driver events.
        device: address of the used ring, or of a packed ring's device events.
        state: where to go on.

    Raises:
        ValueError: a ring cannot have that size, alignment or position.
    """

    features: VirtioFeatures
    num: int
    desc: int
    driver: int
    device: int
    state: RingState

    def __post_init__(self) -> None:
        if not is_ring_size(self.num, packed=self.packed):
            raise ValueError(f"a ring cannot have {self.num} descriptors")
        for area, address in zip(RingArea, (self.desc, self.driver, self.device), strict=True):
            if address % ring_area_alignment(area, packed=self.packed):
                raise ValueError(f"the {area.name} area at {address:#x} is not aligned")
        if not self._is_position():
            raise ValueError(f"a ring of {self.num} descriptors cannot be at {self.state}")

    def _is_position(self) -> bool:
        avail, used = self.state.avail, self.state.used
        if self.packed:
            if not (0 <= avail < self.num and 0 <= used < self.num):
                return False
            laps = self.state.avail_wrap != self.state.used_wrap  # the used one is a lap behind
            return 0 <= avail - used + laps * self.num <= self.num
        return index_distance(avail, used) <= self.num

    @property
    def packed(self) -> bool:
        """Whether the ring has the packed layout."""
        return VirtioFeatures.RING_PACKED in self.features

    @property
    def event_idx(self) -> bool:
        """Whether each side says at which entry it wants to be notified."""
        return VirtioFeatures.EVENT_IDX in self.features
