"""One queue's registers, and what they make of it: idle, enabled, suspended, failed.

The meaning of suspending and of positions is told in `protocol.virtio.pci.queue_state`.
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
    ring_area_size,
)
from protocol.virtio.pci import MSI_NO_VECTOR, QueueStatus, decode_position, encode_position
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = ["QueueRegisters"]

_SETTLED = frozenset({QueueStatus.IDLE, QueueStatus.SUSPENDED})


@dataclass(slots=True, kw_only=True)
class QueueRegisters:
    """What a driver has written of a queue, and what became of it.

    Attributes:
        most: largest size, in descriptors.
        size: chosen size; the driver's word, not checked yet.
        vector: MSI-X vector, or MSI_NO_VECTOR.
        enabled: what `queue_enable` reads as.
        desc: address of the descriptor area.
        driver: address of the driver area.
        device: address of the device area.
        status: what the queue is doing.
        avail: position in the available ring, as the register has it.
        used: position in the used ring, as the register has it.
        placed: which of the two positions count.
        running: whether it is being served.
        waits: whether it is to go on when its memory is back.
    """

    most: int
    size: int
    vector: int = MSI_NO_VECTOR
    enabled: bool = False
    desc: int = 0
    driver: int = 0
    device: int = 0
    status: QueueStatus = QueueStatus.IDLE
    avail: int = 0
    used: int = 0
    placed: frozenset[str] = frozenset()
    running: bool = False
    waits: bool = False

    @classmethod
    def new(cls, most: int) -> Self:
        """Return the registers as they are after a reset."""
        return cls(most=most, size=most)

    @property
    def settled(self) -> bool:
        """Whether size, addresses and position may be written."""
        return self.status in _SETTLED

    def areas(self, features: VirtioFeatures) -> Iterator[tuple[int, int]]:
        """Yield address and size in bytes of each of its areas."""
        packed = VirtioFeatures.RING_PACKED in features
        for area in RingArea:
            address: int = getattr(self, area.name.lower())
            yield address, ring_area_size(area, self.size, packed=packed)

    def place(self, name: str, value: int) -> None:
        """Take a position that the driver wrote: `avail` or `used`."""
        if self.settled:
            setattr(self, name, value)
            self.placed |= {name}

    def enable(self) -> bool:
        """Enable it; return whether that changed anything."""
        if not self.settled:
            return False
        self.enabled = True
        self.status = QueueStatus.ENABLED
        self.waits = False
        return True

    def state(self, features: VirtioFeatures) -> RingState:
        """Return where it starts or goes on."""
        packed = VirtioFeatures.RING_PACKED in features
        if self.placed != {"avail", "used"}:
            return RingState(avail=0, used=0)
        avail, avail_wrap = decode_position(self.avail, packed=packed)
        used, used_wrap = decode_position(self.used, packed=packed)
        return RingState(avail=avail, used=used, avail_wrap=avail_wrap, used_wrap=used_wrap)

    def stopped(self, state: RingState, features: VirtioFeatures) -> None:
        """Note where it stands now that it is served no longer."""
        packed = VirtioFeatures.RING_PACKED in features
        self.running = False
        self.avail = encode_position(state.avail, wrap=state.avail_wrap, packed=packed)
        self.used = encode_position(state.used, wrap=state.used_wrap, packed=packed)
        self.placed = frozenset({"avail", "used"})
        if self.status is QueueStatus.SUSPENDING:
            self.suspended()

    def suspended(self) -> None:
        """Note that it rests until it is enabled again."""
        self.status = QueueStatus.SUSPENDED
        self.enabled = False
        self.waits = False

    def broken_rule(self, features: VirtioFeatures) -> str | None:
        """Return why it cannot be served with what the driver wrote; None: it can."""
        packed = VirtioFeatures.RING_PACKED in features
        if not is_ring_size(self.size, packed=packed) or self.size > self.most:
            shape = "" if packed else "a power of two "
            return f"its size is {self.size}, not {shape}from 1 to {self.most}"
        for area in RingArea:
            address = getattr(self, area.name.lower())
            alignment = ring_area_alignment(area, packed=packed)
            if address % alignment:
                return f"its {area.name.lower()} area at {address:#x} is not {alignment}-aligned"
        state = self.state(features)
        if packed and max(state.avail, state.used) >= self.size:
            return f"its position {state.avail}, {state.used} is beyond its size of {self.size}"
        if not packed and index_distance(state.avail, state.used) > self.size:
            return (
                f"more than its {self.size} descriptors are between {state.used} and {state.avail}"
            )
        return None
