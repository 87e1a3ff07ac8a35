"""Invariant: whatever a peer sends, `receive` raises nothing, and no fd is lost or closed twice.

Whole sessions of `protocol.vfio_user` in process, in both roles: recorded traffic and hand-made
messages, then mutated, cut into reads as the system would. Also: a closed connection says nothing
more, a fatal rejection is the last event, what comes out can be built and parsed again, answers
are well-formed, and other cuts of the same stream give the same events.

    PYTHONPATH=tests/fuzz:tests/parts python -m fuzzing.vfio_user --sessions 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from protocol import vfio_user as v

from .vfio_user_traffic import Corpus, Wire, Write, load

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Figures", "FindingError", "fuzz", "run_session"]

_INTERESTING = (0, 1, 2, 4, 7, 8, 15, 16, 31, 32, 40, 48, 255, 4096, 1 << 16, 1 << 20, 1 << 31)
_MOST_MESSAGES = 8
_LEFT_OPEN = 0.1
_REFUSED = 0.2
_LIMITS = v.Limits(max_data_xfer_size=1 << 16, max_pending=64)


class FindingError(Exception):
    """An invariant did not hold."""


class Fd:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        """Count."""
        self.closes += 1


@dataclass(slots=True)
class Figures:
    """What sessions did."""

    sessions: int = 0
    messages: int = 0
    requests: int = 0
    replies: int = 0
    rejected: int = 0
    fatal: int = 0
    fds: int = 0

    def count(self, event: v.Event) -> None:
        """Count an event."""
        match event:
            case v.Request():
                self.requests += 1
            case v.Reply():
                self.replies += 1
            case v.Rejected():
                self.rejected += 1
                self.fatal += event.fatal


@dataclass(slots=True)
class Plan:
    """A session: what the peer writes, and what we do meanwhile; the same whenever it is played.

    Attributes:
        role: Ours.
        proposal: As a client: what we propose; None: not even that.
        asked: As a client: what we ask before the peer writes anything more.
        forgotten: Those of them whose answers are not waited for.
        writes: What the peer writes.
        intact: Whether each write is still one message, so that its fds are that message's.
        whims: Seed of what we answer.
    """

    role: v.Role
    proposal: v.Version | None = None
    asked: list[tuple[v.Message, int, bool]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    intact: bool = True
    whims: int = 0


def make_plan(rng: random.Random, corpus: Corpus) -> Plan:
    """Draw a session."""
    plan = Plan(rng.choice((v.Role.CLIENT, v.Role.SERVER)), whims=rng.getrandbits(32))
    if plan.role is v.Role.CLIENT:
        proposal, answer = rng.choice(corpus.versions)
        plan.proposal = proposal if rng.random() < 0.97 else None
        plan.writes.append(_maybe_mutated(rng, answer, plan, 0.1))
        _plan_replies(rng, corpus, plan)
    else:
        plan.writes.append(_maybe_mutated(rng, rng.choice(corpus.proposals), plan, 0.1))
        for _ in range(rng.randrange(_MOST_MESSAGES)):
            plan.writes.append(_maybe_mutated(rng, rng.choice(corpus.requests), plan, 0.4))
    if rng.random() < 0.2:
        rng.shuffle(plan.writes)
    return plan


def _plan_replies(rng: random.Random, corpus: Corpus, plan: Plan) -> None:
    number = 1 if plan.proposal else 0
    for _ in range(rng.randrange(_MOST_MESSAGES)):
        if rng.random() < 0.2:
            write = rng.choice(corpus.server_requests)
        else:
            message, fds, write = rng.choice(corpus.pairs)
            write = write.with_id(number)
            posted = rng.random() < 0.1
            plan.asked.append((message, fds, posted))
            if rng.random() < 0.1:
                plan.forgotten.append(number)
            number += 1
        plan.writes.append(_maybe_mutated(rng, write, plan, 0.4))


def _maybe_mutated(rng: random.Random, write: Write, plan: Plan, chance: float) -> Write:
    if rng.random() >= chance:
        return write
    data, fds = bytearray(write.data), write.fds
    for _ in range(rng.randint(1, 3)):
        mutate = rng.choice(_MUTATIONS)
        mutate(rng, data)
    if rng.random() < 0.2:
        fds = rng.choice((0, 1, 2, 3, 16, 17, 253))
    if rng.random() < 0.6 and len(data) >= v.HEADER_SIZE:
        data[4:8] = len(data).to_bytes(4, sys.byteorder)
    size = int.from_bytes(data[4:8], sys.byteorder)
    if len(data) < v.HEADER_SIZE or size != len(data):
        plan.intact = False
    return Write(bytes(data), fds)


def _flip(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray) -> None:
    width = rng.choice((2, 4, 8))
    if len(data) >= width:
        at = rng.randrange(len(data) // width) * width
        value = rng.choice(_INTERESTING) * rng.choice((1, 1, -1)) + rng.choice((-1, 0, 0, 1))
        data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, sys.byteorder)


def _cut_off(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _append(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(rng.choice((1, 2, 4, 8, 16, 24, 40, 48, 100)))


def _noise(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((1, 4, 8, 16))] = rng.randbytes(rng.choice((1, 4, 8, 16)))


def _command(rng: random.Random, data: bytearray) -> None:
    data[2:4] = rng.randrange(21).to_bytes(2, sys.byteorder)


def _flags(rng: random.Random, data: bytearray) -> None:
    value = rng.choice((0, 1, 2, 0x10, 0x11, 0x20, 0x21, 0x31, 0x40, rng.getrandbits(32)))
    data[8:12] = value.to_bytes(4, sys.byteorder)


def _text(rng: random.Random, data: bytearray) -> None:
    words = (b"{", b"}", b'"', b"null", b"-1", b"1e999", b"NaN", b"[" * 3000, b"9" * 5000, b"\0")
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, 1, 4))] = rng.choice(words)


_MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _number,
    _cut_off,
    _append,
    _noise,
    _command,
    _flags,
    _text,
)


class Player:
    """Plays a session and holds the connection to the invariants.

    Args:
        plan: The session.
        cuts: Seed of how the stream is cut; changes nothing else.
        figures: Where to count.
    """

    def __init__(self, plan: Plan, cuts: int, figures: Figures) -> None:
        self._plan = plan
        self._cuts = random.Random(cuts)  # noqa: S311 - no secret
        self._whims = random.Random(plan.whims)  # noqa: S311 - no secret
        self._figures = figures
        self._connection = v.Connection(plan.role, limits=_LIMITS)
        self._given: list[Fd] = []
        self._trace: list[str] = []

    def play(self) -> list[str]:
        """Play it all; return what came of it."""
        if self._plan.proposal is not None:
            self._connection.request(self._plan.proposal)
        self._read(self._plan.writes[:1])
        self._ask()
        self._read(self._plan.writes[1:])
        end = self._connection.receive_eof()
        if end is not None:
            self._trace.append(str(end.error))
        for fd in self._given:
            _require(fd.closes == 1, f"an fd was closed {fd.closes} times")
        self._figures.fds += len(self._given)
        return self._trace

    def _read(self, writes: list[Write]) -> None:
        wire = Wire(writes)
        while (read := wire.read(self._cuts)) is not None:
            data, count = read
            fds = [Fd() for _ in range(count)]
            self._given += fds
            was_closed = self._connection.closed
            events = self._connection.receive(data, fds)
            _require(not (was_closed and events), "a closed connection spoke")
            for at, event in enumerate(events):
                self._take(event, last=at == len(events) - 1)

    def _ask(self) -> None:
        if self._connection.negotiated is None:
            return
        for message, fds, posted in self._plan.asked:
            try:
                self._connection.request(message, fds=[Fd()] * fds, no_reply=posted)
            except v.LocalProtocolError as error:
                self._trace.append(str(error))
        for number in self._plan.forgotten:
            self._connection.forget(number)

    def _take(self, event: v.Event, *, last: bool) -> None:
        self._figures.count(event)
        for fd in event.fds:
            fd.close()
        match event:
            case v.Request():
                self._trace.append(f"{event.id} {v.describe(event.message)} {len(event.fds)}")
                _require_round_trip(event.row.request, event.message)
                self._answer(event)
            case v.Reply():
                shown = "" if event.message is None else v.describe(event.message)
                self._trace.append(f"{event.id} {event.error} {shown} {len(event.fds)}")
                row = v.row_of(type(event.request_message))
                _require(event.error is None or event.message is None, "an error says no more")
                if row is not None and event.message is not None:
                    _require_round_trip(row.reply, event.message)
            case v.Rejected():
                self._trace.append(f"{event.fatal} {event.error}")
                _require(self._connection.closed or not event.fatal, "fatal, but open")
                _require(last or not event.fatal, "something came after a fatal rejection")
                _require("\n" not in str(event.error), "an error has one line")
                _require_answer(event.answer, None, error=True)

    def _answer(self, request: v.Request) -> None:
        whim = self._whims.random()
        if whim < _LEFT_OPEN:
            return
        if whim < _REFUSED:
            answer = self._connection.refuse(request, 22)
            _require_answer(answer, request.id, error=True)
        else:
            reply, fds = answer_to(request.message)
            answer = self._connection.reply(request, reply, fds=fds)
            _require_answer(answer, request.id, error=False)
        _require(
            (answer is None) == (request.no_reply or self._connection.closed),
            "what wants an answer gets one",
        )


_AREAS = (v.SparseMmap((v.MmapArea(0, 4096),)),)
_ANSWERS: dict[type[v.Message], Callable[[Any], v.Message]] = {
    v.Version: lambda _: v.VersionReply(minor=0),
    v.DmaUnmap: lambda m: v.DmaUnmapReply(flags=m.flags, address=m.address, size=m.size),
    v.DeviceGetInfo: lambda _: v.DeviceInfo(flags=3, num_regions=9, num_irqs=5),
    v.DeviceGetRegionInfo: lambda m: v.RegionInfo.describing(
        m.index, size=4096, flags=7, capabilities=_AREAS
    ),
    v.DeviceGetRegionIoFds: lambda m: v.RegionIoFds(
        index=m.index, entries=(v.IoFd(offset=0, size=4, fd_index=0),)
    ),
    v.DeviceGetIrqInfo: lambda m: v.IrqInfo(index=m.index, count=1),
    v.RegionRead: lambda m: v.RegionReadReply(
        offset=m.offset, region=m.region, data=bytes(m.count)
    ),
    v.RegionWrite: lambda m: v.RegionWriteReply(offset=m.offset, region=m.region, count=m.count),
    v.DmaRead: lambda m: v.DmaReadReply(address=m.address, data=bytes(m.count)),
    v.DmaWrite: lambda m: v.DmaWriteReply(address=m.address, count=m.count),
    v.RegionWriteMulti: lambda m: v.RegionWriteMultiReply(count=len(m.writes)),
    v.DeviceFeature: lambda m: v.DeviceFeatureReply(flags=m.flags, data=bytes(8)),
    v.MigDataRead: lambda m: v.MigDataReadReply(data=bytes(min(m.size, 16))),
}
_BRINGING = (v.DeviceGetRegionInfo, v.DeviceGetRegionIoFds)


def answer_to(message: v.Message) -> tuple[v.Message | None, list[Fd]]:
    """Return an answer that fits a command, with its fds."""
    make = _ANSWERS.get(type(message))
    fds = [Fd()] if isinstance(message, _BRINGING) else []
    return (make(message) if make else None), fds


def _require(holds: bool, invariant: str) -> None:
    if not holds:
        raise FindingError(invariant)


def _require_round_trip(part: v.Part, message: v.Message) -> None:
    _require(part.parse(part.build(message)) == message, "what came can be built and parsed")


def _require_answer(answer: v.Outgoing | None, number: int | None, *, error: bool) -> None:
    if answer is None:
        return
    header = v.Header.parse(answer.data)
    _require(header.size == len(answer.data), "an answer has the size that it says")
    _require(header.is_reply and header.is_error == error, "an answer is one")
    _require(header.id == answer.id and number in (None, header.id), "an answer has its id")


def run_session(seed: str, corpus: Corpus, figures: Figures) -> None:
    """Play one session; whether its stream is cut one way or another changes nothing.

    Raises:
        FindingError: An invariant did not hold.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    plan = make_plan(rng, corpus)
    figures.sessions += 1
    figures.messages += len(plan.writes)
    trace = Player(plan, 1, figures).play()
    if plan.intact:
        again = Player(plan, 2, Figures()).play()
        _require(trace == again, f"cut otherwise:\n{trace}\n{again}")


def fuzz(sessions: int, seed: int) -> Figures:
    """Play sessions.

    Raises:
        FindingError: One of them, named by its seed, found something.
    """
    corpus, figures = load(), Figures()
    for at in range(sessions):
        name = f"{seed}.{at}"
        try:
            run_session(name, corpus, figures)
        except Exception as error:
            raise FindingError(f"session {name}: {error!r}") from error
    return figures


def main() -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzzing.vfio_user", description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", help="a session by its seed, as a finding names it")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        run_session(arguments.replay, load(), Figures())
        return 0
    started = time.monotonic()
    figures = fuzz(arguments.sessions, arguments.seed)
    sys.stdout.write(f"{figures}, {time.monotonic() - started:.0f} s, nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
