"""The rules that need to know more than one message: features, limits, states, fds, replies.

Each function raises `LocalProtocolError` with field, value and rule; the connection adds message
and section, and turns it into a remote error if the peer was at fault. Each rule is checked here
and nowhere else, for both roles and both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vhost_user import messages as m
from protocol.vhost_user.errors import LocalProtocolError
from protocol.vhost_user.features import DEPENDENCIES, Negotiated, ProtocolFeature
from protocol.vhost_user.rows import MessageRow, ReplyKind, ReplyRule
from protocol.vhost_user.states import Postcopy, RingEvent
from protocol.vhost_user.table import ACK

if TYPE_CHECKING:
    from protocol.vhost_user.features import Feature
    from protocol.vhost_user.states import DeviceTracker, Event

__all__ = [
    "FatalProtocolError",
    "Limits",
    "event_of",
    "missing_features",
    "reply_rule",
    "require_fds",
    "require_legal",
    "require_matching",
    "require_unlocked",
]

_NO_FD = 0x100


class FatalProtocolError(LocalProtocolError):
    """A broken rule after which a connection cannot go on, whatever answer was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection accepts at most.

    Attributes:
        queues: Number of rings; an index must be below it.
        payload: Bytes of a payload.
    """

    queues: int = 256
    payload: int = 4096


def event_of(row: MessageRow, message: m.Message) -> Event | None:
    """Return what a message does to a state, None if nothing."""
    if isinstance(message, m.SetVringEnable) and not message.enable:
        return RingEvent.DISABLE
    return row.event


def reply_rule(
    row: MessageRow, message: m.Message | None, *, ack: bool, postcopy: Postcopy
) -> ReplyRule | None:
    """Return how a request is answered, None if not at all.

    Args:
        row: The request's row.
        message: The request; None if it could not be decoded.
        ack: Whether an acknowledgement was asked for and can be given.
        postcopy: How far post-copy migration has come.
    """
    kind = row.reply.kind
    if kind is ReplyKind.POSTCOPY and postcopy is Postcopy.LISTENING:
        is_final_ack = isinstance(message, m.SetMemTable) and not message.regions
        return None if is_final_ack else row.reply
    if kind in (ReplyKind.NONE, ReplyKind.POSTCOPY):
        return ACK if ack else None
    return row.reply


def missing_features(row: MessageRow, negotiated: Negotiated) -> tuple[Feature, ...]:
    """Return the features that would have to be negotiated, too, to send a message."""
    wanted: tuple[Feature, ...] = (*((row.feature,) if row.feature else ()), *row.needs)
    return tuple(each for feature in wanted for each in negotiated.missing(feature))


def require_unlocked(row: MessageRow, negotiated: Negotiated) -> None:
    """Check that the features which unlock a message were negotiated.

    Raises:
        LocalProtocolError: One was not.
    """
    missing = missing_features(row, negotiated)
    if missing:
        names = ", ".join(f"{each.name} (bit {each.value})" for each in missing)
        raise LocalProtocolError(
            f"negotiate {names} before sending this message", field="request", value=row.number
        )


def require_fds(row: MessageRow, message: m.Message, count: int) -> None:
    """Check that as many fds come along as the message says.

    Raises:
        LocalProtocolError: There are more or fewer.
    """
    exact = message.fd_count()
    fewest, most = row.fds if exact is None else (exact, exact)
    _require_fd_range(count, fewest, most)


def _require_fd_range(count: int, fewest: int, most: int) -> None:
    if not fewest <= count <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise LocalProtocolError(
            f"{wanted} file descriptors come with this message", field="fds", value=count
        )


def require_legal(
    row: MessageRow, message: m.Message, limits: Limits, tracker: DeviceTracker
) -> None:
    """Check a message against the number of rings, the states, and the features it sets.

    Raises:
        LocalProtocolError: It is not legal now.
        FatalProtocolError: It is not, and the specification wants the connection closed.
    """
    index = message.index if isinstance(message, m.RingMessage) else 0
    if not 0 <= index < limits.queues:
        raise LocalProtocolError(
            f"a ring index is below the number of rings ({limits.queues})",
            field="index",
            value=index,
        )
    event = event_of(row, message)
    if event is not None and not tracker.is_legal(event, index):
        state = tracker.state_for(event, index)
        legal = " or ".join(sorted(each.value for each in row.legal_states))
        raise LocalProtocolError(
            f"legal only while {legal}, now {state.value}{_way_out(event)}",
            field="index" if isinstance(event, RingEvent) else "request",
            value=index if isinstance(event, RingEvent) else row.number,
        )
    if isinstance(message, m.SetProtocolFeatures):
        _require_inband_dependencies(message)
    elif type(message) is m.SetMemTable:
        _require_regions(message, tracker)


def _way_out(event: Event) -> str:
    return "; stop the ring with GET_VRING_BASE first" if isinstance(event, RingEvent) else ""


def _require_inband_dependencies(message: m.SetProtocolFeatures) -> None:
    inband = ProtocolFeature.INBAND_NOTIFICATIONS
    wanted = Negotiated(protocol_features=message.features)
    if wanted.has(inband) and wanted.missing(inband):
        needed = " and ".join(each.name for each in DEPENDENCIES[inband])
        raise FatalProtocolError(
            f"INBAND_NOTIFICATIONS is set only together with {needed}",
            field="features",
            value=int(message.features),
        )


def _require_regions(message: m.SetMemTable, tracker: DeviceTracker) -> None:
    if not message.regions and tracker.postcopy is not Postcopy.LISTENING:
        raise LocalProtocolError("a memory table has at least one region", field="count", value=0)


def require_matching(request: m.Message, reply: m.Message, rule: ReplyRule, count: int) -> None:
    """Check that a reply fits its request, whichever side made it.

    Args:
        request: The request.
        reply: The reply.
        rule: How the request is answered.
        count: Number of fds that come with the reply.

    Raises:
        LocalProtocolError: It does not fit.
    """
    exact = reply.fd_count()
    fewest, most = rule.fds if exact is None else (exact, exact)
    _require_fd_range(count, fewest, most)
    match request, reply:
        case m.RingMessage(), m.VringState():
            if reply.index != request.index:
                raise LocalProtocolError(
                    f"the reply names the ring of the request ({request.index})",
                    field="index",
                    value=reply.index,
                )
        case m.GetConfig(), m.ConfigReply():
            if reply.data and len(reply.data) != request.size:
                raise LocalProtocolError(
                    f"the reply has as many bytes as were asked for ({request.size})",
                    field="size",
                    value=len(reply.data),
                )
        case m.SetDeviceStateFd(), m.U64():
            if bool(reply.value & _NO_FD) == bool(count):
                raise LocalProtocolError(
                    "bit 8 is set exactly if no fd comes along", field="value", value=reply.value
                )
        case _:
            pass
