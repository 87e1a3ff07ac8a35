"""A modern virtio PCI device as an accelerator.

One operation works on the device at a time, and none is cancelled half-way: the select registers
are shared by all queues.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from accel.virtio_pci.news import NewsBoard
from protocol.virtio.pci import CommonRegister, DeviceStatus
from vhostuser.datapath import (
    Accelerator,
    AcceleratorCapabilities,
    AcceleratorIdentity,
    AcceleratorNews,
)
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from accel.pci import PciDevice
    from accel.virtio_pci.config import DeviceConfig
    from accel.virtio_pci.doorbells import Doorbells
    from accel.virtio_pci.negotiation import Negotiation
    from accel.virtio_pci.queues import Queues
    from accel.virtio_pci.structure import CommonConfig
    from accel.virtio_pci.vectors import Vectors
    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath import EventfdDoorbell, MappedDoorbell, NotifyArea, QueueAddresses
    from vhostuser.fds import OwnedFd
    from vhostuser.memory import MappedRegion
    from vhostuser.virtqueue import RingState

__all__ = ["Parts", "VirtioPciAccelerator"]

_log = logging.getLogger(__name__)

_PAUSE = 0.05
"""Seconds between two looks at the configuration: its vector may as well mean a queue, and a device
may interrupt as often as it likes."""
_LONG_PAUSE = 1.0
"""The same after a look that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a driver is made of.

    Attributes:
        device: how the device is reached.
        common: its common configuration.
        negotiation: its status and features.
        queues: its queues.
        doorbells: their doorbells.
        vectors: its vectors.
        config: its own configuration.
    """

    device: PciDevice
    common: CommonConfig
    negotiation: Negotiation
    queues: Queues
    doorbells: Doorbells
    vectors: Vectors
    config: DeviceConfig


class VirtioPciAccelerator(Accelerator):
    """The driver of one device; `open_virtio` makes it.

    Args:
        identity: what the device is.
        features: what a guest may be offered.
        queue_sizes: the largest size of each queue.
        has_states: whether it has the queue state capability.
        parts: what the driver is made of; they stay the caller's.
    """

    def __init__(
        self,
        identity: AcceleratorIdentity,
        features: VirtioFeatures,
        queue_sizes: tuple[int, ...],
        *,
        has_states: bool,
        parts: Parts,
    ) -> None:
        self.identity = identity
        self.features = features
        self.queue_sizes = queue_sizes
        self.capabilities = AcceleratorCapabilities(
            start_at_state=has_states, report_state=has_states, late_queues=has_states
        )
        self._parts = parts
        self._lock = trio.Lock()
        self._news = NewsBoard()
        self._failure = ""

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[Parts]:
        with trio.CancelScope(shield=True):
            async with self._lock:
                yield self._parts

    # The device

    async def reset(self) -> None:
        """Stop and forget every queue; interrupts stay bound. See `Accelerator.reset`."""
        async with self._alone() as parts:
            await parts.negotiation.reset()
            parts.queues.forget()
            self._failure = ""
            self._news.take_back(AcceleratorNews.FAILED)

    async def set_features(self, features: VirtioFeatures) -> None:
        """Negotiate with a device that was reset. See `Accelerator.set_features`."""
        async with self._alone() as parts:
            await parts.negotiation.set_features(features)
            vector = parts.vectors.config
            register = CommonRegister.CONFIG_MSIX_VECTOR
            if not await parts.common.write_checked(register, vector):
                raise AcceleratorError(
                    f"{self.identity.name} does not take vector {vector} for its configuration"
                )

    async def start(self) -> None:
        """Let the device work on its queues. See `Accelerator.start`."""
        async with self._alone() as parts:
            await parts.negotiation.start()

    async def map(self, region: MappedRegion) -> None:
        """Let the device reach a region. See `Accelerator.map`."""
        await self._parts.device.map_memory(region)

    async def unmap(self, region: MappedRegion) -> None:
        """Take a region away. See `Accelerator.unmap`."""
        with trio.CancelScope(shield=True):
            await self._parts.device.unmap_memory(region)

    def group(self) -> OwnedFd | None:
        """Return a duplicate of the device's VFIO group. See `Accelerator.group`."""
        return self._parts.device.group()

    # Queues

    async def start_queue(
        self, index: int, addresses: QueueAddresses, state: RingState | None
    ) -> None:
        """Program a queue and enable it. See `Accelerator.start_queue`."""
        async with self._alone() as parts:
            vector = parts.vectors.of_queue(index)
            await parts.queues.start(index, vector, addresses, state)
            await parts.doorbells.prepare(index)

    async def stop_queue(self, index: int) -> RingState | None:
        """Suspend a queue, by the queue state capability. See `Accelerator.stop_queue`.

        None also where the device does not do what it promises there. RING_RESET does not serve
        here, for it drops what is in flight: see `reset_queue`.
        """
        async with self._alone() as parts:
            try:
                return await parts.queues.suspend(index)
            except OSError as error:
                _log.warning("only a reset stops queue %d: %s", index, error)
                return None

    async def reset_queue(self, index: int) -> bool:
        """Forget a queue at once, and whatever is in flight in it, by RING_RESET.

        When this returns True the device does not touch the queue any more. Not cancellable.

        Returns:
            False: the device cannot do that, or the queue does not run.

        Raises:
            OSError: it does not do it in time, or is gone.
        """
        async with self._alone() as parts:
            return await parts.queues.reset(index)

    async def set_call(self, index: int, fd: OwnedFd | None) -> None:
        """Have a queue's interrupts signal an eventfd. See `Accelerator.set_call`."""
        async with self._alone() as parts:
            await parts.vectors.set_call(index, fd)

    def vector_of(self, index: int) -> int:
        """Return a queue's MSI-X vector; others may have the same one."""
        return self._parts.vectors.of_queue(index)

    def doorbell(self, index: int) -> MappedDoorbell | EventfdDoorbell | None:
        """How to ring the doorbell of a queue that was started. See `Accelerator.doorbell`."""
        return self._parts.doorbells.doorbell(index)

    async def ring(self, index: int) -> None:
        """Ring a queue's doorbell. See `Accelerator.ring`."""
        await self._parts.doorbells.ring(index)

    async def notify_area(self, index: int, page_size: int) -> NotifyArea:
        """Return the page of a queue's doorbell. See `Accelerator.notify_area`."""
        await trio.lowlevel.checkpoint()
        return self._parts.doorbells.notify_area(index, page_size)

    # Configuration and news

    async def read_config(self, offset: int, size: int) -> bytes:
        """Read the device's configuration space. See `Accelerator.read_config`."""
        return await self._parts.config.read(offset, size)

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the device's configuration space. See `Accelerator.write_config`."""
        await self._parts.config.write(offset, data)

    async def news(self) -> AcceleratorNews:
        """Wait for news of the device. See `Accelerator.news`."""
        return await self._news.wait()

    def fail(self, reason: str) -> None:
        """Note that the device serves nothing any more."""
        if reason != self._failure:
            name = self.identity.name
            _log.error("%s", reason if name in reason else f"{name}: {reason}")
        self._failure = reason
        self._news.tell(AcceleratorNews.FAILED)

    async def watch_presence(self) -> None:
        """Notice when the device is gone."""
        self.fail(await self._parts.device.gone())

    async def watch_config(self) -> None:
        """Take configuration interrupts."""
        vectors = self._parts.vectors
        event = vectors.config_event
        while True:
            await trio.lowlevel.wait_readable(event.fileno())
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(event.fileno())
            try:
                await self._take_config_interrupt()
            except OSError as error:
                self.fail(error.strerror or str(error))
                await trio.sleep(_LONG_PAUSE)
            await trio.sleep(_PAUSE)

    async def _take_config_interrupt(self) -> None:
        parts = self._parts
        if await parts.common.status() & DeviceStatus.NEEDS_RESET:
            self.fail("it met an error and needs a reset")
        elif not parts.vectors.config_shared or await parts.config.changed():
            self._news.tell(AcceleratorNews.CONFIG_CHANGED)
