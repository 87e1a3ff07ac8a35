"""What a request needs done, as data: steps for the server to carry out, and what holds afterwards.

A plan is made without doing anything (`Session.begin`), carried out by the server, and settled with
the outcome (`Session.finish`). Nothing here does I/O; the fds in a step still belong to the request
until the one who carries the step out takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocol.vhost_user import MemRegion, Message
    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath import RingFd, RingStart, StopMode
    from vhostuser.fds import OwnedFd
    from vhostuser.session.state import SessionState
    from vhostuser.virtqueue import RingState

__all__ = [
    "AddRegion",
    "Announce",
    "EnableRing",
    "OpenBackendChannel",
    "Plan",
    "ReadConfig",
    "RemoveRegion",
    "ReplaceMemory",
    "Result",
    "SetRingFd",
    "StartRing",
    "Step",
    "StopRing",
    "UseFeatures",
    "UseStatus",
    "WriteConfig",
    "settled",
]


@dataclass(frozen=True, slots=True)
class ReplaceMemory:
    """Map a whole new memory table; each region with its fd."""

    regions: tuple[tuple[MemRegion, OwnedFd], ...]


@dataclass(frozen=True, slots=True)
class AddRegion:
    """Map one more region."""

    region: MemRegion
    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class RemoveRegion:
    """Unmap one region, once nothing uses it."""

    region: MemRegion


@dataclass(frozen=True, slots=True)
class StartRing:
    """Start a ring; without a kick fd it is polled."""

    index: int
    start: RingStart
    kick: OwnedFd | None


@dataclass(frozen=True, slots=True)
class StopRing:
    """Stop a ring; the result is its `RingState`."""

    index: int
    how: StopMode


@dataclass(frozen=True, slots=True)
class EnableRing:
    """Let a ring be served, or leave it alone."""

    index: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class SetRingFd:
    """Use another kick, call or err fd, or none."""

    index: int
    which: RingFd
    fd: OwnedFd | None


@dataclass(frozen=True, slots=True)
class UseFeatures:
    """Tell the device which virtio features the driver has accepted."""

    features: VirtioFeatures


@dataclass(frozen=True, slots=True)
class UseStatus:
    """Tell the device which status the driver has set."""

    status: int


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """Read the device's configuration space; the result is `size` bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Write to the device's configuration space.

    The driver's writes reach writable fields only; a migration's may also say what is there.
    """

    offset: int
    data: bytes
    migration: bool


@dataclass(frozen=True, slots=True)
class Announce:
    """Have others on the device's network learn where an address lives from now on."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class OpenBackendChannel:
    """Use this socket for requests of ours."""

    fd: OwnedFd


Step = (
    ReplaceMemory
    | AddRegion
    | RemoveRegion
    | StartRing
    | StopRing
    | EnableRing
    | SetRingFd
    | UseFeatures
    | UseStatus
    | ReadConfig
    | WriteConfig
    | Announce
    | OpenBackendChannel
)
Result: TypeAlias = "RingState | bytes | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that a request needs, and what holds once they were done.

    Attributes:
        steps: to be carried out in order. A plan fails at its first step or not at all: only plans
            of one step contain a step that may fail.
        settle: given the steps' results, returns the state afterwards and the answer's payload.
    """

    steps: tuple[Step, ...] = ()
    settle: Callable[[Sequence[Result]], tuple[SessionState, Message | None]]


def settled(state: SessionState, *steps: Step, answer: Message | None = None) -> Plan:
    """Make a plan whose outcome does not depend on what its steps return."""
    return Plan(steps=steps, settle=lambda _: (state, answer))
