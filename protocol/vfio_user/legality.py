"""Rules that take more than one message's own values: fds, limits, and a reply's request.

Specification: vfio-user, the commands' own sections.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from protocol.messages import require
from protocol.vfio_user import messages as m
from protocol.vfio_user.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.vfio_user.rows import Part

__all__ = ["data_moved", "require_answers", "require_fds", "require_limits"]


def require_fds(part: Part, message: m.Message | None, count: int) -> None:
    """Check how many fds come with a message.

    Raises:
        LocalProtocolError: Too few or too many.
    """
    low, high = part.fds
    if isinstance(message, m.DeviceSetIrqs):
        high = message.count if message.brings_eventfds else 0
        low = high if count else 0
    elif isinstance(message, m.RegionIoFds):
        low, high = (1, high) if message.entries else (0, 0)
    if not low <= count <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise LocalProtocolError(
            f"{expected} file descriptors come with this message",
            field="fds",
            value=count,
        )


_MOVED: dict[type[m.Message | None], Callable[[Any], int]] = {
    **dict.fromkeys(
        (
            m.RegionRead,
            m.RegionReadReply,
            m.RegionWrite,
            m.DmaRead,
            m.DmaReadReply,
            m.DmaWrite,
        ),
        attrgetter("count"),
    ),
    **dict.fromkeys((m.MigDataRead, m.MigDataReadReply, m.MigDataWrite), attrgetter("size")),
    m.DeviceFeature: lambda message: len(message.data),
    m.DeviceFeatureReply: lambda message: len(message.data),
    m.RegionWriteMulti: lambda message: m.MAX_MULTI_WRITE * len(message.writes),
}


def data_moved(message: m.Message | None) -> int:
    """Return how many bytes of data a message, or the reply to it, carries."""
    moved = _MOVED.get(type(message))
    return moved(message) if moved is not None else 0


def require_limits(
    message: m.Message | None, fds: int, *, max_data_xfer_size: int, max_msg_fds: int
) -> None:
    """Check that a message moves no more than its receiver announced.

    Raises:
        LocalProtocolError: It moves more.
    """
    moved = data_moved(message)
    if moved > max_data_xfer_size:
        raise LocalProtocolError(
            f"a message moves at most {max_data_xfer_size} bytes of data",
            field="count",
            value=moved,
        )
    if fds > max_msg_fds:
        raise LocalProtocolError(
            f"a message brings at most {max_msg_fds} file descriptors",
            field="fds",
            value=fds,
        )


def require_answers(request: m.Message, reply: m.Message | None, fds: int) -> None:
    """Check that a reply answers its request.

    Raises:
        LocalProtocolError: It answers something else.
    """
    for field in _REPEATED.get(type(reply), ()):
        asked, answered = getattr(request, field), getattr(reply, field)
        if asked != answered:
            raise LocalProtocolError(
                f"{field} is the request's, {asked:#x}",
                field=field,
                value=answered,
            )
    match request, reply:
        case m.RegionWriteMulti(), m.RegionWriteMultiReply():
            _require_most(reply.count, len(request.writes), "wr_cnt")
        case m.MigDataRead(), m.MigDataReadReply():
            _require_most(reply.size, request.size, "size")
        case _, m.RegionIoFds():
            for entry in reply.entries:
                _require_index(entry.fd_index, fds, "fd_index")
                if entry.type == m.IoFdType.SHADOW_IOEVENTFD:
                    _require_index(entry.shadow_index, fds, "shadow_index")
        case _:
            pass


_REPEATED: dict[type[m.Message | None], tuple[str, ...]] = {
    m.DmaUnmapReply: ("address", "size"),
    m.RegionInfo: ("index",),
    m.RegionIoFds: ("index",),
    m.IrqInfo: ("index",),
    m.RegionReadReply: ("offset", "region", "count"),
    m.RegionWriteReply: ("offset", "region", "count"),
    m.DmaReadReply: ("address", "count"),
    m.DmaWriteReply: ("address", "count"),
    m.DeviceFeatureReply: ("feature",),
}


def _require_most(value: int, most: int, field: str) -> None:
    require(value <= most, f"{field} is at most the request's, {most}", field=field, value=value)


def _require_index(value: int, fds: int, field: str) -> None:
    require(value < fds, f"{field} is below {fds}, the number of fds", field=field, value=value)
