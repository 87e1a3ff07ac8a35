"""Errors of the environment: what the host refused, in words that tell the user what to do.

Mistakes of a peer are `protocol.vhost_user.RemoteProtocolError`; these are the host's. The policy
for each kind is in docs/decisions/0004.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "AcceleratorError",
    "RequestError",
    "StoreError",
    "TapError",
    "UsageError",
    "WorkerStuckError",
    "leaves",
]


class UsageError(Exception):
    """What was asked for on the command line cannot be done; the text says what can."""


class AcceleratorError(OSError):
    """An accelerator cannot do what was asked of it, or is gone; the text says which.

    Args:
        text: one line for the user.
        number: the errno.
    """

    def __init__(self, text: str, number: int = errno.EIO) -> None:
        super().__init__(number, text)


class StoreError(OSError):
    """The disk image or block device cannot be used."""


class TapError(OSError):
    """A TAP device of the host cannot be used; the text says what to do."""


class RequestError(OSError):
    """The host cannot do what a front-end asked for, because of a value that came with it.

    Args:
        number: the errno.
        rule: what would have been possible, or why this was not.
        field: the part of the request.
        value: what it held.
    """

    def __init__(self, number: int, rule: str, *, field: str, value: object) -> None:
        super().__init__(number, rule)
        self.field = field
        self.value = value


class WorkerStuckError(OSError):
    """A worker thread hangs in the store and could not be stopped in time."""


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the errors of a group and of the groups in it: trio nests them at every nursery."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
