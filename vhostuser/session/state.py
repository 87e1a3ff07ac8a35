"""What a session knows: plain immutable data, replaced as a whole when a request was carried out.

A plan that failed therefore changes nothing. Ring positions travel in SET_VRING_BASE and
GET_VRING_BASE as one number, whose meaning depends on the layout: both directions of that are here,
too.
Specification: "Ring states", "Virtqueue state".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import VirtioFeatures
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.vhost_user import MemRegion, SetVringAddr

_NO_VIRTIO = VirtioFeatures(0)
_NO_PROTOCOL = ProtocolFeatures(0)

__all__ = ["SessionState", "Vring", "base_to_position", "position_to_base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vring:
    """One ring as the front-end has set it up so far.

    Attributes:
        num: size in descriptors; 0 before SET_VRING_NUM.
        addresses: the front-end's own addresses of the three areas.
        base: what SET_VRING_BASE said, or the ring's last position.
        enabled: whether it may be served once started.
        started: between SET_VRING_KICK and GET_VRING_BASE.
        broken: it broke a rule and was stopped by the engine.
    """

    num: int = 0
    addresses: SetVringAddr | None = None
    base: int | None = None
    enabled: bool = False
    started: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """Everything that a front-end has negotiated and set up.

    Attributes:
        features: acknowledged virtio features; empty before SET_FEATURES.
        protocol_features: acknowledged protocol features.
        status: the device status that SET_STATUS left.
        needs_reset: whether what served the rings is gone.
        vrings: one for each ring of the device.
        regions: the memory table as the front-end described it.
        repeated: how often more than once a region of it was added.
        backend_channel: whether the front-end gave a socket for requests of ours.
    """

    vrings: tuple[Vring, ...]
    features: VirtioFeatures = _NO_VIRTIO
    protocol_features: ProtocolFeatures = _NO_PROTOCOL
    status: int = 0
    needs_reset: bool = False
    regions: tuple[MemRegion, ...] = field(default=())
    repeated: Mapping[MemRegion, int] = field(default_factory=dict)
    backend_channel: bool = False

    @property
    def packed(self) -> bool:
        """Whether rings have the packed layout."""
        return VirtioFeatures.RING_PACKED in self.features

    def with_vring(self, index: int, vring: Vring) -> SessionState:
        """Return this state with one ring replaced."""
        vrings = (*self.vrings[:index], vring, *self.vrings[index + 1 :])
        return replace(self, vrings=vrings)


_WRAP = 1 << 15
_INDEX = _WRAP - 1


def base_to_position(base: int | None, *, packed: bool) -> RingState:
    """Read a ring's base as its position.

    Args:
        base: the number from SET_VRING_BASE; None when it never came, which means the beginning.
        packed: the ring's layout. Split: the low 16 bits are the next available index (the used
            index is in guest memory). Packed: bits 0-15 are the available offset and wrap counter,
            bits 16-31 the used ones; virtio-user leaves these zero and means the same as the
            available ones.
    """
    if not packed:
        index = base or 0
        return RingState(avail=index, used=index, avail_wrap=True, used_wrap=True)
    if base is None:
        base = _WRAP
    avail, used = base & 0xFFFF, (base >> 16) or base
    return RingState(
        avail=avail & _INDEX,
        used=used & _INDEX,
        avail_wrap=bool(avail & _WRAP),
        used_wrap=bool(used & _WRAP),
    )


def position_to_base(position: RingState, *, packed: bool) -> int:
    """Write a ring's position as the base that GET_VRING_BASE returns."""
    if not packed:
        return position.avail
    avail = position.avail | (_WRAP if position.avail_wrap else 0)
    used = position.used | (_WRAP if position.used_wrap else 0)
    return avail | used << 16
