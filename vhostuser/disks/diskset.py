"""The disks of a process: each with a server of its own, added and removed while others run.

What goes wrong with one disk ends that disk, with a line in the log and an event; the others do not
notice. Workers and memory belong to one disk alone (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

from protocol.vhost_user import CURRENT
from vhostuser import log
from vhostuser.disks.opening import describe_disk, open_device, open_endpoint
from vhostuser.errors import UsageError, leaves
from vhostuser.server import OwnPath, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from protocol.vhost_user import Dialect
    from vhostuser.devices import SizedDevice
    from vhostuser.disks.config import DiskConfig

    Notify = Callable[[str, Mapping[str, object]], None]
    OpenDevice = Callable[[DiskConfig], AbstractAsyncContextManager[SizedDevice]]
    Describe = Callable[[DiskConfig, SizedDevice], str]

__all__ = ["DISKS", "Disk", "DiskSet", "ServedKind"]

_log = logging.getLogger(__name__)


@runtime_checkable
class _Resizable(Protocol):
    async def resize(self, size: int | None) -> int:
        """Give the device another size in bytes; return what it has now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedKind:
    """What the members of a set are.

    Attributes:
        open_device: makes the device of a configuration.
        describe: says in a few words what is served, and where.
        dialect: of the protocol.
    """

    open_device: OpenDevice = open_device
    describe: Describe = describe_disk
    dialect: Dialect = CURRENT


DISKS = ServedKind()
"""Disks in software."""


@dataclass(slots=True, kw_only=True, eq=False)
class Disk:
    """One disk that is served.

    Attributes:
        config: what was asked for.
        device: what is served.
        server: what serves it, with the front-end of the moment.
        ended: set when it is served no longer: its socket is gone, its image closed.
    """

    config: DiskConfig
    device: SizedDevice
    server: Server
    ended: trio.Event = field(default_factory=trio.Event)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def id(self) -> str:
        """What it is called."""
        return self.config.id

    @property
    def size(self) -> int:
        """Its capacity in bytes, as front-ends see it."""
        return self.device.size

    @property
    def removed(self) -> bool:
        """Whether somebody had it end."""
        return self._scope.cancel_called

    async def serve(self) -> None:
        """Serve until there are no more front-ends, or until it is removed."""
        with self._scope:
            await self.server.run()

    def leave(self) -> None:
        """Have it end; `ended` says when it has."""
        self._scope.cancel()


class DiskSet:
    """Serves disks. Make it with `async with DiskSet.open()`; the disks end with the block.

    Args:
        nursery: in which disks are served.
        kind: what is served.

    Attributes:
        notify: called with the name and data of each event; data has the disk's `id`.
        inherited: sockets that systemd passed, by name, until a disk uses them.
    """

    def __init__(self, nursery: trio.Nursery, kind: ServedKind) -> None:
        self.notify: Notify = lambda _name, _data: None
        self.inherited: dict[str, int] = {}
        self._nursery = nursery
        self._kind = kind
        self._disks: dict[str, Disk] = {}
        self._coming: set[str] = set()
        self._sockets: set[OwnPath] = set()
        self._idle = trio.Event()
        self._failure: Exception | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, kind: ServedKind = DISKS) -> AsyncIterator[DiskSet]:
        """Have a set, empty at first, for the length of the block.

        Args:
            kind: what is served.
        """
        async with trio.open_nursery() as nursery:
            yield cls(nursery, kind)
            nursery.cancel_scope.cancel()

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks that are served, in the order in which they came."""
        return tuple(self._disks.values())

    @property
    def sockets(self) -> tuple[OwnPath, ...]:
        """The sockets that were made for them, and for those that are just being opened."""
        return tuple(self._sockets)

    def find(self, identity: str | None) -> Disk:
        """Return the disk of this name; None: the only one.

        Raises:
            UsageError: there is no such disk, or it is not clear which.
        """
        names = ", ".join(self._disks) or "none"
        if identity is None:
            if len(self._disks) != 1:
                raise UsageError(f"which disk? Give its id; there are {names}")
            return next(iter(self._disks.values()))
        if identity not in self._disks:
            raise UsageError(f"there is no disk '{identity}'; there are {names}")
        return self._disks[identity]

    async def add(self, config: DiskConfig) -> Disk:
        """Serve one more disk; return it when front-ends can connect.

        Raises:
            UsageError: its name or socket cannot be used.
            OSError: its image cannot be served, or the host is out of something.
        """
        if config.id in self._disks or config.id in self._coming:
            raise UsageError(f"there is a disk '{config.id}' already: choose another id")
        for other in self._disks.values():
            if config.socket_path is not None and config.socket_path == other.config.socket_path:
                raise UsageError(f"{config.socket_path} is the socket of disk '{other.id}'")
        self._coming.add(config.id)
        try:
            disk: Disk = await self._nursery.start(self._run, config)
        finally:
            self._coming.discard(config.id)
        return disk

    async def remove(self, identity: str | None) -> None:
        """End a disk: its front-end is left, its socket removed, its image closed.

        Returns when that is done; cancelled, it is done later.

        Raises:
            UsageError: there is no such disk.
        """
        disk = self.find(identity)
        disk.leave()
        await disk.ended.wait()

    async def resize(self, identity: str | None, size: int | None) -> tuple[Disk, int]:
        """Give a disk another size, and tell its front-end.

        Args:
            identity: which disk; None: the only one.
            size: in bytes; None: look how large its image is now.

        Returns:
            The disk, and the size that it has now, in bytes.

        Raises:
            UsageError: there is no such disk.
            StoreError: it cannot have this size.
        """
        disk = self.find(identity)
        if not isinstance(disk.device, _Resizable):
            raise UsageError(f"disk '{disk.id}' is of a kind that has no size")
        now = await disk.device.resize(size)
        with log.bound(disk=disk.id):
            _log.info("resized: it has %d bytes now", now)
        self.notify("BLOCK_RESIZED", {"id": disk.id, "size": now})
        return disk, now

    async def finished(self) -> None:
        """Wait until the last disk has ended by itself: it was removed by nobody.

        Raises:
            Exception: what ended it, if that was an error.
        """
        await self._idle.wait()
        if self._failure is not None:
            raise self._failure

    async def _run(self, config: DiskConfig, task_status: trio.TaskStatus[Disk]) -> None:
        """Serve one disk from opening to closing. Raises only until it is served."""
        log.bind(disk=config.id)
        disk: Disk | None = None
        failure: Exception | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                # First the socket: a front-end that comes too early then waits instead of failing.
                endpoint = stack.enter_context(
                    contextlib.closing(open_endpoint(config, self.inherited))
                )
                if config.socket_path is not None:
                    made = OwnPath(config.socket_path)
                    self._sockets.add(made)
                    stack.callback(self._sockets.discard, made)
                device = await stack.enter_async_context(self._kind.open_device(config))
                server = Server(device=device, endpoint=endpoint, dialect=self._kind.dialect)
                server.notify = lambda name, data: self.notify(name, {"id": config.id, **data})
                disk = self._disks[config.id] = Disk(config=config, device=device, server=server)
                _log.info("serving %s", self._kind.describe(config, device))
                self.notify("DISK_ADDED", {"id": disk.id, "size": disk.size})
                task_status.started(disk)
                await disk.serve()
                _log.info("removed" if disk.removed else "ended: no other front-end can come")
        except Exception as error:
            if disk is None:
                raise
            failure = error
        finally:
            if disk is not None:
                self._forget(disk, failure)

    def _forget(self, disk: Disk, failure: Exception | None) -> None:
        """Note that a disk has ended."""
        del self._disks[disk.id]
        disk.ended.set()
        reason = "removed" if disk.removed else "ended"
        if failure is not None:
            reason = "failed"
            _log_failure(failure)
        self.notify("DISK_REMOVED", {"id": disk.id, "reason": reason})
        if not self._disks and not disk.removed:
            self._failure = failure
            self._idle.set()


def _log_failure(failure: Exception) -> None:
    """Log a line for each refusal of the host, and a traceback for what is a bug of ours."""
    group = ExceptionGroup("", [failure])
    expected, bugs = group.split((UsageError, OSError))
    for error in [] if expected is None else leaves(expected):
        _log.error("failed: %s", error)
    if bugs is not None:
        _log.error("failed by a bug of this program", exc_info=bugs)
