"""A stream of bytes and fds, cut into messages.

A receiver reads as much as there is, many messages at once. Fds ride on the first byte of a write,
and the system ends a read with the write whose fds it delivers, though it may begin with others:
of the messages that begin in a read, its fds belong to the last one. Specification: vfio-user,
"Message", and the system's rules for ancillary data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from protocol.vfio_user.errors import FatalProtocolError
from protocol.vfio_user.framing import HEADER_SIZE
from protocol.vfio_user.hot import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from protocol.messages import Closeable

__all__ = ["Arrived", "Intake", "close_all"]

_SIZE = 2  # of the header's fields


class Arrived(NamedTuple):
    """A message as it came; nothing in it has been checked but its size.

    Attributes:
        id: As in the header.
        command: As in the header.
        flags: As in the header.
        error: As in the header.
        payload: All behind the header.
        fds: Those that came with its first byte.
        stray: Number of fds that came later, and were closed.
    """

    id: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: tuple[Closeable, ...]
    stray: int


class Intake:
    """Cuts a stream into messages.

    Args:
        max_size: Bytes of the largest message, header included.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._held = bytearray()
        self._wanted = HEADER_SIZE
        self._fds: tuple[Closeable, ...] = ()
        self._stray = 0
        self._broken: tuple[Arrived, FatalProtocolError] | None = None

    @property
    def unfinished(self) -> int:
        """Bytes of the message that is not complete yet."""
        return len(self._held)

    def feed(self, data: bytes, fds: Sequence[Closeable]) -> list[Arrived]:
        """Take what was read, and return the messages that are complete now.

        Args:
            data: The bytes of one read.
            fds: The descriptors of that read, taken over.
        """
        data = bytes(data)  # the same object, as a rule
        if not data:
            close_all(fds)
            return []
        begun = len(self._held)
        if begun:
            self._held += data
            if len(self._held) < self._wanted:
                self._note_stray(fds)
                return []
            data = bytes(self._held)
            self._held.clear()
        return self._cut(data, begun, tuple(fds))

    def _cut(self, data: bytes, begun: int, fds: tuple[Closeable, ...]) -> list[Arrived]:
        owner = self._owner(data, begun) if fds else -1
        if fds and owner < 0:
            self._note_stray(fds)
        found: list[Arrived] = []
        at, end = 0, len(data)
        while end - at >= HEADER_SIZE:
            number, command, size, flags, error = HEADER.unpack_from(data, at)
            if at == owner:
                self._fds = fds
            if not self._is_legal(size):
                arrived = Arrived(number, command, flags, error, b"", *self._take_fds())
                self._broken = arrived, self._size_error(size)
                return found
            if end - at < size:
                self._wanted = size
                break
            payload = data[at + HEADER_SIZE : at + size]
            found.append(Arrived(number, command, flags, error, payload, *self._take_fds()))
            at += size
        else:
            self._wanted = HEADER_SIZE
            if at == owner:
                self._fds = fds
        self._held += data[at:]
        return found

    def _take_fds(self) -> tuple[tuple[Closeable, ...], int]:
        taken = self._fds, self._stray
        self._fds, self._stray = (), 0
        return taken

    def _owner(self, data: bytes, begun: int) -> int:
        """Return where the last message begins; -1: none begins in this read."""
        last, at = -1, 0
        while at < len(data):
            if at >= begun:
                last = at
            if len(data) - at < HEADER_SIZE:
                break
            size = HEADER.unpack_from(data, at)[_SIZE]
            if not self._is_legal(size):
                break
            at += size
        return last

    def _is_legal(self, size: int) -> bool:
        return HEADER_SIZE <= size <= self._max_size

    def _note_stray(self, fds: Sequence[Closeable]) -> None:
        self._stray += len(fds)
        close_all(fds)

    def _size_error(self, size: int) -> FatalProtocolError:
        return FatalProtocolError(
            f"a message has {HEADER_SIZE} to {self._max_size} bytes, its header included",
            field="size",
            value=size,
        )

    def take_broken(self) -> tuple[Arrived, FatalProtocolError] | None:
        """Return the header with which the stream stopped making sense, and why."""
        broken, self._broken = self._broken, None
        return broken

    def close(self) -> None:
        """Drop an unfinished message with its fds."""
        fds, _ = self._take_fds()
        close_all(fds)
        self._held.clear()
        self._wanted = HEADER_SIZE


def close_all(fds: Iterable[Closeable]) -> None:
    """Close fds."""
    for fd in fds:
        fd.close()
