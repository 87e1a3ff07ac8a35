"""What stands in the way of a TAP device: said before it is opened, or when the kernel refused.

Everything here waits for the kernel: call it in a thread.
"""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.devices.tap_links import Links
from vhostuser.errors import TapError

if TYPE_CHECKING:
    from vhostuser.devices.tap_device import TapOptions
    from vhostuser.devices.tap_links import Link

__all__ = [
    "NO_NODE",
    "NO_RIGHT_TO_NODE",
    "TUN_NODE",
    "by_root",
    "check_tap",
    "find_bridge",
    "no_right_to_make",
    "no_right_to_use",
    "require_free",
    "require_tap",
]

TUN_NODE = Path("/dev/net/tun")
NO_NODE = f"{TUN_NODE} is not there: load its driver (modprobe tun), or pass it to the container"
NO_RIGHT_TO_NODE = (
    f"no right to open {TUN_NODE}: run as root, or have root let this user open it, as is usual: "
    f"chmod 0666 {TUN_NODE} (a container must be given it)"
)
_STATUS = Path("/proc/thread-self/status")
_CAP_NET_ADMIN = 12


def check_tap(options: TapOptions) -> None:
    """Look for what would keep a TAP device from being opened, without opening it.

    One that is in use passes: a configuration can be checked while it is being served.

    Raises:
        TapError: something stands in the way; the text says what to do.
        OSError: the kernel does not tell.
    """
    if not TUN_NODE.exists():
        raise TapError(errno.ENOENT, NO_NODE)
    if not os.access(TUN_NODE, os.R_OK | os.W_OK):
        raise TapError(errno.EACCES, NO_RIGHT_TO_NODE)
    with Links() as links:
        if options.bridge is not None:
            find_bridge(links, options.bridge)
        found = links.find(options.name) if options.name else None
        if found is not None:
            require_tap(found, options)
    if _administers():
        return
    if found is None:
        raise TapError(errno.EPERM, no_right_to_make(options))
    if not _is_ours(found):
        raise TapError(errno.EPERM, no_right_to_use(options))


def _administers() -> bool:
    """Whether this thread may make and change interfaces."""
    for line in _STATUS.read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def _is_ours(link: Link) -> bool:
    """Whether a device is for this user, as the kernel judges: one of nobody's is for all."""
    groups = {os.getegid(), *os.getgroups()}
    return link.owner in {None, os.geteuid()} and link.group in {None, *groups}


def require_free(found: Link, options: TapOptions) -> None:
    """Check that nobody uses a device that is there already.

    Raises:
        TapError: somebody does.
    """
    if found.users:
        raise TapError(
            errno.EBUSY,
            f"{options.name} is in use: end the program that has it, or choose another name",
        )


def find_bridge(links: Links, name: str) -> Link:
    """Return an interface that is a bridge.

    Raises:
        TapError: there is none of this name.
    """
    found = links.find(name)
    if found is None:
        raise TapError(
            errno.ENODEV,
            f"there is no bridge {name}: make it first: "
            f"ip link add {name} type bridge && ip link set dev {name} up",
        )
    if found.kind != "bridge":
        raise TapError(
            errno.EINVAL,
            f"{name} is {_describe(found)}, not a bridge: name one, or make one: "
            "ip link add br0 type bridge && ip link set dev br0 up",
        )
    return found


def _describe(link: Link) -> str:
    if link.kind == "tun":
        return "a TAP device" if link.tap else "a TUN device, which carries packets, not frames"
    return f"an interface of the kind {link.kind}" if link.kind else "an interface of the hardware"


def require_tap(found: Link, options: TapOptions) -> None:
    """Check that an interface that is there already is such a device.

    Raises:
        TapError: it is not.
    """
    name = options.name
    if not found.tap:
        raise TapError(
            errno.EINVAL,
            f"{name} is {_describe(found)}: choose a name that is free, or a TAP device's",
        )
    if options.queues > 1 and not found.multi_queue:
        raise TapError(
            errno.EINVAL,
            f"{name} was made with one queue, not with {options.queues}: ask for one, or have it "
            f"made anew: ip tuntap del dev {name} mode tap && {by_root(options)}",
        )


def no_right_to_make(options: TapOptions) -> str:
    """Say what to do where a device cannot be made."""
    name = options.name or "a TAP device"
    return f"no right to make {name}: {_how_to_get_rights(options)}"


def no_right_to_use(options: TapOptions) -> str:
    """Say what to do where a device that is there is another user's."""
    name = options.name
    return (
        f"no right to use {name}, which is not made for this user: run as root, or have root make "
        f"it anew: ip tuntap del dev {name} mode tap && {by_root(options)}"
    )


def _how_to_get_rights(options: TapOptions) -> str:
    """Say how one comes to have such a device."""
    return (
        "run as root, or give the program CAP_NET_ADMIN, or have root make the device: "
        f"{by_root(options)}"
    )


def by_root(options: TapOptions) -> str:
    """Return the command by which root makes such a device for this user."""
    name = options.name or "tap0"
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    several = " multi_queue" if options.queues > 1 else ""
    commands = [f"ip tuntap add dev {name} mode tap user {user} vnet_hdr{several}"]
    commands.append(f"ip link set dev {name} up")
    return " && ".join(commands)
