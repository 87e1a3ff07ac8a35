"""A modern virtio PCI function as registers: every access to any of its regions; sans I/O.

Whoever serves it does the actions that a write returns, in order, and reports back to `state`. No
access is wrong: what makes no sense reads as zeros and does nothing when written, as hardware does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.pci import CONFIG_REGION
from accel.simulator.actions import RingDoorbell, WriteConfig
from accel.simulator.common import CommonStructure
from accel.simulator.config_space import ConfigSpace
from accel.simulator.layout import (
    COMMON,
    DEVICE,
    ISR,
    MSIX_BAR,
    NOTIFY_BAR,
    QUEUE_STATE,
    REGISTERS_BAR,
)
from accel.simulator.queue_state import QueueStateStructure
from accel.simulator.state import FunctionState
from protocol.virtio.pci import CONFIG_SPACE_SIZE, IsrStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accel.simulator.actions import Action
    from accel.simulator.layout import Layout
    from protocol.virtio import VirtioFeatures

__all__ = ["PciFunction"]

_DOORBELL_WIDTHS = frozenset({2, 4})
_MASKED = b"\1\0\0\0"
"""The last word of a vector's entry as it is after a reset."""


class PciFunction:
    """One virtio function.

    Args:
        layout: what it has, and where.
        features: what it offers.
        queue_sizes: largest size of each queue.

    Attributes:
        layout: what it has, and where.
        state: what it is doing.
    """

    def __init__(
        self, layout: Layout, features: VirtioFeatures, queue_sizes: Sequence[int]
    ) -> None:
        self.layout = layout
        self.state = FunctionState(features, queue_sizes, layout.vectors)
        self._config = ConfigSpace(layout)
        self._common = CommonStructure(self.state)
        self._queue_state = QueueStateStructure(self.state)
        self._clear_vectors()

    def _clear_vectors(self) -> None:
        self._vectors = bytearray((bytes(12) + _MASKED) * self.layout.vectors)

    @property
    def region_sizes(self) -> dict[int, int]:
        """Bytes of each region, by VFIO's numbers."""
        return self.layout.bar_sizes | {CONFIG_REGION: CONFIG_SPACE_SIZE}

    def reset(self) -> list[Action]:
        """Reset the whole function, its configuration space too."""
        self._config.reset()
        self._common.forget()
        self._queue_state.forget()
        self._clear_vectors()
        # In this order: what was reset needs no stop of its own.
        return [*self.state.reset(), *self.state.set_bus_master(allowed=False)]

    def read(self, region: int, offset: int, count: int) -> bytes:
        """Return what `count` bytes of a region read as."""
        if region == CONFIG_REGION:
            return self._read_config(offset, count)
        if region == REGISTERS_BAR:
            return self._read_register(offset, count)
        if region == MSIX_BAR:
            return bytes(self._vectors[offset : offset + count]).ljust(count, b"\0")
        return bytes(count)

    def write(self, region: int, offset: int, data: bytes) -> list[Action]:
        """Write to a region; return what is to be done."""
        if region == CONFIG_REGION:
            return self._write_config(offset, data)
        if region == REGISTERS_BAR:
            return self._write_register(offset, data)
        if region == NOTIFY_BAR:
            index = self.layout.queue_of(offset)
            if index is not None and len(data) in _DOORBELL_WIDTHS:
                return [RingDoorbell(index=index)]
        if region == MSIX_BAR:
            kept = data[: max(len(self._vectors) - offset, 0)]
            self._vectors[offset : offset + len(kept)] = kept
        return []

    def _read_config(self, offset: int, count: int) -> bytes:
        window = self._config.window(offset, count)
        if window is not None:
            self._config.window_data = self.read(window.bar, window.offset, window.width)
        return self._config.read(offset, count)

    def _write_config(self, offset: int, data: bytes) -> list[Action]:
        self._config.write(offset, data)
        actions = self.state.set_bus_master(allowed=self._config.bus_master)
        window = self._config.window(offset, len(data))
        if window is not None:
            value = self._config.window_data[: window.width]
            actions += self.write(window.bar, window.offset, value)
        return actions

    def _read_register(self, offset: int, count: int) -> bytes:
        if offset >= QUEUE_STATE.offset:
            return self._queue_state.read(offset - QUEUE_STATE.offset, count)
        if offset >= DEVICE.offset:
            start = offset - DEVICE.offset
            return self.state.config[start : start + count].ljust(count, b"\0")
        if offset >= ISR.offset:
            return self._read_isr(offset - ISR.offset, count)
        return self._common.read(offset - COMMON.offset, count)

    def _read_isr(self, offset: int, count: int) -> bytes:
        if offset > 0 or count == 0:
            return bytes(count)
        isr, self.state.isr = self.state.isr, IsrStatus(0)
        return bytes([isr]).ljust(count, b"\0")

    def _write_register(self, offset: int, data: bytes) -> list[Action]:
        if offset >= QUEUE_STATE.offset:
            return self._queue_state.write(offset - QUEUE_STATE.offset, data)
        if offset >= DEVICE.offset:
            start = offset - DEVICE.offset
            inside = data and start + len(data) <= DEVICE.size
            return [WriteConfig(offset=start, data=data)] if inside else []
        if offset >= ISR.offset:
            return []
        return self._common.write(offset - COMMON.offset, data)
