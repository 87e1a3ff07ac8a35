"""The packed ring in pure Python, device side and driver side.

Only the layout: which chains are in flight, and that a broken ring stays broken, is kept by
`vhostuser.virtqueue.pure`. Specification: VIRTIO 1.2, 2.8 "Packed Virtqueues".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import (
    DESCRIPTOR_SIZE,
    DescFlags,
    EventFlags,
    PackedDesc,
    UsedElem,
    packed_advance,
    packed_flags,
    packed_is_available,
    packed_is_used,
    packed_needs_event,
)
from vhostuser.virtqueue.model import Fault, RingFaultError, RingState
from vhostuser.virtqueue.pure_walk import Walk

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from vhostuser.virtqueue.model import Buffer, Chain
    from vhostuser.virtqueue.pure_memory import PureMemory, PureRingConfig

__all__ = ["PackedDevice", "PackedDriver"]

_ADDRESS_SIZE = 8
_DESC_FLAGS = 14
_OFF_WRAP = 0
_EVENT_FLAGS = 2
_EVENT_MASK = 3


class _Packed:
    """What both ends of a packed ring do alike."""

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        state = config.state
        self._memory = memory
        self._config = config
        self._avail = state.avail, state.avail_wrap
        self._used = state.used, state.used_wrap

    def _place(self, offset: int) -> int:
        return self._config.desc + DESCRIPTOR_SIZE * offset

    def _flags(self, offset: int) -> int:
        return self._memory.read_u16(self._place(offset) + _DESC_FLAGS)

    def _wants(self, structure: int, position: tuple[int, bool], slots: int) -> bool:
        """Return whether the other side wants to be notified of the last `slots` steps."""
        flags = self._memory.read_u16(structure + _EVENT_FLAGS) & _EVENT_MASK
        if flags == EventFlags.DISABLE:
            return False
        if flags != EventFlags.DESC or not self._config.event_idx:
            return True
        off_wrap = self._memory.read_u16(structure + _OFF_WRAP)
        return packed_needs_event(off_wrap, position, slots, self._config.num)

    def _enable(self, structure: int, position: tuple[int, bool]) -> None:
        """Ask the other side for a notification when it reaches `position`."""
        if self._config.event_idx:
            offset, wrap = position
            self._memory.write_u16(structure + _OFF_WRAP, offset | wrap << 15)
            self._memory.write_u16(structure + _EVENT_FLAGS, EventFlags.DESC)
        else:
            self._memory.write_u16(structure + _EVENT_FLAGS, EventFlags.ENABLE)

    def _disable(self, structure: int) -> None:
        self._memory.write_u16(structure + _EVENT_FLAGS, EventFlags.DISABLE)

    def _state(self, avail: tuple[int, bool], used: tuple[int, bool]) -> RingState:
        return RingState(avail=avail[0], used=used[0], avail_wrap=avail[1], used_wrap=used[1])


class PackedDevice(_Packed):
    """The device's end of a packed ring."""

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        super().__init__(memory, config)
        self._slots_in_flight = 0
        self._published = self._used
        self._pushed_slots = 0
        self._first: tuple[int, bytes] | None = None

    def pop(self, in_flight: Container[int]) -> Chain | None:
        """Take the next chain. See `PureDeviceRing.pop`."""
        num = self._config.num
        offset, wrap = self._avail
        if not packed_is_available(self._flags(offset), wrap=wrap):
            return None
        walk = Walk(self._memory, self._config)
        last, slots = self._walk_ring(walk, offset)
        if self._slots_in_flight + slots > num:
            raise RingFaultError(Fault.AVAIL_JUMP, self._slots_in_flight + slots)
        if last.id >= num:
            raise RingFaultError(Fault.ID, last.id)
        if last.id in in_flight:
            raise RingFaultError(Fault.IN_FLIGHT, last.id)
        self._slots_in_flight += slots
        self._avail = packed_advance(self._avail, slots, num)
        return walk.chain(last.id, slots)

    def _walk_ring(self, walk: Walk, offset: int) -> tuple[PackedDesc, int]:
        """Return the last descriptor of a chain and how many it has."""
        num = self._config.num
        for slot in range(num):
            desc = self._read(self._place((offset + slot) % num))
            if desc.flags & DescFlags.INDIRECT:
                entries = walk.enter_table(desc, nested=False, alone=slot == 0)
                self._walk_table(walk, desc.address, entries)
                return desc, slot + 1
            walk.add(desc)
            if not desc.flags & DescFlags.NEXT:
                return desc, slot + 1
        raise RingFaultError(Fault.CHAIN_LENGTH, num + 1)

    def _walk_table(self, walk: Walk, table: int, entries: int) -> None:
        for entry in range(entries):
            desc = self._read(table + DESCRIPTOR_SIZE * entry)
            if desc.flags & DescFlags.INDIRECT:
                walk.enter_table(desc, nested=True, alone=False)
            walk.add(desc)

    def _read(self, gpa: int) -> PackedDesc:
        return PackedDesc.parse(self._memory.read(gpa, DESCRIPTOR_SIZE))

    def push(self, chain: Chain, written: int) -> None:
        """Write a used descriptor. See `PureDeviceRing.push`."""
        offset, wrap = self._used
        flags = packed_flags(wrap=wrap, used=True)
        if written:
            flags |= DescFlags.WRITE
        data = bytes(PackedDesc(0, written, chain.id, flags))[_ADDRESS_SIZE:]
        place = self._place(offset) + _ADDRESS_SIZE
        if self._first is None:  # held back: the driver must not see half a batch
            self._first = place, data
        else:
            self._memory.write(place, data)
        self._used = packed_advance(self._used, chain.slots, self._config.num)
        self._pushed_slots += chain.slots
        self._slots_in_flight -= chain.slots

    def publish(self) -> bool:
        """Let the first descriptor of the batch be seen. See `PureDeviceRing.publish`."""
        if self._first is None:
            return False
        self._memory.write(*self._first)
        self._first = None
        slots, self._pushed_slots = self._pushed_slots, 0
        self._published = self._used
        return self._wants(self._config.driver, self._used, slots)

    def kick_enable(self) -> bool:
        """See `PureDeviceRing.kick_enable`."""
        self._enable(self._config.device, self._avail)
        offset, wrap = self._avail
        return packed_is_available(self._flags(offset), wrap=wrap)

    def kick_disable(self) -> None:
        """See `PureDeviceRing.kick_disable`."""
        self._disable(self._config.device)

    def state(self) -> RingState:
        """See `PureDeviceRing.state`."""
        return self._state(self._avail, self._published)


class PackedDriver(_Packed):
    """The driver's end of a packed ring."""

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        super().__init__(memory, config)
        self._free_slots = config.num
        self._free_ids = list(range(config.num))
        self._taken: dict[int, int] = {}
        self._writable: set[int] = set()
        self._published = self._avail
        self._added_slots = 0
        self._first: tuple[int, int] | None = None

    def next_id(self) -> int | None:
        """Return the id that the next chain will have; None if none is free."""
        return self._free_ids[0] if self._free_ids else None

    def add(self, descs: Sequence[tuple[Buffer, DescFlags]], *, writable: bool) -> bool:
        """Write a chain of descriptors; false if there is no room.

        Args:
            descs: its descriptors.
            writable: whether the device may write to any of its buffers.
        """
        if len(descs) > self._free_slots or not self._free_ids:
            return False
        identity = self._free_ids.pop(0)
        position = self._avail
        for number, (buffer, own) in enumerate(descs, start=1):
            offset, wrap = position
            flags = own | packed_flags(wrap=wrap, used=False)
            if number < len(descs):
                flags |= DescFlags.NEXT
            desc = PackedDesc(buffer.address, buffer.length, identity, flags)
            self._write(offset, desc)
            position = packed_advance(position, 1, self._config.num)
        self._avail = position
        self._added_slots += len(descs)
        self._free_slots -= len(descs)
        self._taken[identity] = len(descs)
        if writable:
            self._writable.add(identity)
        return True

    def _write(self, offset: int, desc: PackedDesc) -> None:
        """Write a descriptor; the flags of a batch's first one are held back until `publish`."""
        place = self._place(offset)
        data = bytes(desc)
        if self._first is None:
            self._first = place + _DESC_FLAGS, desc.flags
            data = data[:_DESC_FLAGS]
        self._memory.write(place, data)

    def publish(self) -> bool:
        """Let the first descriptor of the batch be seen. See `PureDriverRing.publish`."""
        if self._first is None:
            return False
        self._memory.write_u16(*self._first)
        self._first = None
        slots, self._added_slots = self._added_slots, 0
        self._published = self._avail
        return self._wants(self._config.device, self._avail, slots)

    def pop_used(self) -> UsedElem | None:
        """Take the next used descriptor. See `PureDriverRing.pop_used`."""
        offset, wrap = self._used
        if not packed_is_used(self._flags(offset), wrap=wrap):
            return None
        desc = PackedDesc.parse(self._memory.read(self._place(offset), DESCRIPTOR_SIZE))
        # The WRITE flag says whether the length counts, but QEMU's devices never set it.
        counts = desc.flags & DescFlags.WRITE or desc.id in self._writable
        return UsedElem(desc.id, desc.length if counts else 0)

    def is_plausible(self) -> bool:
        """Return whether the device has used no more chains than it was given."""
        return True  # each is found by its own id

    def free(self, identity: int) -> None:
        """Take back the descriptors of a used chain."""
        slots = self._taken.pop(identity)
        self._writable.discard(identity)
        self._free_ids.insert(0, identity)
        self._free_slots += slots
        self._used = packed_advance(self._used, slots, self._config.num)

    def call_enable(self) -> bool:
        """See `PureDriverRing.call_enable`."""
        self._enable(self._config.driver, self._used)
        offset, wrap = self._used
        return packed_is_used(self._flags(offset), wrap=wrap)

    def call_disable(self) -> None:
        """See `PureDriverRing.call_disable`."""
        self._disable(self._config.driver)

    def state(self) -> RingState:
        """See `PureDriverRing.state`."""
        return self._state(self._published, self._used)
