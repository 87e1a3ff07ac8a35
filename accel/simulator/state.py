"""What a simulated function is doing: its status, features and queues; sans I/O.

The structures in its BARs show and change this. Whoever serves the function does what the methods
return, in order, and tells `stopped`, `refused`, `broke` and `config_changed` what happened.
Specification: VIRTIO 1.2, 2.1 "Device Status Field", 2.4 "Device Reset", 3.1 "Device
Initialization".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.simulator.actions import (
    BindQueue,
    Reset,
    StartQueue,
    StopQueue,
    TellDriver,
    UseFeatures,
)
from accel.simulator.queue import QueueRegisters
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import MSI_NO_VECTOR, DeviceStatus, IsrStatus, QueueStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accel.simulator.actions import Action
    from vhostuser.virtqueue import RingState

__all__ = ["FunctionState"]

_BY_DRIVER = (
    DeviceStatus.ACKNOWLEDGE
    | DeviceStatus.DRIVER
    | DeviceStatus.DRIVER_OK
    | DeviceStatus.FEATURES_OK
    | DeviceStatus.FAILED
)
_GENERATIONS = 256


class FunctionState:
    """One function between two resets.

    Args:
        features: what is offered.
        queue_sizes: largest size of each queue.
        vectors: how many MSI-X vectors can be assigned.

    Attributes:
        features: what is offered.
        status: how far the driver has come.
        driver_features: what the driver has written, accepted or not.
        queues: the registers of each queue.
        config_vector: the vector of configuration changes, or MSI_NO_VECTOR.
        config: the device configuration as drivers read it.
        generation: of `config`.
        isr: what has happened since the driver last looked.
    """

    def __init__(self, features: VirtioFeatures, queue_sizes: Sequence[int], vectors: int) -> None:
        self.features = features
        self.config = b""
        self.generation = 0
        self._sizes = tuple(queue_sizes)
        self._vectors = range(vectors)
        self._bus_master = False
        self._clear()

    def _clear(self) -> None:
        self.status = DeviceStatus(0)
        self.driver_features = VirtioFeatures(0)
        self.queues = [QueueRegisters.new(size) for size in self._sizes]
        self.config_vector = MSI_NO_VECTOR
        self.isr = IsrStatus(0)

    def reset(self) -> list[Action]:
        """Forget all that a driver did, but not what belongs to the bus."""
        self._clear()
        return [Reset()]

    def set_status(self, value: int) -> list[Action]:
        """Take what the driver wrote as status; bits that are set stay set until a reset."""
        if value == 0:
            return self.reset()
        new = DeviceStatus(value) & _BY_DRIVER & ~self.status
        actions: list[Action] = []
        if DeviceStatus.FEATURES_OK in new:
            if self._acceptable:
                actions.append(UseFeatures(features=self.driver_features))
            else:
                new &= ~DeviceStatus.FEATURES_OK
        if DeviceStatus.FEATURES_OK not in self.status | new:
            new &= ~DeviceStatus.DRIVER_OK
        self.status |= new
        return [*actions, *self._start_ready()]

    @property
    def _acceptable(self) -> bool:
        """Whether this device works with what the driver accepted: modern, and no more."""
        accepted = self.driver_features
        return VirtioFeatures.VERSION_1 in accepted and accepted & self.features == accepted

    def accept(self, word: int, bits: int) -> None:
        """Take 32 feature bits that the driver accepts; only before FEATURES_OK."""
        if DeviceStatus.FEATURES_OK not in self.status:
            mask = ((1 << 32) - 1) << 32 * word
            self.driver_features = VirtioFeatures(
                int(self.driver_features) & ~mask | bits << 32 * word
            )

    def vector(self, value: int) -> int:
        """Return what a vector field holds after a driver wrote `value` to it."""
        return value if value in self._vectors else MSI_NO_VECTOR

    def set_bus_master(self, *, allowed: bool) -> list[Action]:
        """Let the function reach memory, or not: it touches none meanwhile."""
        if allowed == self._bus_master:
            return []
        self._bus_master = allowed
        if allowed:
            return self._start_ready()
        return [
            StopQueue(index=index, drain=True)
            for index, queue in enumerate(self.queues)
            if queue.running
        ]

    def take_memory(self, address: int, size: int) -> list[Action]:
        """Let queues rest whose memory is about to go.

        A client may map it anew while the device runs, as QEMU does with all of a PC's RAM when
        firmware asks for it. Hardware would not notice unless it had work to do meanwhile.

        Args:
            address: where the memory begins.
            size: its bytes.
        """
        actions: list[Action] = []
        for index, queue in enumerate(self.queues):
            if not queue.running or queue.status is not QueueStatus.ENABLED:
                continue
            areas = queue.areas(self.driver_features)
            if any(at < address + size and address < at + length for at, length in areas):
                queue.waits = True
                actions.append(StopQueue(index=index, drain=True))
        return actions

    def give_memory(self, reached: Callable[[int, int], bool]) -> list[Action]:
        """Let queues go on whose memory is back.

        Args:
            reached: tells whether so many bytes at an address are within reach.
        """
        for queue in self.queues:
            areas = queue.areas(self.driver_features)
            queue.waits = queue.waits and not all(reached(*area) for area in areas)
        return self._start_ready()

    def enable_queue(self, index: int) -> list[Action]:
        """Enable a queue, which starts now or as soon as the device runs."""
        return self._start_ready() if self.queues[index].enable() else []

    def suspend_queue(self, index: int) -> list[Action]:
        """Let a queue rest."""
        queue = self.queues[index]
        if queue.status is not QueueStatus.ENABLED:
            return []
        queue.status = QueueStatus.SUSPENDING
        if queue.running:
            return [StopQueue(index=index, drain=True)]
        queue.suspended()
        return []

    def reset_queue(self, index: int) -> list[Action]:
        """Make a queue as it was after the device's reset (RING_RESET)."""
        if VirtioFeatures.RING_RESET not in self.driver_features:
            return []
        running = self.queues[index].running
        self.queues[index] = QueueRegisters.new(self._sizes[index])
        stop: list[Action] = [StopQueue(index=index, drain=False)] if running else []
        return [*stop, BindQueue(index=index)]

    def _start_ready(self) -> list[Action]:
        """Start every queue that can be served now and is not."""
        if DeviceStatus.DRIVER_OK not in self.status or not self._bus_master:
            return []
        actions: list[Action] = []
        for index, queue in enumerate(self.queues):
            if queue.running or queue.waits or queue.status is not QueueStatus.ENABLED:
                continue
            rule = queue.broken_rule(self.driver_features)
            if rule is not None:
                actions += self.broke(index, rule)
                continue
            queue.running = True
            actions.append(
                StartQueue(
                    index=index,
                    features=self.driver_features,
                    num=queue.size,
                    desc=queue.desc,
                    driver=queue.driver,
                    device=queue.device,
                    state=queue.state(self.driver_features),
                )
            )
        return actions

    def stopped(self, index: int, state: RingState) -> None:
        """Note where a queue stands that StopQueue was about."""
        queue = self.queues[index]
        if queue.running:  # else it was reset, and its position forgotten
            queue.stopped(state, self.driver_features)

    def refused(self, index: int, why: str) -> list[Action]:
        """Note that a StartQueue could not be done."""
        self.queues[index].running = False
        self.queues[index].waits = False
        return self.broke(index, why)

    def broke(self, index: int, why: str) -> list[Action]:
        """Note that a queue cannot be served: only a reset helps it; the others go on."""
        self.queues[index].status = QueueStatus.FAILED
        return self.fail(f"queue {index}: {why}")

    def fail(self, error: str) -> list[Action]:
        """Tell the driver that the device needs a reset."""
        self.status |= DeviceStatus.NEEDS_RESET
        self.isr |= IsrStatus.CONFIG
        return [TellDriver(error=error)]

    def show_config(self, config: bytes) -> bool:
        """Show a device configuration; return whether it differs from the one before."""
        changed = config != self.config
        self.config = config
        self.generation = (self.generation + changed) % _GENERATIONS
        return changed

    def config_changed(self, config: bytes) -> list[Action]:
        """Show a device configuration that changed by itself."""
        if not self.show_config(config):
            return []
        self.isr |= IsrStatus.CONFIG
        return [TellDriver()]
