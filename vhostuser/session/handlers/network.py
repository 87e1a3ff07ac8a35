"""Handlers of what concerns a device's network. Each is unlocked by a feature of its own.

Specification: VHOST_USER_SEND_RARP, VHOST_USER_NET_SET_MTU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import NET_MIN_MTU
from vhostuser.session.plan import Announce, Plan, settled
from vhostuser.session.refusal import Refusal

if TYPE_CHECKING:
    from protocol.vhost_user import NetSetMtu, SendRarp
    from vhostuser.devices import DeviceProfile
    from vhostuser.fds import OwnedFd
    from vhostuser.session.state import SessionState

    Fds = tuple[OwnedFd, ...]


def send_rarp(_profile: DeviceProfile, state: SessionState, request: SendRarp, _fds: Fds) -> Plan:
    """Announce the guest's address, as QEMU asks for guests that do not do it themselves."""
    return settled(state, Announce(request.mac))


def set_mtu(profile: DeviceProfile, state: SessionState, request: NetSetMtu, _fds: Fds) -> Plan:
    """Check an MTU that the front-end shows to its guest: only that is asked of us."""
    most = profile.mtu or 0
    if not NET_MIN_MTU <= request.mtu <= most:
        rule = f"this device carries an MTU of {NET_MIN_MTU} to {most} (raise it with --mtu)"
        raise Refusal("mtu", request.mtu, rule)
    return settled(state)
