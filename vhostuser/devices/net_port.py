"""A port of a switch: its link, what its driver wants to receive, what went through it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vhostuser.devices.net_switch import NetSwitch
    from vhostuser.native import Pointer

__all__ = ["NET_DROPS", "NetCounters", "NetPort", "NetPortOptions", "NetPortState"]

NET_DROPS = (
    "length",
    "header",
    "spoofed",
    "link",
    "no_receiver",
    "sunk",
    "no_buffer",
    "too_large",
    "filtered",
    "offload",
)
"""Why frames are dropped, as `NetCounters.drops` says; the engine counts them in this order.

Of a ring that sends: `length` (less than a header and 14 bytes, or more than 65550), `header` (an
offload that was not negotiated or makes no sense), `spoofed` (the port is locked to another
address, or the source is a group), `link` (the sender's is down), `no_receiver`, `sunk`. Of one
that should have received: `no_buffer`, `too_large` (for the next buffers), `filtered` (not wanted
by the driver), `offload` (it cannot be segmented, or its checksum not computed).
"""
_UNBOUNDED = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NetPortOptions:
    """What a port is.

    Attributes:
        pairs: of queues, 1 to 128.
        addresses: most addresses that are learned there.
        mac: of the station there.
        locked: drop frames that come from another address than `mac`.
    """

    pairs: int = 1
    addresses: int = 1024
    mac: bytes
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetCounters:
    """What became of the frames of one ring since its port was made.

    Attributes:
        frames: a ring that sends: those that one receiver or more got. One that receives: those
            that it got.
        bytes: of these, without their headers.
        segments: a ring that receives: frames among them that were cut out of larger ones here.
        drops: frames that were dropped, by reason (`NET_DROPS`).
    """

    frames: int
    bytes: int
    segments: int
    drops: Mapping[str, int]

    @property
    def dropped(self) -> int:
        """Frames that were dropped, for whatever reason."""
        return sum(self.drops.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class NetPortState:
    """What a driver has set by its control queue.

    Attributes:
        changes: how often anything here has changed.
        announced: announcements that the driver has acknowledged.
        offloads: those that it takes of received frames, a set of GUEST_* features as a number.
        pairs: of queues that it uses.
        unicast: addresses that it filters for; None: more than the table holds, and all pass.
        multicast: the same for groups.
        vlans: how many VLANs pass.
        mac: its address.
        promiscuous: everything passes, also where a filter is set.
        all_unicast, all_multicast: everything of this kind passes.
        no_unicast, no_multicast, no_broadcast: nothing of this kind passes.
    """

    changes: int
    announced: int
    offloads: int
    pairs: int
    unicast: int | None
    multicast: int | None
    vlans: int
    mac: bytes
    promiscuous: bool
    all_unicast: bool
    all_multicast: bool
    no_unicast: bool
    no_multicast: bool
    no_broadcast: bool


class NetPort:
    """A port. Make it with `with NetPort.open(switch, options)`.

    Attributes:
        switch: whose port it is.
        number: of the port there; another's next, once it is gone.
        pairs: of queues.
        options: what it was made with.
        link_up: whether it sends and receives.
    """

    def __init__(self, switch: NetSwitch, number: int, options: NetPortOptions) -> None:
        self.switch = switch
        self.number = number
        self.pairs = options.pairs
        self.options = options
        self.link_up = True

    @classmethod
    @contextlib.contextmanager
    def open(cls, switch: NetSwitch, options: NetPortOptions) -> Iterator[NetPort]:
        """Have a port for the length of the block, at whose end its queues are gone.

        Args:
            switch: must outlive the block.
            options: what it is.

        Raises:
            OSError: a value is not in its range (EINVAL), or there are as many ports as the switch
                may have (ENOSPC).
        """
        config = ffi.new("struct vhu_net_port_config *")
        config.pairs = options.pairs
        config.addresses = options.addresses
        config.locked = options.locked
        ffi.memmove(config.mac, options.mac, len(config.mac))
        ret = ffi.new("uint32_t *")
        check(lib.vhu_net_port_add(switch.native, config, ret), "add a port to the switch")
        port = cls(switch, ret[0], options)
        switch.ports[port.number] = port
        try:
            yield port
        finally:
            del switch.ports[port.number]
            lib.vhu_net_port_remove(switch.native, port.number)

    def place(self, ring: int) -> int:
        """Return which worker serves a ring, counted modulo their number.

        Both rings of a pair have the same; the control queue has that of the first pair.
        """
        pair = ring // 2
        return self.number + (pair if pair < self.pairs else 0)

    def make_queue(self, worker: Pointer, ring: int, event_fd: int) -> Pointer:
        """Make the engine's queue of a ring of guest memory. Raises OSError."""
        ret = ffi.new("struct vhu_queue **")
        code = lib.vhu_queue_create_net(
            worker, self.switch.native, self.number, ring, event_fd, ret
        )
        check(code, f"make a queue of port {self.number}")
        return ret[0]

    def set_link(self, *, up: bool) -> None:
        """Let the port send and receive, or not; its addresses are forgotten then."""
        lib.vhu_net_port_set_link(self.switch.native, self.number, up)
        self.link_up = up

    def reset(self) -> None:
        """Have what the driver has set forgotten when its rings start again."""
        lib.vhu_net_port_reset(self.switch.native, self.number)

    def announce(self, mac: bytes) -> None:
        """Have the others hear that an address lives here: a broadcast RARP, soon."""
        lib.vhu_net_port_announce(self.switch.native, self.number, ffi.from_buffer(mac))

    def counters(self) -> tuple[NetCounters, ...]:
        """Return one entry for each ring: the first of a pair receives, the second sends."""
        return tuple(self._counters(ring) for ring in range(2 * self.pairs))

    def _counters(self, ring: int) -> NetCounters:
        ret = ffi.new("struct vhu_net_counters *")
        lib.vhu_net_counters(self.switch.native, self.number, ring, ret)
        return NetCounters(
            frames=ret.frames,
            bytes=ret.bytes,
            segments=ret.segments,
            drops=dict(zip(NET_DROPS, ret.drops, strict=True)),
        )

    def state(self) -> NetPortState:
        """Return what the driver has set by its control queue."""
        ret = ffi.new("struct vhu_net_port_state *")
        lib.vhu_net_port_state(self.switch.native, self.number, ret)
        return NetPortState(
            changes=ret.changes,
            announced=ret.announced,
            offloads=ret.offloads,
            pairs=ret.pairs,
            unicast=_bounded(ret.unicast),
            multicast=_bounded(ret.multicast),
            vlans=ret.vlans,
            mac=bytes(ret.mac),
            promiscuous=ret.promiscuous,
            all_unicast=ret.all_unicast,
            all_multicast=ret.all_multicast,
            no_unicast=ret.no_unicast,
            no_multicast=ret.no_multicast,
            no_broadcast=ret.no_broadcast,
        )


def _bounded(count: int) -> int | None:
    return None if count == _UNBOUNDED else count
