"""Memory by its device addresses (IOVA): which ranges there are, and who uses them right now.

Both ends keep such a table: the server of what it was given, the client of what it gave away. No
range is taken out while somebody uses it. Specification: vfio-user, DMA_MAP, DMA_UNMAP.
"""

from __future__ import annotations

import contextlib
import errno
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DmaTable", "Piece", "Span"]


class Span(Protocol):
    """A range of memory, one byte long at least."""

    @property
    def address(self) -> int:
        """Of its first byte."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def readable(self) -> bool:
        """Whether a device may read it."""

    @property
    def writable(self) -> bool:
        """Whether a device may write it."""


_S = TypeVar("_S", bound=Span)


@dataclass(frozen=True, slots=True, eq=False)
class Piece(Generic[_S]):
    """The part of an access that lies in one range.

    Attributes:
        span: the range.
        offset: of the part, bytes from the beginning of the range.
        size: of the part, bytes.
    """

    span: _S
    offset: int
    size: int


@dataclass(slots=True, eq=False)
class _Entry(Generic[_S]):
    span: _S
    users: int = 0
    leaving: bool = False
    idle: trio.Event = field(default_factory=trio.Event)

    @property
    def end(self) -> int:
        return self.span.address + self.span.size


class DmaTable(Generic[_S]):
    """Ranges that do not overlap, by address.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._starts: list[int] = []
        self._entries: list[_Entry[_S]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[_S]:
        return iter([entry.span for entry in self._entries])

    def add(self, span: _S) -> None:
        """Add a range.

        Raises:
            AcceleratorError: EEXIST: it overlaps another, or is the same; ENOSPC: the table is
                full.
        """
        if len(self._entries) >= self._most:
            raise AcceleratorError(f"at most {self._most} ranges can be mapped", errno.ENOSPC)
        # The first that could overlap begins below `span`; those after it begin inside or behind.
        at = bisect_right(self._starts, span.address)
        for entry in self._entries[max(at - 1, 0) : at + 1]:
            if entry.span.address < span.address + span.size and span.address < entry.end:
                raise AcceleratorError(
                    f"{span.address:#x}, {span.size:#x} bytes, overlaps what is mapped at "
                    f"{entry.span.address:#x}, {entry.span.size:#x} bytes",
                    errno.EEXIST,
                )
        self._starts.insert(at, span.address)
        self._entries.insert(at, _Entry(span))

    async def drain(self, address: int, size: int) -> _S:
        """Let nobody begin to use a range any more, and wait for those who do.

        Cancelled: nobody can use it all the same.

        Returns:
            The range; `discard` takes it out of the table.

        Raises:
            AcceleratorError: ENOENT: no range begins there and is just that long.
        """
        at = bisect_left(self._starts, address)
        entry = self._entries[at] if at < len(self._entries) else None
        if entry is None or entry.span.address != address or entry.span.size != size:
            raise AcceleratorError(
                f"nothing is mapped at {address:#x} that is {size:#x} bytes long", errno.ENOENT
            )
        entry.leaving = True
        if entry.users:
            await entry.idle.wait()
        else:
            await trio.lowlevel.checkpoint()
        return entry.span

    def discard(self, span: _S) -> None:
        """Take a range out of the table; nobody may be using it."""
        at = bisect_left(self._starts, span.address)
        del self._starts[at], self._entries[at]

    @contextlib.contextmanager
    def use(self, address: int, size: int, *, write: bool) -> Iterator[list[Piece[_S]]]:
        """Hold the ranges of an access while a block lasts.

        Args:
            address: of the first byte.
            size: bytes; the access may run through ranges that follow each other without a gap.
            write: whether the device writes.

        Yields:
            The access in pieces, by address.

        Raises:
            AcceleratorError: EFAULT: not all of it is mapped; EACCES: not for this.
        """
        entries, pieces = self._find(address, size, write=write)
        for entry in entries:
            entry.users += 1
        try:
            yield pieces
        finally:
            for entry in entries:
                entry.users -= 1
                if entry.leaving and not entry.users:
                    entry.idle.set()

    def _find(
        self, address: int, size: int, *, write: bool
    ) -> tuple[list[_Entry[_S]], list[Piece[_S]]]:
        entries: list[_Entry[_S]] = []
        pieces: list[Piece[_S]] = []
        at = bisect_right(self._starts, address) - 1
        done = 0
        while done < size:
            entry = self._entries[at] if 0 <= at < len(self._entries) else None
            offset = -1 if entry is None else address + done - entry.span.address
            if entry is None or entry.leaving or not 0 <= offset < entry.span.size:
                raise AcceleratorError(
                    f"{address + done:#x} is not mapped, of {size:#x} bytes at {address:#x}",
                    errno.EFAULT,
                )
            if not (entry.span.writable if write else entry.span.readable):
                verb = "write" if write else "read"
                raise AcceleratorError(f"the device may not {verb} {address:#x}", errno.EACCES)
            part = min(size - done, entry.span.size - offset)
            entries.append(entry)
            pieces.append(Piece(entry.span, offset, part))
            done += part
            at += 1
        return entries, pieces
