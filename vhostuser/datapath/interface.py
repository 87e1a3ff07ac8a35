"""The seam between a session and whatever moves the guest's buffers.

A datapath serves the rings of one device: in software (`vhostuser.datapath.software`), or by
handing them to an `Accelerator` (`vhostuser.datapath.passthrough`). The session speaks to all of
them through `Datapath`; news comes back through `DatapathEvents`, which the server injects, so that
imports never point up.

Every method is async: mapping, pinning or programming a device may take long and must not stop
other connections. Stopping is shielded from cancellation by the implementations.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vhostuser.datapath.accelerator import Accelerator  # the other half of the seam

if TYPE_CHECKING:
    from protocol.vhost_user import Uva
    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath.accelerator import NotifyArea
    from vhostuser.fds import OwnedFd
    from vhostuser.memory import Snapshot
    from vhostuser.virtqueue import Fault, RingState

__all__ = [
    "Accelerator",
    "Capabilities",
    "Datapath",
    "DatapathEvents",
    "RingActual",
    "RingFd",
    "RingStart",
    "RingStatistics",
    "StopMode",
]


class StopMode(enum.Enum):
    """What becomes of requests in flight when a ring stops."""

    DRAIN = "drain"
    """They are finished and given back first."""
    ABANDON = "abandon"
    """They are left unacknowledged: the front-end is gone or the process ends."""


class RingFd(enum.Enum):
    """The three file descriptors of a ring."""

    KICK = "kick"
    CALL = "call"
    ERR = "err"


class RingActual(enum.Enum):
    """What a ring is doing, as the engine says."""

    STOPPED = "stopped"
    RUNNING = "running"
    STOPPING = "stopping"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class RingStart:
    """All that a ring needs to start.

    Attributes:
        features: negotiated virtio features; they choose the layout.
        num: ring size in descriptors.
        desc: front-end address of the descriptor area.
        driver: front-end address of the driver area (split: available ring).
        device: front-end address of the device area (split: used ring).
        state: where to go on. A split ring's used index is read from guest memory instead.
        status_follows: whether SET_STATUS will tell when all rings were started.
    """

    features: VirtioFeatures
    num: int
    desc: Uva
    driver: Uva
    device: Uva
    state: RingState
    status_follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RingStatistics:
    """Counters of one ring since the device was made, and what it is doing now.

    Those of a ring that an accelerator serves are the accelerator's own; here they stay 0.

    Attributes:
        actual: what the engine is doing with the ring.
        fault: the rule it broke, when `actual` is BROKEN.
        requests: chains served.
        errors: requests that ended with a status other than OK.
        bytes_read: payload bytes given to the guest.
        bytes_written: payload bytes taken from the guest.
        kicks: wake-ups by the kick fd.
        page_kicks: stores into the notify page that were found, as a rule by a worker that slept.
        calls: signals to the call fd.
        calls_suppressed: times the driver wanted no call.
        waits: times a request had to wait for the store instead of being answered at once.
        counted: whether requests are counted at all.
    """

    actual: RingActual
    fault: Fault | None = None
    requests: int = 0
    errors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    kicks: int = 0
    page_kicks: int = 0
    calls: int = 0
    calls_suppressed: int = 0
    waits: int = 0
    counted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a datapath can do; one planner decides by these.

    Attributes:
        start_at_state: it can start a ring at a position other than the initial one.
        report_state: it can tell the position of a stopped ring.
        keeps_files: it needs the file of each region, not only where that is mapped.
    """

    start_at_state: bool
    report_state: bool
    keeps_files: bool = False


class DatapathEvents(Protocol):
    """Upward news. Methods are called on the trio thread and must not block."""

    def ring_broken(self, index: int, fault: Fault, value: int) -> None:
        """Report that ring `index` broke `fault`'s rule with `value` and was stopped."""

    def ring_failed(self, index: int, reason: str) -> None:
        """Report that what served ring `index` is gone, and nothing else takes over."""

    def area_ended(self, index: int, reason: str) -> None:
        """Report that the notify area of ring `index` must not be written to any more."""

    def config_changed(self) -> None:
        """Report that the device's configuration space changed."""


class Datapath(Protocol):
    """Serves the rings of one device. It outlives sessions and forgets each when it was left."""

    @property
    def capabilities(self) -> Capabilities:
        """What this datapath can do."""

    def report_to(self, events: DatapathEvents) -> None:
        """Pass news on to `events` from now on."""

    async def prepare_memory(self, snapshot: Snapshot) -> None:
        """Make ready to use `snapshot` beside the one in use: `commit_memory` comes next.

        Raises:
            OSError: it cannot be used; nothing has changed, and it is given up.
        """

    async def commit_memory(self, snapshot: Snapshot) -> None:
        """Move every ring to `snapshot`; return when nothing uses the one before.

        A ring whose own areas are not in the new snapshot breaks. Not cancellable.
        """

    async def release_memory(self, snapshot: Snapshot) -> None:
        """Forget a snapshot that another has replaced: it is unmapped next. Not cancellable."""

    async def start_queue(self, index: int, start: RingStart, kick: OwnedFd | None) -> None:
        """Start ring `index` and look at it at once: a kick may have been lost before.

        Args:
            index: ring, below the device's number of queues.
            start: layout, addresses and position.
            kick: taken over; None: the ring is polled.

        Raises:
            OSError: the ring's areas are not in guest memory, or its position is not legal; the
                ring stays stopped.
        """

    async def stop_queue(self, index: int, how: StopMode) -> RingState:
        """Stop ring `index`; return its position. Not cancellable."""

    async def set_enabled(self, index: int, *, enabled: bool) -> None:
        """Let a started ring be served, or leave it alone."""

    async def set_fd(self, index: int, which: RingFd, fd: OwnedFd | None) -> None:
        """Take over a ring's call, err or kick fd; None for none. The last one wins."""

    async def set_status(self, status: int) -> None:
        """Learn the device status that the driver has set; DRIVER_OK: every ring was started.

        Raises:
            OSError: the device does not start.
        """

    async def notify_area(self, index: int, page_size: int) -> NotifyArea | None:
        """Return what a driver can write to instead of signalling the kick fd of a started ring.

        It stays usable until the ring is stopped, or `DatapathEvents.area_ended`. None: nothing,
        or not as long as the ring is not started.

        Args:
            index: ring.
            page_size: the host's, bytes.
        """

    def group(self) -> OwnedFd | None:
        """Return a duplicate of the VFIO group that serves the rings; None: there is none."""

    async def look(self, index: int) -> None:
        """Look at ring `index` once, as if it was kicked: a kick may have been lost in a switch."""

    async def leave(self) -> None:
        """End of a session: abandon every ring, close its fds, forget its memory.

        Returns when the last request of the session has ended: a late completion would corrupt the
        next guest. Not cancellable.
        """

    def statistics(self) -> tuple[RingStatistics, ...]:
        """One entry a ring."""
