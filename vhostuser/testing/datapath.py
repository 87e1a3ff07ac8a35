"""A data path and a device that only remember what they were asked to do.

With them a server or a session is driven without an engine thread: what would have happened is a
list of calls, and a failure is asked for by setting `fail`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import Capabilities, RingActual, RingStatistics, StopMode
from vhostuser.devices import DeviceProfile
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from vhostuser.datapath import DatapathEvents, NotifyArea, RingFd, RingStart
    from vhostuser.memory import Snapshot

__all__ = ["FakeDatapath", "FakeDevice", "fake_profile"]

_NO_FEATURES = VirtioFeatures(0)
_NOTHING = RingStatistics(actual=RingActual.STOPPED)


def fake_profile(*, queues: int = 2, queue_size: int = 256) -> DeviceProfile:
    """Return what a `FakeDevice` offers.

    Args:
        queues: number of rings.
        queue_size: largest ring size, in descriptors.
    """
    return DeviceProfile(
        kind="fake",
        queues=queues,
        queue_size=queue_size,
        features=VirtioFeatures.VERSION_1
        | VirtioFeatures.RING_PACKED
        | VirtioFeatures.PROTOCOL_FEATURES,
        protocol_features=ProtocolFeatures.MQ
        | ProtocolFeatures.REPLY_ACK
        | ProtocolFeatures.CONFIG
        | ProtocolFeatures.BACKEND_REQ
        | ProtocolFeatures.RESET_DEVICE
        | ProtocolFeatures.CONFIGURE_MEM_SLOTS
        | ProtocolFeatures.STATUS,
    )


@dataclass
class FakeDatapath:
    """Implements `Datapath` by writing down each call.

    Attributes:
        queues: number of rings.
        calls: what was asked for, in order, as tuples that begin with the method's name.
        positions: what `stop_queue` returns for a ring; the initial position where nothing is set.
        fail: raised by the next `start_queue`, once.
        fail_memory: raised by the next `prepare_memory`, once.
        fds: the fds that were handed over and not yet replaced.
        events: what `report_to` was given.
        areas: what `notify_area` returns for a ring, once.
        vfio_group: what `group` duplicates; the test's.
    """

    queues: int = 2
    calls: list[tuple[object, ...]] = field(default_factory=list)
    positions: dict[int, RingState] = field(default_factory=dict)
    fail: OSError | None = None
    fail_memory: OSError | None = None
    fds: dict[tuple[int, str], OwnedFd] = field(default_factory=dict)
    events: DatapathEvents | None = None
    areas: dict[int, NotifyArea] = field(default_factory=dict)
    vfio_group: OwnedFd | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Everything that there is."""
        return Capabilities(start_at_state=True, report_state=True)

    def report_to(self, events: DatapathEvents) -> None:
        """Keep `events`, so that a test can call it."""
        self.events = events

    async def prepare_memory(self, snapshot: Snapshot) -> None:
        """Write down the snapshot's number, or raise `fail_memory`."""
        await trio.lowlevel.checkpoint()
        error, self.fail_memory = self.fail_memory, None
        if error is not None:
            raise error
        self.calls.append(("prepare_memory", snapshot.number))

    async def release_memory(self, snapshot: Snapshot) -> None:
        """Write down the snapshot's number."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("release_memory", snapshot.number))

    async def commit_memory(self, snapshot: Snapshot) -> None:
        """Write down the snapshot's number."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("commit_memory", snapshot.number))

    async def start_queue(self, index: int, start: RingStart, kick: OwnedFd | None) -> None:
        """Write down the start, or raise `fail`."""
        await trio.lowlevel.checkpoint()
        error, self.fail = self.fail, None
        if error is not None:
            raise error
        self._take(index, "kick", kick)
        self.calls.append(("start_queue", index, start))

    async def stop_queue(self, index: int, how: StopMode) -> RingState:
        """Write down the stop; return the position that the test has set."""
        await trio.lowlevel.checkpoint()
        self._take(index, "kick", None)
        self.calls.append(("stop_queue", index, how))
        initial = RingState(avail=0, used=0, avail_wrap=True, used_wrap=True)
        return self.positions.get(index, initial)

    async def set_enabled(self, index: int, *, enabled: bool) -> None:
        """Write down the change."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("set_enabled", index, enabled))

    async def set_fd(self, index: int, which: RingFd, fd: OwnedFd | None) -> None:
        """Take the fd over, closing the one before."""
        await trio.lowlevel.checkpoint()
        self._take(index, which.value, fd)
        self.calls.append(("set_fd", index, which, fd is not None))

    async def set_status(self, status: int) -> None:
        """Write down the status."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("set_status", status))

    async def notify_area(self, index: int, page_size: int) -> NotifyArea | None:
        """Return a page that the test has set, once."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("notify_area", index, page_size))
        return self.areas.pop(index, None)

    def group(self) -> OwnedFd | None:
        """Return a duplicate of what the test has set."""
        return self.vfio_group and self.vfio_group.duplicate()

    async def look(self, index: int) -> None:
        """Write down the look."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("look", index))

    async def leave(self) -> None:
        """Close every fd."""
        await trio.lowlevel.checkpoint()
        for fd in self.fds.values():
            fd.close()
        self.fds.clear()
        self.calls.append(("leave",))

    def statistics(self) -> tuple[RingStatistics, ...]:
        """Return zeros."""
        return (_NOTHING,) * self.queues

    def _take(self, index: int, name: str, fd: OwnedFd | None) -> None:
        old = self.fds.pop((index, name), None)
        if old is not None:
            old.close()
        if fd is not None:
            self.fds[index, name] = OwnedFd(fd.detach())


@dataclass
class FakeDevice:
    """A device on a `FakeDatapath`.

    Attributes:
        profile: what it offers.
        datapath: what remembers.
        config: its configuration space.
        features: what the driver has accepted.
        writable: the bytes of the configuration space that can be written.
        size: how much data it says that it holds, in bytes.
    """

    profile: DeviceProfile = field(default_factory=fake_profile)
    datapath: FakeDatapath = field(default_factory=FakeDatapath)
    config: bytes = bytes(range(60))
    features: VirtioFeatures = _NO_FEATURES
    writable: range = range(0)
    size: int = 512

    def use_features(self, features: VirtioFeatures) -> None:
        """Keep what was accepted."""
        self.features = features

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return part of the configuration space; zeros beyond its end."""
        await trio.lowlevel.checkpoint()
        return self.config[offset : offset + size].ljust(size, b"\0")

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Write where that is allowed; a migration may write everywhere."""
        await trio.lowlevel.checkpoint()
        end = offset + len(data)
        if not migration and (offset not in self.writable or end > self.writable.stop):
            raise RequestError(errno.EPERM, "the field is read-only", field="offset", value=offset)
        self.config = self.config[:offset] + data + self.config[end:]
