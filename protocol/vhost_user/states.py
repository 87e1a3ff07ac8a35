"""The state tables: what is legal when, and what follows from it.

Everything that affects a state stands in the dictionaries of this module, and none of them knows
which side we are. An event that a state does not list is illegal there. The diagrams in the
documentation are generated from these tables. Specification: vhost-user, "Ring states".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "CONNECTION",
    "DEVICE",
    "POSTCOPY",
    "RING_GATE",
    "RING_RUN",
    "ConnectionEvent",
    "ConnectionState",
    "DeviceEvent",
    "DeviceRun",
    "DeviceTracker",
    "Event",
    "Postcopy",
    "PostcopyEvent",
    "RingEvent",
    "RingGate",
    "RingRun",
    "RingState",
    "legal_states",
]


class ConnectionState(enum.Enum):
    """What one end of a channel waits for."""

    IDLE = "idle"
    PAYLOAD = "payload"
    BUSY = "busy"
    CLOSED = "closed"


class ConnectionEvent(enum.Enum):
    """What can happen to one end of a channel."""

    HEADER = "header of a message with payload"
    REQUEST = "request received"
    REPLY = "reply received"
    ANSWERED = "request accepted or refused"
    REJECTED = "message rejected, error reported"
    FATAL = "error that cannot be reported"
    END = "end of file, or closed by us"


_S = ConnectionState
_C = ConnectionEvent
_WAITING = {
    _C.REQUEST: _S.BUSY,
    _C.REPLY: _S.IDLE,
    _C.REJECTED: _S.IDLE,
    _C.FATAL: _S.CLOSED,
    _C.END: _S.CLOSED,
}
CONNECTION: Mapping[ConnectionState, Mapping[ConnectionEvent, ConnectionState]] = MappingProxyType(
    {
        _S.IDLE: {_C.HEADER: _S.PAYLOAD, **_WAITING},
        _S.PAYLOAD: _WAITING,
        _S.BUSY: {_C.ANSWERED: _S.IDLE, _C.FATAL: _S.CLOSED, _C.END: _S.CLOSED},
        _S.CLOSED: {_C.END: _S.CLOSED},
    }
)
"""One end of a channel; BUSY is the pause while a request is carried out."""


class RingRun(enum.Enum):
    """Whether the back-end works on a ring."""

    STOPPED = "stopped"
    STARTED = "started"
    BROKEN = "broken"


class RingGate(enum.Enum):
    """Whether work on a started ring may have effects."""

    DISABLED = "disabled"
    ENABLED = "enabled"


class RingEvent(enum.Enum):
    """What a message, or a fault, does to a ring."""

    CONFIGURE = "size, base or byte order set"
    ADDRESS = "addresses set"
    START = "kick set or in-band kick"
    STOP = "base asked for"
    ENABLE = "enabled"
    DISABLE = "disabled"
    FAULT = "ring breaks the rules"
    RESET = "device reset"


_R = RingRun
_E = RingEvent
RING_RUN: Mapping[RingRun, Mapping[RingEvent, RingRun]] = MappingProxyType(
    {
        _R.STOPPED: {
            _E.CONFIGURE: _R.STOPPED,
            _E.ADDRESS: _R.STOPPED,
            _E.START: _R.STARTED,
            _E.STOP: _R.STOPPED,
            _E.ENABLE: _R.STOPPED,
            _E.DISABLE: _R.STOPPED,
            _E.FAULT: _R.STOPPED,
            _E.RESET: _R.STOPPED,
        },
        _R.STARTED: {
            _E.ADDRESS: _R.STARTED,
            _E.START: _R.STARTED,
            _E.STOP: _R.STOPPED,
            _E.ENABLE: _R.STARTED,
            _E.DISABLE: _R.STARTED,
            _E.FAULT: _R.BROKEN,
            _E.RESET: _R.STOPPED,
        },
        _R.BROKEN: {
            _E.ADDRESS: _R.BROKEN,
            _E.START: _R.BROKEN,
            _E.STOP: _R.STOPPED,
            _E.ENABLE: _R.BROKEN,
            _E.DISABLE: _R.BROKEN,
            _E.FAULT: _R.BROKEN,
            _E.RESET: _R.STOPPED,
        },
    }
)
"""First coordinate of a ring's state. A broken ring stays so until it is stopped."""

_G = RingGate
RING_GATE: Mapping[RingGate, Mapping[RingEvent, RingGate]] = MappingProxyType(
    {
        _G.DISABLED: {_E.ENABLE: _G.ENABLED, _E.DISABLE: _G.DISABLED, _E.RESET: _G.DISABLED},
        _G.ENABLED: {_E.ENABLE: _G.ENABLED, _E.DISABLE: _G.DISABLED, _E.RESET: _G.DISABLED},
    }
)
"""Second coordinate of a ring's state; events that are not listed leave it alone."""


class DeviceRun(enum.Enum):
    """Whether any ring runs; follows from the rings' states."""

    SUSPENDED = "suspended"
    RUNNING = "running"


class DeviceEvent(enum.Enum):
    """What a message does to the device as a whole."""

    RESET = "device reset"
    TRANSFER = "device state transferred"


_D = DeviceRun
DEVICE: Mapping[DeviceRun, Mapping[DeviceEvent, DeviceRun]] = MappingProxyType(
    {
        _D.SUSPENDED: {DeviceEvent.RESET: _D.SUSPENDED, DeviceEvent.TRANSFER: _D.SUSPENDED},
        _D.RUNNING: {DeviceEvent.RESET: _D.SUSPENDED},
    }
)
"""The device; it becomes RUNNING with the first started ring, SUSPENDED with the last stopped."""


class Postcopy(enum.Enum):
    """How far post-copy migration has come."""

    OFF = "off"
    ADVISED = "advised"
    LISTENING = "listening"


class PostcopyEvent(enum.Enum):
    """What a message does to post-copy migration."""

    ADVISE = "advised"
    LISTEN = "begun"
    END = "ended"


_P = Postcopy
POSTCOPY: Mapping[Postcopy, Mapping[PostcopyEvent, Postcopy]] = MappingProxyType(
    {
        _P.OFF: {PostcopyEvent.ADVISE: _P.ADVISED},
        _P.ADVISED: {
            PostcopyEvent.ADVISE: _P.ADVISED,
            PostcopyEvent.LISTEN: _P.LISTENING,
            PostcopyEvent.END: _P.OFF,
        },
        _P.LISTENING: {PostcopyEvent.END: _P.OFF},
    }
)
"""Post-copy migration; while LISTENING, memory tables are answered with a payload."""

Event: TypeAlias = RingEvent | DeviceEvent | PostcopyEvent
"""Whatever a message of the table can do to a state."""

_State = TypeVar("_State")
_AnyEvent = TypeVar("_AnyEvent")


def _where(
    table: Mapping[_State, Mapping[_AnyEvent, _State]], event: _AnyEvent
) -> Iterator[_State]:
    return (state for state, events in table.items() if event in events)


def legal_states(event: Event | None) -> frozenset[RingRun | DeviceRun | Postcopy]:
    """Return the states in which an event is legal; empty stands for "any"."""
    match event:
        case None:
            return frozenset()
        case RingEvent():
            return _unless_all(frozenset(_where(RING_RUN, event)), len(RING_RUN))
        case DeviceEvent():
            return _unless_all(frozenset(_where(DEVICE, event)), len(DEVICE))
        case PostcopyEvent():
            return _unless_all(frozenset(_where(POSTCOPY, event)), len(POSTCOPY))


def _unless_all(
    states: frozenset[RingRun] | frozenset[DeviceRun] | frozenset[Postcopy], every: int
) -> frozenset[RingRun | DeviceRun | Postcopy]:
    return frozenset() if len(states) == every else frozenset(states)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingState:
    """One ring's place in the product of the two ring tables.

    Attributes:
        run: Stopped, started or broken.
        gate: Disabled or enabled.
    """

    run: RingRun = RingRun.STOPPED
    gate: RingGate = RingGate.DISABLED

    def after(self, event: RingEvent) -> RingState:
        """Return the state after a legal event."""
        return RingState(
            run=RING_RUN[self.run][event], gate=RING_GATE[self.gate].get(event, self.gate)
        )


class DeviceTracker:
    """The states of a device's rings and of the device itself, moved by events alone."""

    def __init__(self) -> None:
        self._rings: dict[int, RingState] = {}
        self._untouched = RingState()
        self.postcopy = Postcopy.OFF

    @property
    def run(self) -> DeviceRun:
        """Whether any ring is started (a broken one is not)."""
        running = any(ring.run is RingRun.STARTED for ring in self._rings.values())
        return DeviceRun.RUNNING if running else DeviceRun.SUSPENDED

    def ring(self, index: int) -> RingState:
        """Return a ring's state; a ring never mentioned is in the initial one."""
        return self._rings.get(index, self._untouched)

    def state_for(self, event: Event, index: int) -> RingRun | DeviceRun | Postcopy:
        """Return the state on which it depends whether an event is legal.

        Args:
            event: The event.
            index: The ring concerned; without meaning for other events.
        """
        match event:
            case RingEvent():
                return self.ring(index).run
            case DeviceEvent():
                return self.run
            case PostcopyEvent():
                return self.postcopy

    def is_legal(self, event: Event, index: int) -> bool:
        """Return whether an event is legal now."""
        legal = legal_states(event)
        return not legal or self.state_for(event, index) in legal

    def apply(self, event: Event, index: int) -> None:
        """Move to the state after a legal event."""
        match event:
            case RingEvent():
                self._rings[index] = self.ring(index).after(event)
            case DeviceEvent.RESET:
                self._apply_to_all(RingEvent.RESET)
            case DeviceEvent.TRANSFER:
                pass
            case PostcopyEvent():
                self.postcopy = POSTCOPY[self.postcopy][event]

    def enable_all(self) -> None:
        """Enable every ring, touched or not, as a front-end without protocol features expects."""
        self._apply_to_all(RingEvent.ENABLE)

    def snapshot(self) -> tuple[object, ...]:
        """Return a value that equals another one if and only if the states do."""
        return (tuple(sorted(self._rings.items())), self._untouched, self.postcopy)

    def _apply_to_all(self, event: RingEvent) -> None:
        self._untouched = self._untouched.after(event)
        self._rings = {index: ring.after(event) for index, ring in self._rings.items()}
