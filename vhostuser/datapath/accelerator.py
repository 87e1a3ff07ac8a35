"""The accelerator below a passthrough data path: a device that serves virtio rings by itself.

Its operations are those of a vDPA driver. A few are abstract; each of the others has a fallback
that its docstring names, so that a driver for new hardware can begin small, and
`AcceleratorCapabilities` says what the planner may count on. Every method that may take long is
async: mapping, programming registers and socket round trips must not stop other connections.

The life of a device: `reset`, `set_features`, `map` (also later), `start_queue` for each queue,
`start`, and in the end `stop_queue` where it can be stopped, `reset`, `unmap`. A driver registers
a factory in the entry-point group `vhostuser.accelerators`; see `AcceleratorFactory`.
"""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from protocol.virtio import VirtioFeatures
    from vhostuser.fds import OwnedFd
    from vhostuser.memory import MappedRegion
    from vhostuser.virtqueue import RingState

__all__ = [
    "Accelerator",
    "AcceleratorCapabilities",
    "AcceleratorFactory",
    "AcceleratorIdentity",
    "AcceleratorNews",
    "EventfdDoorbell",
    "MappedDoorbell",
    "NotifyArea",
    "QueueAddresses",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorIdentity:
    """What a device is.

    Attributes:
        device_id: virtio device type: 1 net, 2 block, 4 entropy, ...
        name: for messages to people, such as "vfio:0000:01:00.0".
    """

    device_id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorCapabilities:
    """What a driver's device can do beyond starting at the beginning; the planner decides by these.

    Attributes:
        start_at_state: a queue can start at a position other than the initial one.
        report_state: `stop_queue` returns where a queue stopped.
        late_queues: a queue can start while the device runs.
        reports_inflight: it tells which requests it has not finished.
        logs_dirty: it tells which pages it has written.
        maps_on_miss: it can wait for a mapping that comes when it is used.
        address_spaces: how many it has.
        queue_groups: how many groups of queues can be put into address spaces of their own.
    """

    start_at_state: bool = False
    report_state: bool = False
    late_queues: bool = False
    reports_inflight: bool = False
    logs_dirty: bool = False
    maps_on_miss: bool = False
    address_spaces: int = 1
    queue_groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAddresses:
    """A ring's size and areas, in the device's addresses (IOVA, here equal to guest-physical).

    Attributes:
        num: descriptors.
        desc: descriptor area.
        driver: driver area (split: available ring).
        device: device area (split: used ring).
    """

    num: int
    desc: int
    driver: int
    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedDoorbell:
    """A doorbell that is rung by a store.

    Attributes:
        address: where it is mapped in this process, until the queue has stopped.
        width: bytes to store at once: 2 or 4.
        value: what to store.
    """

    address: int
    width: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventfdDoorbell:
    """A doorbell that is rung by adding one to an eventfd.

    Attributes:
        fd: the eventfd; the receiver's.
    """

    fd: OwnedFd


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyArea:
    """Pages into which a driver writes its notifications, as a front-end maps them.

    Attributes:
        fd: what to map; the receiver's. The area was checked to lie inside it.
        offset: bytes, a multiple of the page size.
        size: bytes, a multiple of the page size.
    """

    fd: OwnedFd
    offset: int
    size: int


class AcceleratorNews(enum.Enum):
    """What a device has to say."""

    CONFIG_CHANGED = "configuration changed"
    FAILED = "failed"
    """It is gone, or needs a reset: nothing will be served until then."""


class Accelerator(abc.ABC):
    """One device that serves virtio rings.

    Attributes:
        identity: what it is.
        capabilities: what it can do.
        features: virtio features that the device itself offers.
        queue_sizes: the largest size of each queue, in descriptors.
    """

    identity: AcceleratorIdentity
    features: VirtioFeatures
    queue_sizes: tuple[int, ...]
    capabilities = AcceleratorCapabilities()

    @abc.abstractmethod
    async def reset(self) -> None:
        """Stop every queue and forget them; when this returns the device touches no memory.

        Not cancellable.

        Raises:
            OSError: the device is gone: it touches nothing then, either. Or, with ETIMEDOUT, it
                does not do it, and what it touches is not known.
        """

    @abc.abstractmethod
    async def set_features(self, features: VirtioFeatures) -> None:
        """Negotiate with a device that was reset.

        Args:
            features: what the guest's driver accepted, of `features`; the driver adds what only
                the device's own bus needs (ACCESS_PLATFORM).

        Raises:
            OSError: the device does not take this set.
        """

    @abc.abstractmethod
    async def map(self, region: MappedRegion) -> None:
        """Let the device reach a region of guest memory, at its guest-physical address.

        Raises:
            OSError: the device cannot address it, or the host refused; nothing has changed.
        """

    @abc.abstractmethod
    async def unmap(self, region: MappedRegion) -> None:
        """Take a region away; when this returns the device cannot reach it. Not cancellable."""

    @abc.abstractmethod
    async def start_queue(
        self, index: int, addresses: QueueAddresses, state: RingState | None
    ) -> None:
        """Program a queue and enable it.

        Args:
            index: queue, below the number of `queue_sizes`.
            addresses: where its areas are.
            state: where to go on; None: at the beginning. Only with `start_at_state`.

        Raises:
            OSError: the device refused.
        """

    async def start(self) -> None:
        """Let the device run (DRIVER_OK). Fallback: it runs from the first queue on."""
        await trio.lowlevel.checkpoint()

    async def stop_queue(self, index: int) -> RingState | None:
        """Stop one queue; return where it stands once nothing of it is in flight.

        Fallback: None: it cannot be stopped alone; only `reset` stops it. Not cancellable.
        """
        del self, index
        await trio.lowlevel.checkpoint()
        return None

    async def reset_queue(self, index: int) -> bool:
        """Stop one queue and forget it, with what is in flight; whether the device can.

        Fallback: False: it cannot, only `reset` stops it. Not cancellable.
        """
        del self, index
        await trio.lowlevel.checkpoint()
        return False

    @abc.abstractmethod
    async def set_call(self, index: int, fd: OwnedFd | None) -> None:
        """Have a queue's interrupts signal an eventfd, or nothing.

        Args:
            index: queue.
            fd: an eventfd; stays the caller's, duplicate it.

        Raises:
            OSError: the device refused.
        """

    def doorbell(self, index: int) -> MappedDoorbell | EventfdDoorbell | None:
        """How the engine rings a queue's doorbell. Fallback: None: by `ring`, one at a time.

        Raises:
            OSError: the host is out of file descriptors.
        """
        del self, index
        return None

    @abc.abstractmethod
    async def ring(self, index: int) -> None:
        """Ring a queue's doorbell.

        Raises:
            OSError: the device is gone.
        """

    async def notify_area(self, index: int, page_size: int) -> NotifyArea:
        """Return the pages that hold a queue's doorbell and no other's, for a guest to write into.

        Args:
            index: queue.
            page_size: the host's, bytes.

        Raises:
            AcceleratorError: there is none, in words. Fallback: this.
        """
        del self, index, page_size
        await trio.lowlevel.checkpoint()
        raise AcceleratorError("the driver has no notify area to hand over")

    def group(self) -> OwnedFd | None:
        """Return a duplicate of the device's VFIO group. Fallback: None: there is none."""
        return None

    async def read_config(self, offset: int, size: int) -> bytes:
        """Read the configuration space; zeros beyond its end. Fallback: all zeros.

        Raises:
            OSError: the device is gone.
        """
        del self, offset
        await trio.lowlevel.checkpoint()
        return bytes(size)

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space. Fallback: nothing is writable.

        Raises:
            OSError: it cannot be written, or the device is gone.
        """
        del self, offset, data
        await trio.lowlevel.checkpoint()
        raise AcceleratorError("the device has no configuration field that can be written")

    async def news(self) -> AcceleratorNews:
        """Wait for news of the device. Cancellable. Fallback: there is never any."""
        del self
        await trio.sleep_forever()
        raise AssertionError


class AcceleratorFactory(Protocol):
    """What an entry point of the group `vhostuser.accelerators` names."""

    def __call__(self, address: str) -> AbstractAsyncContextManager[Accelerator]:
        """Open a device, reset, for the length of the block.

        Args:
            address: what follows the driver's name and colon on the command line.

        Raises (on entering):
            UsageError: there is no such device, or it cannot be used; the text says what to do.
            OSError: the host refused.
        """
