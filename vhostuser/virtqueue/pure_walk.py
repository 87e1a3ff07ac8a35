"""What the walks through split and packed chains have in common: buffers, and tables of them.

The order of checks is that of `vhostuser.virtqueue.model`. Specification: VIRTIO 1.2, 2.7 "The
Virtqueue Descriptor Table" and 2.8 "Scatter-Gather Support".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import DESCRIPTOR_SIZE, DescFlags, VirtioFeatures
from vhostuser.virtqueue.model import Buffer, Chain, Fault, RingFaultError
from vhostuser.virtqueue.pure_memory import ADDRESS_SPACE

if TYPE_CHECKING:
    from protocol.virtio import PackedDesc, SplitDesc
    from vhostuser.virtqueue.pure_memory import PureMemory, PureRingConfig

__all__ = ["Walk"]

_LONGEST_TABLE = 1024
"""Entries an indirect table may have, or as many as the ring if that has more."""
_SPARE_PARTS = 512
"""Parts a chain may have beyond that, by crossing from one region into the next."""


class Walk:
    """One chain while it is read.

    Args:
        memory: guest memory.
        config: the chain's ring.
    """

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        self._memory = memory
        self._features = config.features
        self._longest_table = max(config.num, _LONGEST_TABLE)
        self._readable: list[Buffer] = []
        self._writable: list[Buffer] = []

    def add(self, desc: SplitDesc | PackedDesc) -> None:
        """Take in the buffer of a direct descriptor.

        Raises:
            RingFaultError: the buffer breaks a rule.
        """
        if desc.length == 0:
            return
        writable = bool(desc.flags & DescFlags.WRITE)
        if self._writable and not writable:
            raise RingFaultError(Fault.DIRECTION, desc.flags)
        if desc.address + desc.length > ADDRESS_SPACE:
            raise RingFaultError(Fault.ADDRESS, desc.address)
        limit = self._longest_table + _SPARE_PARTS
        for part in self._memory.parts(Buffer(desc.address, desc.length)):
            if part is None:
                raise RingFaultError(Fault.ADDRESS, desc.address)
            if len(self._readable) + len(self._writable) == limit:
                raise RingFaultError(Fault.FRAGMENTED, limit)
            (self._writable if writable else self._readable).append(part)

    def enter_table(self, desc: SplitDesc | PackedDesc, *, nested: bool, alone: bool) -> int:
        """Check an indirect descriptor; return how many entries its table has.

        Args:
            desc: the descriptor.
            nested: whether it stands in an indirect table itself.
            alone: whether its ring lets it stand after the descriptors before it.

        Raises:
            RingFaultError: the descriptor or its table breaks a rule.
        """
        if nested:
            raise RingFaultError(Fault.INDIRECT_NESTED, desc.flags)
        if VirtioFeatures.INDIRECT_DESC not in self._features:
            raise RingFaultError(Fault.INDIRECT_FEATURE, desc.flags)
        if not alone or desc.flags & DescFlags.NEXT:
            raise RingFaultError(Fault.INDIRECT_NEXT, desc.flags)
        entries, rest = divmod(desc.length, DESCRIPTOR_SIZE)
        if rest or not 0 < entries <= self._longest_table:
            raise RingFaultError(Fault.INDIRECT_SIZE, desc.length)
        if not self._memory.holds(desc.address, desc.length):
            raise RingFaultError(Fault.INDIRECT_ADDRESS, desc.address)
        return entries

    def chain(self, identity: int, slots: int) -> Chain:
        """Return what was walked through."""
        return Chain(
            id=identity,
            slots=slots,
            readable=tuple(self._readable),
            writable=tuple(self._writable),
        )
