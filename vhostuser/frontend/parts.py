"""Buffers that belong together: taken all or not at all, filled, given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vhostuser.frontend.memory import GuestBuffer, GuestMemory

__all__ = ["allocate", "free", "place"]


def allocate(
    memory: GuestMemory, sizes: Iterable[int], *, alignment: int = 16
) -> list[GuestBuffer]:
    """Take a buffer of each size, or none at all.

    Raises:
        MemoryError: guest memory is full.
    """
    parts: list[GuestBuffer] = []
    try:
        parts.extend(memory.alloc(size, alignment=alignment) for size in sizes)
    except MemoryError:
        free(memory, parts)
        raise
    return parts


def place(memory: GuestMemory, data: bytes, sizes: Sequence[int] = ()) -> list[GuestBuffer]:
    """Put data into buffers of these sizes, and what is left into one more.

    Raises:
        MemoryError: guest memory is full.
    """
    rest = len(data) - sum(sizes)
    parts = allocate(memory, [*sizes, *([rest] if rest else [])])
    at = 0
    for part in parts:
        memory.write(part.gpa, data[at : at + part.length])
        at += part.length
    return parts


def free(memory: GuestMemory, parts: Iterable[GuestBuffer]) -> None:
    """Give buffers back."""
    for part in parts:
        memory.free(part)
