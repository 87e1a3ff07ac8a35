"""What a process serves: each thing in a task of its own, added and removed while others run.

What goes wrong with one of them ends that one, with a line in the log and an event; the others do
not notice.
"""

from __future__ import annotations

import abc
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import trio

from vhostuser import log
from vhostuser.errors import UsageError, leaves
from vhostuser.server import OwnPath
from vhostuser.serving.config import ServedConfig
from vhostuser.serving.places import open_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from vhostuser.server import Endpoint, Server

__all__ = ["Notify", "Served", "ServedSet"]

_log = logging.getLogger(__name__)

Notify: TypeAlias = "Callable[[str, Mapping[str, object]], None]"
"""Called with the name and the data of an event."""

_Config = TypeVar("_Config", bound=ServedConfig)


@dataclass(slots=True, kw_only=True, eq=False)
class Served(abc.ABC, Generic[_Config]):
    """One thing that is served.

    Attributes:
        config: what was asked for.
        server: what serves it, with the front-end of the moment; None: it has no front-ends.
        ended: set when it is served no longer: its socket is gone, and all that it used is closed.
    """

    config: _Config
    server: Server | None
    ended: trio.Event = field(default_factory=trio.Event)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def id(self) -> str:
        """What it is called."""
        return self.config.id

    @property
    def removed(self) -> bool:
        """Whether somebody had it end."""
        return self._scope.cancel_called

    @property
    def facts(self) -> Mapping[str, object]:
        """What the event of its coming says, besides its name."""
        return {}

    @property
    def ending(self) -> str:
        """Why it ends by itself, in words."""
        return "no other front-end can come"

    @abc.abstractmethod
    def describe(self) -> str:
        """Say in a few words what is served, and where."""

    async def serve(self) -> None:
        """Serve until it ends by itself."""
        assert self.server is not None
        await self.server.run()

    async def serve_until_removed(self) -> None:
        """Serve until it ends by itself, or until it is removed."""
        with self._scope:
            await self.serve()

    def leave(self) -> None:
        """Have it end; `ended` says when it has."""
        self._scope.cancel()


_Member = TypeVar("_Member", bound=Served[Any])


class ServedSet(abc.ABC, Generic[_Config, _Member]):
    """Serves things of one kind. They end with the nursery's block.

    Args:
        nursery: in which they are served.

    Attributes:
        WORD: what one of them is called.
        notify: called with the name and data of each event; data has its `id`.
        inherited: sockets that systemd passed, by name, until they are used.
    """

    WORD: ClassVar[str]

    def __init__(self, nursery: trio.Nursery) -> None:
        self.notify: Notify = lambda _name, _data: None
        self.inherited: dict[str, int] = {}
        self._nursery = nursery
        self._members: dict[str, _Member] = {}
        self._coming: set[str] = set()
        self._sockets: set[OwnPath] = set()
        self._idle = trio.Event()
        self._failure: Exception | None = None

    @abc.abstractmethod
    def open_member(self, config: _Config) -> AbstractAsyncContextManager[_Member]:
        """Have for the length of the block what will be served; raises if it cannot be."""

    @property
    def members(self) -> tuple[_Member, ...]:
        """What is served, in the order in which it came."""
        return tuple(self._members.values())

    @property
    def sockets(self) -> tuple[OwnPath, ...]:
        """The sockets that were made for them, and for those that are just being opened."""
        return tuple(self._sockets)

    def find(self, identity: str | None) -> _Member:
        """Return the one of this name; None: the only one.

        Raises:
            UsageError: there is none of this name, or it is not clear which.
        """
        names = ", ".join(self._members) or "none"
        if identity is None:
            if len(self._members) != 1:
                raise UsageError(f"which {self.WORD}? Give its id; there are {names}")
            return next(iter(self._members.values()))
        if identity not in self._members:
            raise UsageError(f"there is no {self.WORD} '{identity}'; there are {names}")
        return self._members[identity]

    async def add(self, config: _Config) -> _Member:
        """Serve one more; return it when front-ends can connect.

        Raises:
            UsageError: its name or socket cannot be used.
            OSError: it cannot be served, or the host is out of something.
        """
        if config.id in self._members or config.id in self._coming:
            raise UsageError(f"there is a {self.WORD} '{config.id}' already: choose another id")
        for other in self._members.values():
            if config.socket_path is not None and config.socket_path == other.config.socket_path:
                path = config.socket_path
                raise UsageError(
                    f"{path} is the socket of {self.WORD} '{other.id}': choose another"
                )
        self._coming.add(config.id)
        try:
            member: _Member = await self._nursery.start(self._run, config)
        finally:
            self._coming.discard(config.id)
        return member

    async def remove(self, identity: str | None) -> None:
        """End one: its front-end is left, its socket removed, and what it used is closed.

        Returns when that is done; cancelled, it is done later.

        Raises:
            UsageError: there is none of this name.
        """
        member = self.find(identity)
        member.leave()
        await member.ended.wait()

    async def finished(self) -> None:
        """Wait until the last one has ended by itself: it was removed by nobody.

        Raises:
            Exception: what ended it, if that was an error.
        """
        await self._idle.wait()
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def endpoint(self, config: _Config) -> Iterator[Endpoint]:
        """Have the place where front-ends come from, for the length of the block.

        Raises:
            UsageError: there is none, or it cannot be used.
        """
        with contextlib.ExitStack() as stack:
            endpoint = stack.enter_context(
                contextlib.closing(open_endpoint(config, self.inherited))
            )
            if config.socket_path is not None:
                made = OwnPath(config.socket_path)
                self._sockets.add(made)
                stack.callback(self._sockets.discard, made)
            yield endpoint

    def forward_events(self, server: Server, config: _Config) -> None:
        """Pass on what a server tells, with the name of what it serves."""
        server.notify = lambda name, data: self.notify(name, {"id": config.id, **data})

    async def _run(self, config: _Config, task_status: trio.TaskStatus[_Member]) -> None:
        """Serve one from opening to closing. Raises only until it is served."""
        log.bind(**{self.WORD: config.id})
        member: _Member | None = None
        failure: Exception | None = None
        try:
            async with self.open_member(config) as opened:
                member = self._members[config.id] = opened
                _log.info("serving %s", member.describe())
                self._tell("ADDED", member, **member.facts)
                task_status.started(member)
                await member.serve_until_removed()
                reason = "removed" if member.removed else f"ended: {member.ending}"
                _log.info("%s", reason)
        except Exception as error:
            if member is None:
                raise
            failure = error
        finally:
            if member is not None:
                self._forget(member, failure)

    def _tell(self, what: str, member: _Member, **data: object) -> None:
        self.notify(f"{self.WORD.upper()}_{what}", {"id": member.id, **data})

    def _forget(self, member: _Member, failure: Exception | None) -> None:
        """Note that one has ended."""
        del self._members[member.id]
        member.ended.set()
        reason = "removed" if member.removed else "ended"
        if failure is not None:
            reason = "failed"
            _log_failure(failure)
        self._tell("REMOVED", member, reason=reason)
        if not self._members and not member.removed:
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
