"""What some messages share: an `argsz`, and reply payloads that may be cut to their fixed part.

Specification: vfio-user, "Commands", argsz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from protocol.messages import Message, require
from protocol.vfio_user.formats import MAX_INFO

__all__ = ["Described", "Query", "require_argsz", "require_data", "require_needed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Message):
    """A request whose reply may need more room than the sender has.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
    """

    argsz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Described(Message):
    """A reply payload that is cut to its fixed part where the sender of the request lacks room.

    Attributes:
        argsz: Bytes that the whole payload needs; None when building it: as many as it has.
    """

    argsz: int | None = None

    @property
    def needed(self) -> int:
        """Bytes that the whole payload needs: what to ask again with, if it is not complete."""
        return self.argsz or 0

    @property
    def complete(self) -> bool:
        """Whether all of the payload is there."""
        return True

    def cut(self) -> Self:
        """Return the fixed part alone."""
        return self


def require_argsz(argsz: int, least: int) -> None:
    """Check that `argsz` says what a payload has or needs at least.

    Raises:
        LocalProtocolError: It says less.
    """
    require(
        argsz >= least,
        f"argsz has room for {least} bytes of payload",
        field="argsz",
        value=argsz,
    )


def require_needed(argsz: int, least: int) -> None:
    """Check a reply's `argsz`: the receiver will make that much room.

    Raises:
        LocalProtocolError: It is less than the fixed part, or more than any description needs.
    """
    require(
        least <= argsz <= MAX_INFO,
        f"a reply needs from {least} to {MAX_INFO} bytes",
        field="argsz",
        value=argsz,
    )


def require_data(data: bytes, count: int, *, field: str = "count") -> None:
    """Check that a count says how many bytes follow.

    Raises:
        LocalProtocolError: It says another number.
    """
    require(
        len(data) == count,
        f"{field} is the number of bytes that follow, here {len(data)}",
        field=field,
        value=count,
    )
