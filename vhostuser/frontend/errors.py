"""What can go wrong for a front-end, other than the protocol errors of `protocol.vhost_user`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import BlkStatus

if TYPE_CHECKING:
    from protocol.vhost_user import Message
    from protocol.virtio import NetCommand

__all__ = [
    "BackendClosedError",
    "BlockError",
    "CommandError",
    "FrontendError",
    "RequestRefusedError",
    "RingError",
]

_STATUSES = frozenset(BlkStatus)


class FrontendError(Exception):
    """Base class of this package's errors."""


class BackendClosedError(FrontendError):
    """The back-end closed the connection; its log says why."""


class RequestRefusedError(FrontendError):
    """The back-end acknowledged a request with something else than 0.

    Args:
        message: the request.
        value: what the back-end answered.
    """

    def __init__(self, message: Message, value: int) -> None:
        name = type(message).__name__
        super().__init__(f"{name} was refused: the back-end answered {value:#x}; its log says why")
        self.message = message
        self.value = value


class RingError(FrontendError):
    """The back-end gave up a ring, or returned something that was not asked of it."""


class BlockError(FrontendError):
    """A block request ended with a status other than OK.

    Args:
        what: the request, in words.
        status: what the device said.
    """

    def __init__(self, what: str, status: int) -> None:
        name = BlkStatus(status).name if status in _STATUSES else "unknown"
        super().__init__(f"{what}: the device answered status {status} ({name})")
        self.status = status


class CommandError(FrontendError):
    """A network device refused a command of its control queue.

    Args:
        command: which.
        status: what the device said.
    """

    def __init__(self, command: NetCommand, status: int) -> None:
        super().__init__(f"{command.name} was refused: the device answered status {status}")
        self.command = command
        self.status = status
