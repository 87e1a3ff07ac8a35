"""Plays a fuzz target's trace on the pure-Python ring and compares, call by call.

Compared are each call's result, chain or fault with its value, the ring's position, and every byte
of guest memory. What a ring state is, and how they are counted, is as in harness/states.h.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from protocol.virtio import VirtioFeatures
from vhostuser.virtqueue import (
    Chain,
    PureDeviceRing,
    PureMemory,
    PureRingConfig,
    RingFaultError,
    RingState,
)

from .trace import Call, Popped, Start, Stop, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .trace import Record

__all__ = ["Comparison", "DifferenceError"]


class DifferenceError(Exception):
    """The engine and the pure-Python ring did not do the same."""


def _agree(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise DifferenceError(f"{what}: the oracle has {expected}, the engine {got}")


class _Ring:
    """The oracle's ring, and guest memory twice: as the oracle has it and as the engine has it."""

    def __init__(self, start: Start) -> None:
        self._places = start.places
        self._memory = bytearray(start.file_size)
        self.engine_memory = bytearray(start.file_size)
        self._pure = PureMemory({})
        self._set_snapshot(0)
        self._config = PureRingConfig(
            features=VirtioFeatures(start.features),
            num=start.num,
            desc=start.areas[0],
            driver=start.areas[1],
            device=start.areas[2],
            state=start.state,
        )
        self._ring = PureDeviceRing(self._pure, self._config)
        self._in_flight: dict[int, Chain] = {}
        self.broken = False

    def _set_snapshot(self, which: int) -> None:
        """Have all regions, or (in snapshot 2) all but the last of several."""
        count = len(self._places) - (which == 2 and len(self._places) > 1)
        whole = memoryview(self._memory)
        self._pure.regions = {
            place.gpa: whole[place.offset : place.offset + place.size]
            for place in self._places[:count]
        }

    def write(self, write: Write) -> None:
        end = write.offset + len(write.data)
        self._memory[write.offset : end] = write.data
        self.engine_memory[write.offset : end] = write.data

    def play(self, call: Call) -> None:
        """Do what the engine did and compare."""
        _PLAYERS[call.kind](self, call)
        for change in call.changes:
            end = change.offset + len(change.data)
            self.engine_memory[change.offset : end] = change.data
        if self._memory != self.engine_memory:
            offset = next(
                at
                for at, (a, b) in enumerate(zip(self._memory, self.engine_memory, strict=True))
                if a != b
            )
            expected, got = (
                bytes(memory[offset : offset + 16]).hex()
                for memory in (self._memory, self.engine_memory)
            )
            _agree(f"guest memory at offset {offset:#x}", expected, got)
        _agree("the position", self._ring.state(), call.state)

    def pop(self, call: Call) -> None:
        try:
            chain = self._ring.pop()
        except RingFaultError as error:
            self.broken = True
            _agree("pop", -errno.EPROTO, call.result)
            _agree("the fault", (error.fault.value, error.value), (call.fault, call.value))
            return
        _agree("pop", int(chain is not None), call.result)
        if chain is None or call.chain is None:
            return
        slots = chain.slots if self._config.packed else call.chain.slots
        pure = Popped(chain.id, slots, chain.readable, chain.writable)
        _agree("the chain", pure, call.chain)
        self._in_flight[chain.id] = chain

    def push(self, call: Call) -> None:
        identity, written = call.argument & 0xFFFF, call.argument >> 16
        chain = self._in_flight.pop(identity, None)
        _agree("push", -errno.EINVAL if chain is None else 0, call.result)
        if chain is not None:
            self._ring.push(chain, written)

    def publish(self, call: Call) -> None:
        _agree("publish", self._ring.publish(), bool(call.result))

    def kick_enable(self, call: Call) -> None:
        _agree("kick_enable", self._ring.kick_enable(), bool(call.result))

    def kick_disable(self, _call: Call) -> None:
        self._ring.kick_disable()

    def move(self, call: Call) -> None:
        self._set_snapshot(call.argument)

    def restart(self, _call: Call) -> None:
        """Start where the ring stopped; if it cannot be there, where it has used everything."""
        state = self._ring.state()
        try:
            self._config = self._at(state)
        except ValueError:
            self._config = self._at(
                RingState(
                    avail=state.used,
                    used=state.used,
                    avail_wrap=state.avail_wrap,
                    used_wrap=state.used_wrap,
                )
            )
        self._ring = PureDeviceRing(self._pure, self._config)
        self._in_flight.clear()
        self.broken = False

    def _at(self, state: RingState) -> PureRingConfig:
        config = self._config
        return PureRingConfig(
            features=config.features,
            num=config.num,
            desc=config.desc,
            driver=config.driver,
            device=config.device,
            state=state,
        )


_PLAYERS = {
    "p": _Ring.pop,
    "u": _Ring.push,
    "b": _Ring.publish,
    "k": _Ring.kick_enable,
    "d": _Ring.kick_disable,
    "m": _Ring.move,
    "r": _Ring.restart,
}


class Comparison:
    """Compares trace after trace.

    Attributes:
        states: ring states that were compared.
        inputs: inputs that were carried out to their end.
        refused: inputs whose ring both sides refused.
    """

    def __init__(self) -> None:
        self.states = self.inputs = self.refused = 0
        self._generation = 0
        self._counted: dict[str, int] = {}

    def play(self, records: Iterable[Record], limit: int) -> None:
        """Compare until the records end or `limit` states have been compared.

        Raises:
            DifferenceError: engine and oracle are not the same.
        """
        ring: _Ring | None = None
        for record in records:
            if isinstance(record, Start):
                ring = self._start(record)
            elif isinstance(record, Stop):
                self.inputs += 1
                if self.states >= limit:
                    return
            elif ring is None:
                raise DifferenceError(f"{record} on a ring that the oracle refuses")
            elif isinstance(record, Write):
                ring.write(record)
                self._generation += 1
            else:
                self._call(ring, record)

    def _start(self, start: Start) -> _Ring | None:
        self._generation += 1
        try:
            ring = _Ring(start)
        except ValueError:
            _agree("create", -errno.EINVAL, start.result)
            self.refused += 1
            return None
        _agree("create", 0, start.result)
        return ring

    def _call(self, ring: _Ring, call: Call) -> None:
        kind = call.kind if call.kind != "r" else "m"
        broken = ring.broken
        ring.play(call)
        misused = call.kind == "u" and call.result < 0
        if not broken and not misused and self._counted.get(kind) != self._generation:
            self._counted[kind] = self._generation
            self.states += 1
        changed = call.result if call.kind in "pb" else not misused
        self._generation += bool(changed)
