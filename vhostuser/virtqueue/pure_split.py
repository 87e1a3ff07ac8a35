"""The split ring in pure Python, device side and driver side.

Only the layout: which chains are in flight, and that a broken ring stays broken, is kept by
`vhostuser.virtqueue.pure`. Specification: VIRTIO 1.2, 2.7 "Split Virtqueues".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import (
    DESCRIPTOR_SIZE,
    AvailFlags,
    DescFlags,
    SplitDesc,
    UsedElem,
    UsedFlags,
    avail_entry_offset,
    avail_event_offset,
    index_distance,
    needs_event,
    used_entry_offset,
    used_event_offset,
)
from vhostuser.virtqueue.model import Fault, RingFaultError, RingState
from vhostuser.virtqueue.pure_walk import Walk

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from vhostuser.virtqueue.model import Buffer, Chain
    from vhostuser.virtqueue.pure_memory import PureMemory, PureRingConfig

__all__ = ["SplitDevice", "SplitDriver"]

_FLAGS = 0
_INDEX = 2


class SplitDevice:
    """The device's end of a split ring."""

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        self._memory = memory
        self._config = config
        self._avail = config.state.avail
        self._used = config.state.used
        self._seen = 0
        self._pushed = 0

    def pop(self, in_flight: Container[int]) -> Chain | None:
        """Take the next chain. See `PureDeviceRing.pop`."""
        config, memory = self._config, self._memory
        # Entries once seen are not counted again: a driver cannot take them back.
        if self._seen == 0:
            self._seen = index_distance(memory.read_u16(config.driver + _INDEX), self._avail)
        if self._seen == 0:
            return None
        if self._seen > config.num:
            raise RingFaultError(Fault.AVAIL_JUMP, self._seen)
        head = memory.read_u16(config.driver + avail_entry_offset(self._avail, config.num))
        if head >= config.num:
            raise RingFaultError(Fault.HEAD, head)
        if head in in_flight:
            raise RingFaultError(Fault.IN_FLIGHT, head)
        walk = Walk(memory, config)
        self._walk_table(walk, config.desc, config.num, head, nested=False)
        self._avail += 1
        self._seen -= 1
        return walk.chain(head, 1)

    def _walk_table(
        self, walk: Walk, table: int, entries: int, index: int, *, nested: bool
    ) -> None:
        for _ in range(entries):
            data = self._memory.read(table + DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE)
            desc = SplitDesc.parse(data)
            if desc.flags & DescFlags.INDIRECT:
                inner = walk.enter_table(desc, nested=nested, alone=True)
                self._walk_table(walk, desc.address, inner, 0, nested=True)
                return
            walk.add(desc)
            if not desc.flags & DescFlags.NEXT:
                return
            if desc.next >= entries:
                raise RingFaultError(Fault.NEXT, desc.next)
            index = desc.next
        raise RingFaultError(Fault.CHAIN_LENGTH, entries + 1)

    def push(self, chain: Chain, written: int) -> None:
        """Write a used element. See `PureDeviceRing.push`."""
        offset = used_entry_offset(self._used + self._pushed, self._config.num)
        self._memory.write(self._config.device + offset, bytes(UsedElem(chain.id, written)))
        self._pushed += 1

    def publish(self) -> bool:
        """Move the used index. See `PureDeviceRing.publish`."""
        config, memory = self._config, self._memory
        if self._pushed == 0:
            return False
        old = self._used
        self._used += self._pushed
        self._pushed = 0
        memory.write_u16(config.device + _INDEX, self._used)
        if config.event_idx:
            event = memory.read_u16(config.driver + used_event_offset(config.num))
            return needs_event(event, self._used, old)
        return not memory.read_u16(config.driver + _FLAGS) & AvailFlags.NO_INTERRUPT

    def kick_enable(self) -> bool:
        """See `PureDeviceRing.kick_enable`."""
        config, memory = self._config, self._memory
        if config.event_idx:
            memory.write_u16(config.device + avail_event_offset(config.num), self._avail)
        else:
            memory.write_u16(config.device + _FLAGS, 0)
        return index_distance(memory.read_u16(config.driver + _INDEX), self._avail) != 0

    def kick_disable(self) -> None:
        """See `PureDeviceRing.kick_disable`."""
        config, memory = self._config, self._memory
        if config.event_idx:  # wait for an index that was just passed: 65535 more to come
            memory.write_u16(config.device + avail_event_offset(config.num), self._avail - 1)
        else:
            memory.write_u16(config.device + _FLAGS, UsedFlags.NO_NOTIFY)

    def state(self) -> RingState:
        """See `PureDeviceRing.state`."""
        given = self._config.state
        return RingState(
            avail=index_distance(self._avail, 0),
            used=index_distance(self._used, 0),
            avail_wrap=given.avail_wrap,
            used_wrap=given.used_wrap,
        )


class SplitDriver:
    """The driver's end of a split ring."""

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        self._memory = memory
        self._config = config
        self._avail = config.state.avail
        self._used = config.state.used
        self._added = 0
        self._free = list(range(config.num))
        self._taken: dict[int, list[int]] = {}

    def next_id(self) -> int | None:
        """Return the id that the next chain will have; None if no descriptor is free."""
        return self._free[0] if self._free else None

    def add(self, descs: Sequence[tuple[Buffer, DescFlags]], *, writable: bool) -> bool:
        """Write a chain of descriptors; false if there is no room.

        Args:
            descs: its descriptors.
            writable: of no account here: a used length always counts.
        """
        del writable
        if len(descs) > len(self._free):
            return False
        taken, self._free = self._free[: len(descs)], self._free[len(descs) :]
        table = encode_split_chain(descs, taken)
        for index, desc in zip(taken, table, strict=True):
            self._memory.write(self._config.desc + DESCRIPTOR_SIZE * index, bytes(desc))
        offset = avail_entry_offset(self._avail + self._added, self._config.num)
        self._memory.write_u16(self._config.driver + offset, taken[0])
        self._added += 1
        self._taken[taken[0]] = taken
        return True

    def publish(self) -> bool:
        """Move the available index. See `PureDriverRing.publish`."""
        config, memory = self._config, self._memory
        if self._added == 0:
            return False
        old = self._avail
        self._avail += self._added
        self._added = 0
        memory.write_u16(config.driver + _INDEX, self._avail)
        if config.event_idx:
            event = memory.read_u16(config.device + avail_event_offset(config.num))
            return needs_event(event, self._avail, old)
        return not memory.read_u16(config.device + _FLAGS) & UsedFlags.NO_NOTIFY

    def _ready(self) -> int:
        index = self._memory.read_u16(self._config.device + _INDEX)
        return index_distance(index, self._used)

    def pop_used(self) -> UsedElem | None:
        """Take the next used element. See `PureDriverRing.pop_used`."""
        if self._ready() == 0:
            return None
        offset = used_entry_offset(self._used, self._config.num)
        return UsedElem.parse(self._memory.read(self._config.device + offset, 8))

    def is_plausible(self) -> bool:
        """Return whether the device has used no more chains than it was given."""
        published = len(self._taken) - self._added
        return self._ready() <= published

    def free(self, identity: int) -> None:
        """Take back the descriptors of a used chain."""
        self._free = [*self._taken.pop(identity), *self._free]
        self._used += 1

    def call_enable(self) -> bool:
        """See `PureDriverRing.call_enable`."""
        config, memory = self._config, self._memory
        if config.event_idx:
            memory.write_u16(config.driver + used_event_offset(config.num), self._used)
        else:
            memory.write_u16(config.driver + _FLAGS, 0)
        return self._ready() != 0

    def call_disable(self) -> None:
        """See `PureDriverRing.call_disable`."""
        config, memory = self._config, self._memory
        if config.event_idx:
            memory.write_u16(config.driver + used_event_offset(config.num), self._used - 1)
        else:
            memory.write_u16(config.driver + _FLAGS, AvailFlags.NO_INTERRUPT)

    def state(self) -> RingState:
        """See `PureDriverRing.state`."""
        given = self._config.state
        return RingState(
            avail=index_distance(self._avail, 0),
            used=index_distance(self._used, 0),
            avail_wrap=given.avail_wrap,
            used_wrap=given.used_wrap,
        )


def encode_split_chain(
    descs: Sequence[tuple[Buffer, DescFlags]], indices: Sequence[int]
) -> list[SplitDesc]:
    """Return descriptors for the places `indices` of a table, linked in that order."""
    following = [*indices[1:], None]
    return [
        SplitDesc(
            buffer.address,
            buffer.length,
            flags if after is None else flags | DescFlags.NEXT,
            after or 0,
        )
        for (buffer, flags), after in zip(descs, following, strict=True)
    ]
