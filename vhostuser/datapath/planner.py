"""Who serves a ring: the accelerator, the software, or nobody, and why. Pure.

A plain device starts at the beginning of a ring only and cannot say where it stopped; one that is
gone serves nothing. What it cannot do the software does, where it reaches the same store.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio import VirtioFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhostuser.datapath.accelerator import AcceleratorCapabilities
    from vhostuser.datapath.interface import RingStart
    from vhostuser.virtqueue import RingState

__all__ = ["Choice", "Situation", "Way", "choose", "is_initial", "take_over"]


class Way(enum.Enum):
    """How a ring is served."""

    PASSTHROUGH = "passthrough"
    """The accelerator works on the guest's ring."""
    SOFTWARE = "software"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided.

    Attributes:
        way: how the ring is served.
        reason: why it is not passed through; empty when it is.
    """

    way: Way
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What there is to serve a ring.

    Attributes:
        capabilities: the accelerator's.
        features: the accelerator's.
        largest: its largest size of this ring, in descriptors.
        failed: why the accelerator serves nothing any more; empty while it does.
        software: features of a software data path that reaches the same store; None: there is none.
        kicked: whether the driver signals the ring; nothing looks at it otherwise.
        position_known: whether what the front-end takes for the ring's position is where it stands.
    """

    capabilities: AcceleratorCapabilities
    features: VirtioFeatures
    largest: int
    failed: str = ""
    software: VirtioFeatures | None = None
    kicked: bool = True
    position_known: bool = True


def is_initial(state: RingState, features: VirtioFeatures) -> bool:
    """Whether a position is where a ring begins."""
    if VirtioFeatures.RING_PACKED in features:
        wraps = state.avail_wrap and state.used_wrap
        return wraps and state.avail == 0 and state.used == 0
    return state.avail == 0


def choose(start: RingStart, situation: Situation) -> Choice:
    """Decide who serves a ring that is to start."""
    obstacle = next(_obstacles(start, situation), "")
    lost = not situation.position_known and not is_initial(start.state, start.features)
    if not obstacle and lost:
        return Choice(Way.REFUSAL, "nobody knows where the ring stands: reset the guest's driver")
    if not obstacle:
        return Choice(Way.PASSTHROUGH)
    if situation.software is None:
        return Choice(Way.REFUSAL, f"{obstacle}, and there is no software that reaches its store")
    if lost:
        return Choice(Way.REFUSAL, f"{obstacle}, and nobody knows where the ring stands")
    missing = start.features & ~(situation.software | VirtioFeatures.PROTOCOL_FEATURES)
    if missing:
        return Choice(Way.REFUSAL, f"{obstacle}, and the software lacks features {int(missing):#x}")
    return Choice(Way.SOFTWARE, obstacle)


def _obstacles(start: RingStart, situation: Situation) -> Iterator[str]:
    """Say what keeps the accelerator from serving a ring; the first matters."""
    if situation.failed:
        yield f"the accelerator is out of use: {situation.failed}"
    if VirtioFeatures.ACCESS_PLATFORM in start.features and not situation.capabilities.maps_on_miss:
        yield (
            "the guest is behind a vIOMMU, whose mappings come when they are missed, and the "
            "accelerator cannot wait for them"
        )
    missing = start.features & ~(situation.features | VirtioFeatures.PROTOCOL_FEATURES)
    if missing:
        yield f"the accelerator lacks features {int(missing):#x}"
    if not situation.kicked:
        yield "the ring has no kick fd and is to be polled, which the accelerator does not do"
    if start.num > situation.largest:
        yield f"the accelerator's ring has at most {situation.largest} descriptors"
    if not is_initial(start.state, start.features) and not situation.capabilities.start_at_state:
        yield "the accelerator can only start at the beginning of a ring"


def take_over(
    start: RingStart, situation: Situation, *, used: RingState | None, idle: bool
) -> Choice:
    """Decide whether the software goes on with a ring whose accelerator has failed.

    Args:
        start: how the ring was started.
        situation: what there is, with the failure.
        used: the position of the last request that was given back; None: it is not known.
        idle: whether no request was under way at that position.
    """
    if used is None:
        return Choice(Way.REFUSAL, "nobody knows which of its requests were served")
    if not idle and VirtioFeatures.IN_ORDER not in start.features:
        return Choice(
            Way.REFUSAL,
            "requests were under way, and without IN_ORDER nobody knows which of them were served",
        )
    return choose(start, situation)
