"""What a fuzz target says that happened: its trace, record by record.

The other end is tests/fuzz/harness/trace.c. A trace has the writes to guest memory, the calls with
their results, and what the engine changed, so that reading it takes no knowledge of how inputs are
decoded; each input stands there, too, to be kept when it shows a difference. All numbers are
little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from vhostuser.virtqueue import Buffer, RingState

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Call", "Popped", "Record", "Start", "Stop", "Write", "read_trace"]

_START = struct.Struct("<QI3Q2H2BiIH")
_PLACE = struct.Struct("<QII")
_WRITE = struct.Struct("<IH")
_CALL = struct.Struct("<QiBQ2H2B")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_CHAIN = struct.Struct("<4H")
_PART = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class Place:
    """A region of guest memory: its address, its size, and where it lies in the file."""

    gpa: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Start:
    """A new input: guest memory is zero, and a ring was created or refused."""

    features: int
    num: int
    areas: tuple[int, int, int]
    state: RingState
    result: int
    file_size: int
    places: tuple[Place, ...]
    input: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Somebody other than the engine wrote into guest memory."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Popped:
    """The chain that a pop returned."""

    id: int
    slots: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call, its result, the ring after it, and what it wrote."""

    kind: str
    argument: int
    result: int
    fault: int
    value: int
    state: RingState
    changes: tuple[Write, ...]
    chain: Popped | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The end of an input that was carried out."""


Record: TypeAlias = Start | Write | Call | Stop


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def bytes(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.bytes(layout.size))

    def start(self) -> Start:
        features, num, desc, driver, device, avail, used, a_wrap, u_wrap, result, size, count = (
            self.fields(_START)
        )
        return Start(
            features,
            num,
            (desc, driver, device),
            RingState(avail=avail, used=used, avail_wrap=bool(a_wrap), used_wrap=bool(u_wrap)),
            result,
            size,
            tuple(Place(*self.fields(_PLACE)) for _ in range(count)),
            self.bytes(self.fields(_U32)[0]),
        )

    def write(self) -> Write:
        offset, size = self.fields(_WRITE)
        return Write(offset, self.bytes(size))

    def _changes(self) -> Iterator[Write]:
        while size := self.fields(_U16)[0]:
            (offset,) = self.fields(_U32)
            yield Write(offset, self.bytes(size))

    def _chain(self) -> Popped:
        assert self.bytes(1) == b"C"
        identity, slots, readable, writable = self.fields(_CHAIN)
        parts = [Buffer(*self.fields(_PART)) for _ in range(readable + writable)]
        return Popped(identity, slots, tuple(parts[:readable]), tuple(parts[readable:]))

    def call(self, kind: str) -> Call:
        argument, result, fault, value, avail, used, a_wrap, u_wrap = self.fields(_CALL)
        state = RingState(avail=avail, used=used, avail_wrap=bool(a_wrap), used_wrap=bool(u_wrap))
        changes = tuple(self._changes())
        chain = self._chain() if kind == "p" and result == 1 else None
        return Call(kind, argument, result, fault, value, state, changes, chain)


def read_trace(stream: BinaryIO) -> Iterator[Record]:
    """Yield the records of a trace until it ends, also in the middle of one."""
    reader = _Reader(stream)
    try:
        while True:
            kind = reader.bytes(1).decode("ascii")
            if kind == "I":
                yield reader.start()
            elif kind == "W":
                yield reader.write()
            elif kind == "E":
                yield Stop()
            else:
                yield reader.call(kind)
    except EOFError:
        return
