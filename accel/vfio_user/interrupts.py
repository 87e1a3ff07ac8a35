"""The eventfds that a client wants signalled, by interrupt index and vector.

They belong to this table from the command that brought them to the one that takes them away.
Specification: vfio-user, SET_IRQS.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vhostuser.fds import OwnedFd

__all__ = ["Interrupts"]


class Interrupts:
    """All vectors of a device. Close it.

    Args:
        counts: vectors of each index.
    """

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._vectors: dict[int, list[OwnedFd | None]] = {
            index: [None] * count for index, count in counts.items()
        }

    def count(self, index: int) -> int:
        """Return how many vectors an index has."""
        return len(self._vectors.get(index, ()))

    def replace(self, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
        """Take over eventfds, and close those that they replace."""
        vectors = self._vectors[index]
        for at, fd in enumerate(fds, start):
            old, vectors[at] = vectors[at], fd
            if old is not None:
                old.close()

    def trigger(self, index: int, vectors: Iterable[int]) -> None:
        """Signal vectors as the device would; those without an eventfd are left out."""
        for at in vectors:
            fd = self._vectors[index][at]
            if fd is not None:
                # A client can let the counter run full, and whoever adds to it would wait.
                os.set_blocking(fd.fileno(), False)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(fd.fileno(), 1)

    def close(self) -> None:
        """Close all eventfds; the device must not use them any more."""
        for index, vectors in self._vectors.items():
            self.replace(index, 0, [None] * len(vectors))
