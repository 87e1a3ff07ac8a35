"""The front-end's side of a hand-over: which of its messages matter to notify areas and groups.

The back-end's offers come in by `take`; the front-end's own requests pass `before` and `after`, for
starting and stopping a ring decide whether its area may be written to. All of them are called one
at a time, between the front-end's requests or around one.
"""

from __future__ import annotations

import errno
import logging
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from protocol.vhost_user import (
    GetVringBase,
    GetVringBaseSkipDrain,
    RemoteProtocolError,
    ResetDevice,
    RingMessage,
    SetVringBase,
    SetVringKick,
    VringHostNotifier,
    VringKick,
    VringNotifyArea,
    VringVfioGroup,
)
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.frontend.areas import NotifyAreas
from vhostuser.frontend.groups import VfioGroups, identify_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from protocol.vhost_user import Dialect, Message, Request
    from vhostuser.frontend.area_map import FileIdentity
    from vhostuser.frontend.groups import GroupIdentity
    from vhostuser.frontend.queue import DriverQueue

__all__ = ["HandOver", "Host"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a hand-over depends on beyond the protocol; tests put other hosts in its place.

    Attributes:
        page_size: bytes.
        identify_group: tells VFIO groups apart and refuses what is none; called in a thread.
    """

    page_size: int = mmap.PAGESIZE
    identify_group: Callable[[OwnedFd], GroupIdentity] = identify_group


class HandOver:
    """Areas and groups of one connection.

    Args:
        dialect: version of the protocol.
        queues: rings that exist, by index.
        host: what it runs on.
        is_guest_memory: tells files that may not be an area.
    """

    def __init__(
        self,
        dialect: Dialect,
        queues: Mapping[int, DriverQueue],
        host: Host,
        is_guest_memory: Callable[[FileIdentity], bool],
    ) -> None:
        persistent = dialect.feature is not None
        self._queues = queues
        # An RFC's area comes back at SET_VRING_BASE, today's is offered after SET_VRING_KICK.
        self._starts = SetVringBase if persistent else (SetVringKick, VringKick)
        self.groups = VfioGroups(host.identify_group)
        self.areas = NotifyAreas(
            queues,
            persistent=persistent,
            page_size=host.page_size,
            is_guest_memory=is_guest_memory,
        )

    @staticmethod
    def concerns(message: Message) -> bool:
        """Whether a request of the back-end is for `take`."""
        return isinstance(message, VringHostNotifier | VringNotifyArea | VringVfioGroup)

    async def take(self, request: Request) -> bool:
        """Do what the back-end asks for; False: it is refused, and nothing has changed.

        Not cancellable.

        Args:
            request: one that `concerns` names; its fds are taken over.
        """
        try:
            await self.carry_out(request)
        except RequestError as error:
            told = RemoteProtocolError(
                str(error.strerror),
                message=request.row.name,
                field=error.field,
                value=error.value,
                section=request.row.section,
            )
            _log.warning("refused: %s", told)
            return False
        except OSError as error:
            _log.warning("refused %s: %s", request.row.name, error)
            return False
        return True

    async def carry_out(self, request: Request) -> None:
        """Do what the back-end asks for. Not cancellable.

        Args:
            request: as for `take`.

        Raises:
            OSError: it is refused; nothing has changed.
        """
        message = request.message
        if not isinstance(message, RingMessage) or message.index not in self._queues:
            raise RequestError(
                errno.ENOENT,
                f"the queue is one that was set up ({_numbers(self._queues)})",
                field="index",
                value=getattr(message, "index", None),
            )
        # None or one came, as the message says: that was checked with its bytes.
        fds = [OwnedFd(cast("OwnedFd", fd).detach()) for fd in request.fds]
        match message:
            case VringVfioGroup() if fds:
                await self.groups.put(message.index, fds[0])
            case VringVfioGroup():
                await self.groups.remove(message.index)
            case VringHostNotifier() | VringNotifyArea() if fds:
                await self.areas.offer(message, fds[0])
            case _:
                await self.areas.remove(message.index)

    async def before(self, message: Message) -> None:
        """Prepare for a request of the front-end that is about to be sent. Not cancellable."""
        match message:
            case GetVringBase() | GetVringBaseSkipDrain():
                await self.areas.ring_stops(message.index)
            case ResetDevice():
                await self.areas.all_rings_stop()
            case _:
                pass

    async def after(self, message: Message) -> None:
        """Follow a request of the front-end that was not refused. Not cancellable."""
        if isinstance(message, self._starts):
            await self.areas.ring_starts(message.index)

    async def clear(self) -> None:
        """Let go of everything: who handed it over can take nothing back any more. Not cancellable.

        Rings that run are kicked by their kick fds from now on.
        """
        await self.groups.clear()
        await self.areas.clear()


def _numbers(queues: Mapping[int, DriverQueue]) -> str:
    return ", ".join(map(str, sorted(queues))) or "none"
