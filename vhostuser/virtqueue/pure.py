"""The pure-Python twin of the engine's rings: slow, obvious, and written from the specification.

Tests hold the engine against it, operation by operation and byte by byte. It has the interface of
`DeviceRing` and `DriverRing`, with guest-physical addresses in place of host addresses. The layouts
are in `pure_split` and `pure_packed`; here is what does not depend on them. Specification: VIRTIO
1.2, 2.7 and 2.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio import DESCRIPTOR_SIZE, DescFlags, PackedDesc, VirtioFeatures
from vhostuser.virtqueue.model import Buffer, RingFaultError, UsedRingError
from vhostuser.virtqueue.pure_packed import PackedDevice, PackedDriver
from vhostuser.virtqueue.pure_split import SplitDevice, SplitDriver, encode_split_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.virtqueue.model import Chain, RingState
    from vhostuser.virtqueue.pure_memory import PureMemory, PureRingConfig

__all__ = ["PureDeviceRing", "PureDriverRing", "PureIndirectTables"]


class PureDeviceRing:
    """The device's end of a ring.

    Args:
        memory: guest memory, which holds the ring and what descriptors point to.
        config: the ring.
    """

    def __init__(self, memory: PureMemory, config: PureRingConfig) -> None:
        self._layout = (PackedDevice if config.packed else SplitDevice)(memory, config)
        self._in_flight: set[int] = set()
        self._fault: RingFaultError | None = None

    def pop(self) -> Chain | None:
        """Take the next available chain; None if there is none.

        Raises:
            RingFaultError: the driver broke a rule, now or in an earlier pop.
        """
        if self._fault is not None:
            raise RingFaultError(self._fault.fault, self._fault.value)
        try:
            chain = self._layout.pop(self._in_flight)
        except RingFaultError as error:
            self._fault = error
            raise
        if chain is not None:
            self._in_flight.add(chain.id)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give a popped chain back; the driver does not see it before `publish`.

        Args:
            chain: what `pop` returned.
            written: bytes of its writable part that were filled, counted from its start.

        Raises:
            ValueError: the chain is not in flight.
        """
        if chain.id not in self._in_flight:
            raise ValueError(f"chain {chain.id} is not in flight")
        self._in_flight.remove(chain.id)
        self._layout.push(chain, written)

    def publish(self) -> bool:
        """Show the driver what was pushed; return whether it wants a call for that."""
        return self._layout.publish()

    def kick_enable(self) -> bool:
        """Ask the driver for a kick; return whether chains are there already: then look again."""
        return self._fault is None and self._layout.kick_enable()

    def kick_disable(self) -> None:
        """Tell the driver that it need not kick."""
        if self._fault is None:
            self._layout.kick_disable()

    def state(self) -> RingState:
        """Return the position; `used` counts what was published."""
        return self._layout.state()


@dataclass(frozen=True, slots=True, kw_only=True)
class PureIndirectTables:
    """The indirect tables of a driver ring: `num` of them, one after the other, one for each slot.

    Attributes:
        entries: descriptors of each table.
        gpa: address of the first.
    """

    entries: int
    gpa: int


class PureDriverRing:
    """The driver's end of a ring.

    Args:
        memory: guest memory, which holds the ring and the indirect tables.
        config: the ring, which must be empty; the areas of a new one are zeroed.
        indirect: tables for chains that shall take one descriptor only; None: there are none.
    """

    def __init__(
        self,
        memory: PureMemory,
        config: PureRingConfig,
        *,
        indirect: PureIndirectTables | None = None,
    ) -> None:
        self._layout = (PackedDriver if config.packed else SplitDriver)(memory, config)
        self._memory = memory
        self._config = config
        self._indirect = indirect if VirtioFeatures.INDIRECT_DESC in config.features else None
        self._in_flight: set[int] = set()
        self._broken = False

    def add(
        self, readable: Sequence[Buffer], writable: Sequence[Buffer], *, indirect: bool = False
    ) -> int | None:
        """Put a chain into the ring; the device does not see it before `publish`.

        Args:
            readable: what the device may read, in order.
            writable: what it may write, in order.
            indirect: whether to describe it in the slot's indirect table.

        Returns:
            Its id, or None while the ring has no room for it.

        Raises:
            ValueError: it can never fit the ring or its table, or is empty.
        """
        descs = [(part, DescFlags(0)) for part in readable]
        descs += [(part, DescFlags.WRITE) for part in writable]
        tables = self._indirect
        longest = self._config.num if not indirect else tables.entries if tables else 0
        if not 0 < len(descs) <= longest:
            raise ValueError(f"a chain of {len(descs)} descriptors can never be added here")
        identity = self._layout.next_id()
        if identity is None:
            return None
        if indirect and tables is not None:
            descs = [self._write_table(tables, identity, descs)]
        if not self._layout.add(descs, writable=bool(writable)):
            return None
        self._in_flight.add(identity)
        return identity

    def _write_table(
        self,
        tables: PureIndirectTables,
        identity: int,
        descs: Sequence[tuple[Buffer, DescFlags]],
    ) -> tuple[Buffer, DescFlags]:
        """Write the indirect table of a chain; return the descriptor that points to it."""
        gpa = tables.gpa + identity * tables.entries * DESCRIPTOR_SIZE
        if self._config.packed:
            table = b"".join(
                bytes(PackedDesc(buffer.address, buffer.length, 0, flags))
                for buffer, flags in descs
            )
        else:
            table = b"".join(map(bytes, encode_split_chain(descs, range(len(descs)))))
        self._memory.write(gpa, table)
        return Buffer(gpa, len(table)), DescFlags.INDIRECT

    def publish(self) -> bool:
        """Show the device what was added; return whether it wants a kick for that."""
        return self._layout.publish()

    def pop_used(self) -> tuple[int, int] | None:
        """Take the next used chain: its id, and the bytes that the device says it wrote.

        Raises:
            UsedRingError: the device returned what it was not given.
        """
        if self._broken:
            raise UsedRingError
        elem = self._layout.pop_used()
        if elem is None:
            return None
        if elem.id not in self._in_flight or not self._layout.is_plausible():
            self._broken = True
            raise UsedRingError
        self._in_flight.remove(elem.id)
        self._layout.free(elem.id)
        return elem.id, elem.length

    def call_enable(self) -> bool:
        """Ask the device for a call; return whether used chains are there already: look again."""
        return self._layout.call_enable()

    def call_disable(self) -> None:
        """Tell the device that it need not call."""
        self._layout.call_disable()

    def state(self) -> RingState:
        """Return the position."""
        return self._layout.state()
