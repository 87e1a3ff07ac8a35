"""Traffic of vfio-user to begin with, and a socket as it treats fds, without a socket."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from protocol import vfio_user as v
from protocol.addresses import Iova

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

__all__ = ["CAPTURES", "Corpus", "Wire", "Write", "load", "messages_of", "payload_of"]

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("vfio-user-*.jsonl"))
_SIZES = (1, 3, 15, 16, 17, 48, 100, 4096, 65536)


@dataclass(frozen=True, slots=True)
class Write:
    """What a peer writes at once.

    Attributes:
        data: The bytes.
        fds: Number of fds on the first byte.
    """

    data: bytes
    fds: int = 0

    def with_id(self, number: int) -> Write:
        """Return the same message with another id."""
        return replace(self, data=number.to_bytes(2, "little") + self.data[2:])


class Wire:
    """A stream socket that somebody has written to.

    A read may begin with writes that bring no fds, and ends with the first that does.

    Args:
        writes: What was written.
    """

    def __init__(self, writes: list[Write]) -> None:
        self._writes = deque(write for write in writes if write.data)

    def read(self, rng: random.Random) -> tuple[bytes, int] | None:
        """Return bytes and number of fds of one read of random size; None at the end."""
        room = rng.choice(_SIZES)
        data, fds = b"", 0
        while self._writes and room > len(data) and not fds:
            write = self._writes.popleft()
            part = write.data[: room - len(data)]
            data += part
            fds = write.fds
            if len(part) < len(write.data):
                self._writes.appendleft(Write(write.data[len(part) :]))
        return (data, fds) if data else None


@dataclass(frozen=True, slots=True)
class Corpus:
    """Traffic that breaks no rule.

    Attributes:
        versions: Proposals with their answers.
        proposals: The proposals as they are written.
        requests: The client's commands.
        server_requests: The server's commands.
        pairs: The client's commands, their fds, and their answers.
    """

    versions: list[tuple[v.Version, Write]]
    proposals: list[Write]
    requests: list[Write]
    server_requests: list[Write]
    pairs: list[tuple[v.Message, int, Write]]


def messages_of(path: Path) -> Iterator[tuple[str, Write]]:
    """Return what a recording holds, each with its direction (c2s, s2c).

    Recordings keep the beginning of very long messages only; zeros stand for the rest.
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "hex" in record:
            data = bytes.fromhex(record["hex"]).ljust(record["len"], b"\0")
            yield record["dir"], Write(data, record["nfds"])


def payload_of(write: Write) -> tuple[v.Header, v.CommandRow, v.Message | None]:
    """Return a message's header, row, and typed payload; None for an error or nothing."""
    header = v.Header.parse(write.data)
    row = v.COMMANDS[header.command]
    part = row.reply if header.is_reply else row.request
    message = None if header.is_error else part.parse(write.data[v.HEADER_SIZE :])
    return header, row, message


_AREA = v.SparseMmap((v.MmapArea(0, 0x1000), v.MmapArea(0x2000, 0x1000)))
_WRITES = (
    v.RegionWrite(offset=0, region=2, data=b"\1\2"),
    v.RegionWrite(offset=8, region=2, data=bytes(8)),
)
_MORE: tuple[tuple[v.Message, int, v.Message | None, int], ...] = (
    (
        v.DeviceGetRegionInfo(index=2, argsz=4096),
        0,
        v.RegionInfo.describing(2, size=0x4000, flags=7, capabilities=(_AREA, v.RegionType(1, 2))),
        1,
    ),
    (
        v.DeviceGetRegionIoFds(index=2, argsz=4096),
        0,
        v.RegionIoFds(index=2, entries=(v.IoFd(offset=0, size=2, fd_index=0, value=1),)),
        1,
    ),
    (
        v.DeviceGetRegionIoFds(index=2, argsz=4096),
        0,
        v.RegionIoFds(
            index=2,
            entries=(v.IoFd(offset=0, size=2, fd_index=0, type=2, shadow_index=1),) * 2,
            stride=48,
        ),
        2,
    ),
    (v.DmaUnmap.all(), 0, v.DmaUnmapReply.all(), 0),
    (v.DeviceSetIrqs(flags=0x24, index=2, count=3), 3, None, 0),
    (v.DeviceSetIrqs(flags=0x22, index=2, count=3, data=b"\1\0\1"), 0, None, 0),
    (v.RegionWriteMulti(writes=_WRITES), 0, v.RegionWriteMultiReply(count=2), 0),
    (v.MigDataWrite(data=b"state"), 0, None, 0),
    (v.MigDataRead.of(8), 0, v.MigDataReadReply(data=b"state"), 0),
)
_SERVER_REQUESTS: tuple[v.Message, ...] = (
    v.DmaRead(address=Iova(0x1000), count=16),
    v.DmaWrite(address=Iova(0x1000), data=b"data"),
)
_PROPOSAL = v.Version.offering(
    v.Capabilities(max_msg_fds=16, write_multiple=True, twin_socket=v.TwinSocket(supported=True))
)
_ANSWER = v.VersionReply.offering(
    v.Capabilities(
        max_msg_fds=16, write_multiple=True, twin_socket=v.TwinSocket(supported=True, fd_index=0)
    )
)


def _written(message: v.Message | None, row: v.CommandRow, fds: int, *, reply: bool) -> Write:
    payload = (row.reply if reply else row.request).build(message)
    header = v.Header(id=0, command=row.number, size=16 + len(payload), flags=int(reply))
    return Write(header.build() + payload, fds)


def load() -> Corpus:
    """Return recorded and hand-made traffic, without repetitions."""
    corpus = Corpus([], [], [], [], [])
    seen: set[tuple[int, int, int, bytes]] = set()
    for path in CAPTURES:
        _add_recording(corpus, path, seen)
    for message, fds, reply, reply_fds in _MORE:
        row = _row(message)
        request = _written(message, row, fds, reply=False)
        corpus.requests.append(request)
        corpus.pairs.append((message, fds, _written(reply, row, reply_fds, reply=True)))
    for message in _SERVER_REQUESTS:
        corpus.server_requests.append(_written(message, _row(message), 0, reply=False))
    version = _row(_PROPOSAL)
    corpus.proposals.append(_written(_PROPOSAL, version, 0, reply=False))
    corpus.versions.append((_PROPOSAL, _written(_ANSWER, version, 1, reply=True)))
    return corpus


def _row(message: v.Message) -> v.CommandRow:
    row = v.row_of(type(message))
    if row is None:
        raise LookupError(type(message).__name__)
    return row


def _add_recording(corpus: Corpus, path: Path, seen: set[tuple[int, int, int, bytes]]) -> None:
    asked: dict[tuple[str, int], tuple[v.Message, Write]] = {}
    for way, write in messages_of(path):
        header, row, message = payload_of(write)
        if not header.is_reply and message is not None:
            asked[way, header.id] = message, write
        other = "c2s" if way == "s2c" else "s2c"
        if not header.is_reply or (other, header.id) not in asked:
            continue
        request, written = asked.pop((other, header.id))
        kind = (header.command, header.flags, len(write.data), written.data[16:24])
        if kind in seen or header.size > 8192:
            continue
        seen.add(kind)
        if isinstance(request, v.Version):
            corpus.versions.append((request, write))
            corpus.proposals.append(written)
        elif row.sender is v.Role.CLIENT:
            corpus.pairs.append((request, written.fds, write))
            corpus.requests.append(written)
        else:
            corpus.server_requests.append(written)
