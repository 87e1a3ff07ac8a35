"""The engine's rings for Python: thin wrappers of `vhu_ring_…` and `vhu_driver_…`, and no logic.

A ring owns its engine object and must be closed; after that it may not be used. None of this is
safe to use from two threads at once. Specification: VIRTIO 1.2, sections 2.7 and 2.8.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vhostuser.fds import Closing
from vhostuser.native import check, ffi, lib
from vhostuser.virtqueue.model import (
    Buffer,
    Chain,
    Fault,
    RingFaultError,
    RingState,
    UsedRingError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.memory import Snapshot
    from vhostuser.native import Pointer
    from vhostuser.virtqueue.model import IndirectTables, RingConfig

__all__ = ["DeviceRing", "DriverRing"]


def _fill(native: Pointer, config: RingConfig) -> None:
    """Write a configuration into a `struct vhu_ring_config`."""
    native.features = int(config.features)
    native.num = config.num
    native.desc = ffi.cast("void *", config.desc_hva)
    native.driver = ffi.cast("void *", config.driver_hva)
    native.device = ffi.cast("void *", config.device_hva)
    state = config.state
    native.state = (state.avail, state.used, state.avail_wrap, state.used_wrap)


def _state(native: Pointer) -> RingState:
    return RingState(
        avail=native.avail,
        used=native.used,
        avail_wrap=bool(native.avail_wrap),
        used_wrap=bool(native.used_wrap),
    )


class DeviceRing(Closing):
    """The device's end of a ring.

    Args:
        snapshot: guest memory that descriptors point into.
        config: the ring; its areas must lie in memory that outlives it.

    Raises:
        OSError: the engine refuses the size, an alignment or the position (EINVAL).
    """

    def __init__(self, snapshot: Snapshot, config: RingConfig) -> None:
        native = ffi.new("struct vhu_ring_config *")
        _fill(native, config)
        ret = ffi.new("struct vhu_ring **")
        check(lib.vhu_ring_create(snapshot.native, native, ret), "create the device ring")
        self._ring = ret[0]
        self._iov = ffi.new("struct iovec[]", lib.vhu_ring_iov_limit(self._ring))
        self._chain = ffi.new("struct vhu_chain *")

    def pop(self) -> Chain | None:
        """Take the next available chain; None if there is none.

        Raises:
            RingFaultError: the driver broke a rule, now or in an earlier pop.
        """
        code = lib.vhu_ring_pop(self._ring, self._iov, self._chain)
        if code == -errno.EPROTO:
            value = ffi.new("uint64_t *")
            fault = Fault(int(lib.vhu_ring_fault(self._ring, value)))
            raise RingFaultError(fault, int(value[0]))
        if not check(code, "pop a chain"):
            return None
        chain = self._chain
        parts = [
            Buffer(int(ffi.cast("uintptr_t", part.iov_base)), int(part.iov_len))
            for part in self._iov[0 : chain.readable + chain.writable]
        ]
        return Chain(
            id=chain.id,
            slots=chain.slots,
            readable=tuple(parts[: chain.readable]),
            writable=tuple(parts[chain.readable :]),
        )

    def push(self, chain: Chain, written: int) -> None:
        """Give a popped chain back; the driver does not see it before `publish`.

        Args:
            chain: what `pop` returned.
            written: bytes of its writable part that were filled, counted from its start.

        Raises:
            OSError: the chain is not in flight (EINVAL).
        """
        native = self._chain
        native.id = chain.id
        native.slots = chain.slots
        check(lib.vhu_ring_push(self._ring, native, written), "push a chain")

    def publish(self) -> bool:
        """Show the driver what was pushed; return whether it wants a call for that."""
        return bool(lib.vhu_ring_publish(self._ring))

    def kick_enable(self) -> bool:
        """Ask the driver for a kick; return whether chains are there already: then look again."""
        return bool(lib.vhu_ring_kick_enable(self._ring))

    def kick_disable(self) -> None:
        """Tell the driver that it need not kick."""
        lib.vhu_ring_kick_disable(self._ring)

    def state(self) -> RingState:
        """Return the position; `used` counts what was published."""
        ret = ffi.new("struct vhu_ring_state *")
        lib.vhu_ring_state(self._ring, ret)
        return _state(ret)

    def view(self, part: Buffer) -> memoryview:
        """Return the memory of a buffer that `pop` returned, good until the chain is pushed."""
        return memoryview(ffi.buffer(ffi.cast("char *", part.address), part.length))

    def close(self) -> None:
        """Free the ring; guest memory stays as it is. Closing it twice is harmless."""
        if self._ring:
            lib.vhu_ring_destroy(self._ring)
            self._ring = ffi.NULL


class DriverRing(Closing):
    """The driver's end of a ring, in memory that is its own.

    Args:
        config: the ring; its areas must outlive it. It starts empty: both positions are the same.
        indirect: tables for chains that shall take one descriptor only; None: there are none.

    Raises:
        OSError: the engine refuses the size, an alignment, the position, or tables without
            INDIRECT_DESC (EINVAL).
    """

    def __init__(self, config: RingConfig, *, indirect: IndirectTables | None = None) -> None:
        native = ffi.new("struct vhu_driver_config *")
        _fill(native.ring, config)
        if indirect is not None:
            native.indirect_entries = indirect.entries
            native.indirect_address = indirect.gpa
            native.indirect = ffi.cast("void *", indirect.hva)
        ret = ffi.new("struct vhu_driver **")
        check(lib.vhu_driver_create(native, ret), "create the driver ring")
        self._driver = ret[0]

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
            OSError: it can never fit the ring or its table, or is empty (EINVAL).
        """
        buffers = [(part.address, part.length, 0) for part in readable]
        buffers += [(part.address, part.length, 1) for part in writable]
        native = ffi.new("struct vhu_buffer[]", buffers)
        ret = ffi.new("uint16_t *")
        code = lib.vhu_driver_add(self._driver, native, len(buffers), indirect, ret)
        if code == -errno.ENOSPC:
            return None
        check(code, "add a chain")
        return int(ret[0])

    def publish(self) -> bool:
        """Show the device what was added; return whether it wants a kick for that."""
        return bool(lib.vhu_driver_publish(self._driver))

    def pop_used(self) -> tuple[int, int] | None:
        """Take the next used chain: its id, and the bytes that the device says it wrote.

        Raises:
            UsedRingError: the device returned what it was not given.
        """
        identity = ffi.new("uint16_t *")
        written = ffi.new("uint32_t *")
        code = lib.vhu_driver_pop(self._driver, identity, written)
        if code == -errno.EPROTO:
            raise UsedRingError
        if not check(code, "take a used chain"):
            return None
        return int(identity[0]), int(written[0])

    def call_enable(self) -> bool:
        """Ask the device for a call; return whether used chains are there already: look again."""
        return bool(lib.vhu_driver_call_enable(self._driver))

    def call_disable(self) -> None:
        """Tell the device that it need not call."""
        lib.vhu_driver_call_disable(self._driver)

    def state(self) -> RingState:
        """Return the position."""
        ret = ffi.new("struct vhu_ring_state *")
        lib.vhu_driver_state(self._driver, ret)
        return _state(ret)

    def close(self) -> None:
        """Free the ring; guest memory stays as it is. Closing it twice is harmless."""
        if self._driver:
            lib.vhu_driver_destroy(self._driver)
            self._driver = ffi.NULL
