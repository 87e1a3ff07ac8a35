"""Handlers of what is agreed on before rings run: features, owner, status, configuration, channel.

Each takes the device's profile, the session's state and the request, and returns a plan or raises
Refusal. None of them changes anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.vhost_user import U64, ConfigReply
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import StopMode
from vhostuser.fds import FdKind, kind_of
from vhostuser.memory import MAX_SLOTS
from vhostuser.session.plan import (
    EnableRing,
    OpenBackendChannel,
    Plan,
    ReadConfig,
    StopRing,
    UseFeatures,
    UseStatus,
    WriteConfig,
    settled,
)
from vhostuser.session.refusal import Refusal
from vhostuser.session.state import Vring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import (
        GetConfig,
        GetFeatures,
        GetMaxMemSlots,
        GetProtocolFeatures,
        GetQueueNum,
        GetStatus,
        Message,
        ResetDevice,
        ResetOwner,
        SetBackendReqFd,
        SetConfig,
        SetFeatures,
        SetOwner,
        SetProtocolFeatures,
        SetStatus,
    )
    from vhostuser.devices import DeviceProfile
    from vhostuser.fds import OwnedFd
    from vhostuser.session.plan import Result
    from vhostuser.session.state import SessionState

    Fds = tuple[OwnedFd, ...]

_CONFIG_SPACE = 256
_MIGRATION = 1
_NEEDS_RESET = 0x40
_RING_FORMAT = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.IN_ORDER
)


def get_features(
    profile: DeviceProfile, state: SessionState, _request: GetFeatures, _fds: Fds
) -> Plan:
    """Tell which virtio features are offered."""
    return settled(state, answer=U64(value=int(profile.features)))


def set_features(
    profile: DeviceProfile, state: SessionState, request: SetFeatures, _fds: Fds
) -> Plan:
    """Take the accepted features. It may come again while rings run, which it must not disturb."""
    unknown = request.features & ~profile.features
    if unknown:
        raise Refusal("features", int(request.features), f"bits {int(unknown):#x} were not offered")
    running = any(vring.started for vring in state.vrings)
    if running and (request.features ^ state.features) & _RING_FORMAT:
        raise Refusal(
            "features",
            int(request.features),
            "the format of rings cannot change while one runs: stop it with GET_VRING_BASE first",
        )
    after = replace(state, features=request.features)
    use = UseFeatures(request.features)
    if VirtioFeatures.PROTOCOL_FEATURES in request.features:
        return settled(after, use)
    # Without protocol features there is no SET_VRING_ENABLE: every ring is enabled at once.
    vrings = tuple(replace(vring, enabled=True) for vring in state.vrings)
    steps = [EnableRing(index, enabled=True) for index in range(profile.queues)]
    return settled(replace(after, vrings=vrings), use, *steps)


def get_protocol_features(
    profile: DeviceProfile, state: SessionState, _request: GetProtocolFeatures, _fds: Fds
) -> Plan:
    """Tell which protocol features are offered."""
    return settled(state, answer=U64(value=int(profile.protocol_features)))


def set_protocol_features(
    profile: DeviceProfile, state: SessionState, request: SetProtocolFeatures, _fds: Fds
) -> Plan:
    """Take the accepted protocol features."""
    unknown = request.features & ~profile.protocol_features
    if unknown:
        raise Refusal("features", int(request.features), f"bits {int(unknown):#x} were not offered")
    return settled(replace(state, protocol_features=request.features))


def get_queue_num(
    profile: DeviceProfile, state: SessionState, _request: GetQueueNum, _fds: Fds
) -> Plan:
    """Tell how many rings there are, or pairs of them, as the device counts."""
    count = profile.queues if profile.queue_num is None else profile.queue_num
    return settled(state, answer=U64(value=count))


def get_max_mem_slots(
    _profile: DeviceProfile, state: SessionState, _request: GetMaxMemSlots, _fds: Fds
) -> Plan:
    """Tell how many memory regions fit. The answer is the same on every connection."""
    return settled(state, answer=U64(value=MAX_SLOTS))


def set_owner(_profile: DeviceProfile, state: SessionState, _request: SetOwner, _fds: Fds) -> Plan:
    """Do nothing: a session begins with its connection."""
    return settled(state)


def reset_owner(
    _profile: DeviceProfile, state: SessionState, _request: ResetOwner, _fds: Fds
) -> Plan:
    """Do nothing: the message is deprecated, and front-ends that send it expect just that."""
    return settled(state)


def reset_device(
    _profile: DeviceProfile, state: SessionState, _request: ResetDevice, _fds: Fds
) -> Plan:
    """Stop and disable every ring and forget its set-up; memory and features stay."""
    steps: list[StopRing | EnableRing] = []
    for index, vring in enumerate(state.vrings):
        if vring.started:
            steps.append(StopRing(index, StopMode.DRAIN))
        steps.append(EnableRing(index, enabled=False))
    after = replace(state, status=0, needs_reset=False, vrings=tuple(Vring() for _ in state.vrings))
    return settled(after, *steps)


def get_status(
    _profile: DeviceProfile, state: SessionState, _request: GetStatus, _fds: Fds
) -> Plan:
    """Tell the device status as it was set: virtio-user reads FEATURES_OK back."""
    needs_reset = _NEEDS_RESET if state.needs_reset else 0
    return settled(state, answer=U64(value=state.status | needs_reset))


def set_status(_profile: DeviceProfile, state: SessionState, request: SetStatus, _fds: Fds) -> Plan:
    """Take the device status. Status 0 stops nothing: some QEMU send it before GET_VRING_BASE.

    If it reset the rings, a paused guest would lose its place in them. But a driver that needed a
    reset has had it, and whether the device serves again the next start of a ring tells.
    """
    needs_reset = state.needs_reset and request.status != 0
    after = replace(state, status=request.status & ~_NEEDS_RESET, needs_reset=needs_reset)
    return settled(after, UseStatus(request.status))


def get_config(_profile: DeviceProfile, state: SessionState, request: GetConfig, _fds: Fds) -> Plan:
    """Read the configuration space."""
    _require_config(request.offset, request.size)

    def settle(results: Sequence[Result]) -> tuple[SessionState, Message]:
        (data,) = results
        assert isinstance(data, bytes)  # what ReadConfig returns
        return state, ConfigReply(offset=request.offset, flags=request.flags, data=data)

    return Plan(steps=(ReadConfig(request.offset, request.size),), settle=settle)


def set_config(_profile: DeviceProfile, state: SessionState, request: SetConfig, _fds: Fds) -> Plan:
    """Write to the configuration space. Which fields can be written is known to the device."""
    _require_config(request.offset, len(request.data))
    migration = request.flags == _MIGRATION
    return settled(state, WriteConfig(request.offset, request.data, migration=migration))


def _require_config(offset: int, size: int) -> None:
    end = offset + size
    if end > _CONFIG_SPACE:
        raise Refusal("offset+size", end, f"the space has {_CONFIG_SPACE} bytes")


def set_backend_req_fd(
    _profile: DeviceProfile, state: SessionState, _request: SetBackendReqFd, fds: Fds
) -> Plan:
    """Take the socket for requests of ours; the last one wins."""
    kind = kind_of(fds[0])
    if kind is not FdKind.SOCKET:
        raise Refusal("fd", kind.value, "a connected UNIX stream socket")
    return settled(replace(state, backend_channel=True), OpenBackendChannel(fds[0]))
