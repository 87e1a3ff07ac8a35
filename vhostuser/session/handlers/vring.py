"""Handlers of rings: set-up, start, stop, and their file descriptors. Specification: "Ring states".

The ring index was checked by the connection, and so was whether the message is legal for a started
or stopped ring. A ring starts at SET_VRING_KICK and stops at GET_VRING_BASE.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.vhost_user import ProtocolFeatures, VringState
from vhostuser.datapath import RingFd, RingStart, StopMode
from vhostuser.fds import FdKind, kind_of
from vhostuser.session.plan import EnableRing, Plan, SetRingFd, StartRing, StopRing, settled
from vhostuser.session.refusal import Refusal
from vhostuser.session.state import base_to_position, position_to_base
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import (
        GetVringBase,
        Message,
        SetVringAddr,
        SetVringBase,
        SetVringCall,
        SetVringEnable,
        SetVringErr,
        SetVringKick,
        SetVringNum,
    )
    from vhostuser.devices import DeviceProfile
    from vhostuser.fds import OwnedFd
    from vhostuser.session.plan import Result
    from vhostuser.session.state import SessionState

    Fds = tuple[OwnedFd, ...]

_LARGEST_INDEX = 0xFFFF


def set_num(profile: DeviceProfile, state: SessionState, request: SetVringNum, _fds: Fds) -> Plan:
    """Set a ring's size."""
    if not 0 < request.num <= profile.queue_size:
        raise Refusal(
            "num",
            request.num,
            f"a ring has 1 to {profile.queue_size} descriptors (raise it with --queue-size)",
        )
    if state.features:
        _require_layout(state, request.num)
    vring = replace(state.vrings[request.index], num=request.num)
    return settled(state.with_vring(request.index, vring))


def _require_layout(state: SessionState, num: int) -> None:
    if not state.packed and num & (num - 1):
        raise Refusal("num", num, "the size of a split ring is a power of two")


def set_addr(
    _profile: DeviceProfile, state: SessionState, request: SetVringAddr, _fds: Fds
) -> Plan:
    """Set where a ring's areas lie. They are looked up when the ring starts."""
    vring = state.vrings[request.index]
    used_alignment = 4
    driver_alignment = 4 if state.packed else 2
    alignments = (("desc", 16), ("avail", driver_alignment), ("used", used_alignment))
    for name, alignment in alignments:
        address = getattr(request, name)
        if address % alignment:
            raise Refusal(name, address, f"must be a multiple of {alignment}")
    if vring.started:
        # Legal for switching the log of the used ring; a move of a live ring is not.
        before = vring.addresses
        if before is None or (before.desc, before.avail, before.used) != (
            request.desc,
            request.avail,
            request.used,
        ):
            raise Refusal(
                "desc",
                request.desc,
                "a started ring cannot move: stop it with GET_VRING_BASE first",
            )
    return settled(state.with_vring(request.index, replace(vring, addresses=request)))


def set_base(
    _profile: DeviceProfile, state: SessionState, request: SetVringBase, _fds: Fds
) -> Plan:
    """Set where a ring goes on."""
    if not state.packed and request.base > _LARGEST_INDEX:
        raise Refusal("base", request.base, "a split ring's index has 16 bits")
    vring = replace(state.vrings[request.index], base=request.base)
    return settled(state.with_vring(request.index, vring))


def get_base(
    _profile: DeviceProfile, state: SessionState, request: GetVringBase, _fds: Fds
) -> Plan:
    """Stop a ring, finish what is in flight, and tell where it stands.

    The answer for a ring that does not run is the base it was given.
    """
    index = request.index
    vring = state.vrings[index]

    def settle(results: Sequence[Result]) -> tuple[SessionState, Message]:
        base = vring.base
        if results:
            position = results[0]
            assert isinstance(position, RingState)  # what StopRing returns
            base = position_to_base(position, packed=state.packed)
        elif base is None:
            base = position_to_base(
                base_to_position(None, packed=state.packed), packed=state.packed
            )
        stopped = replace(vring, base=base, started=False, broken=False)
        return state.with_vring(index, stopped), VringState(index=index, num=base)

    steps = (StopRing(index, StopMode.DRAIN),) if vring.started else ()
    return Plan(steps=steps, settle=settle)


def set_kick(_profile: DeviceProfile, state: SessionState, request: SetVringKick, fds: Fds) -> Plan:
    """Start a ring, or give a started one another kick fd."""
    kick = _notifier(request, fds)
    vring = state.vrings[request.index]
    if vring.started:
        return settled(state, SetRingFd(request.index, RingFd.KICK, kick))
    if vring.num == 0 or vring.addresses is None:
        missing = "SET_VRING_NUM" if vring.num == 0 else "SET_VRING_ADDR"
        raise Refusal("index", request.index, f"a ring starts only after {missing}")
    _require_layout(state, vring.num)  # SET_FEATURES may have come after SET_VRING_NUM
    start = RingStart(
        features=state.features,
        num=vring.num,
        desc=vring.addresses.desc,
        driver=vring.addresses.avail,
        device=vring.addresses.used,
        state=base_to_position(vring.base, packed=state.packed),
        status_follows=ProtocolFeatures.STATUS in state.protocol_features,
    )
    after = state.with_vring(request.index, replace(vring, started=True, broken=False))
    return settled(after, StartRing(request.index, start, kick))


def set_call(_profile: DeviceProfile, state: SessionState, request: SetVringCall, fds: Fds) -> Plan:
    """Use another call fd; QEMU swaps it whenever the guest masks its interrupt."""
    return settled(state, SetRingFd(request.index, RingFd.CALL, _notifier(request, fds)))


def set_err(_profile: DeviceProfile, state: SessionState, request: SetVringErr, fds: Fds) -> Plan:
    """Use another err fd."""
    return settled(state, SetRingFd(request.index, RingFd.ERR, _notifier(request, fds)))


def _notifier(request: SetVringKick | SetVringCall | SetVringErr, fds: Fds) -> OwnedFd | None:
    """Return the fd that came, after a look at what it is; None for the no-fd flag."""
    if request.no_fd:
        return None
    kind = kind_of(fds[0])
    # What user-mode Linux calls a pipe is a pair of sockets.
    if kind not in {FdKind.EVENTFD, FdKind.PIPE, FdKind.SOCKET}:
        raise Refusal("fd", kind.value, "must be an eventfd, a pipe or a socket")
    return fds[0]


def set_enable(
    _profile: DeviceProfile, state: SessionState, request: SetVringEnable, _fds: Fds
) -> Plan:
    """Let a ring be served or not. Legal for rings never set up, and before SET_FEATURES."""
    if request.enable not in {0, 1}:
        raise Refusal("num", request.enable, "must be 0 or 1")
    enabled = request.enable == 1
    vring = replace(state.vrings[request.index], enabled=enabled)
    step = EnableRing(request.index, enabled=enabled)
    return settled(state.with_vring(request.index, vring), step)
