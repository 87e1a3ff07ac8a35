"""How a driver tells the device of new chains: what it can ring, and how often it did.

Specification: VIRTIO 1.2 §2.3, "Driver notifications".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Doorbell", "Kicks"]


@dataclass(slots=True)
class Kicks:
    """How often a queue was kicked.

    Attributes:
        page: by a store into its notify area.
        eventfd: by its kick fd.
        own: by its kick fd, once at each switch between the two.
    """

    page: int = 0
    eventfd: int = 0
    own: int = 0


class Doorbell(Protocol):
    """What a queue can ring instead of signalling its kick fd."""

    def ring(self, index: int) -> bool:
        """Tell the device of new chains in ring `index`; False: it was not told."""
