"""Opening a TAP device of the host: its queues by ioctl, the rest by rtnetlink.

Everything here waits for the kernel: call it in a thread. Errors say what to do, and most need a
look at the interface that is there already. Specification: Linux,
Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from protocol.kernel import tun
from protocol.virtio import NetFeatures
from vhostuser.devices.net_profile import MAX_PAIRS
from vhostuser.devices.tap_check import (
    NO_NODE,
    NO_RIGHT_TO_NODE,
    TUN_NODE,
    find_bridge,
    no_right_to_make,
    no_right_to_use,
    require_free,
    require_tap,
)
from vhostuser.devices.tap_links import Links
from vhostuser.errors import TapError, UsageError
from vhostuser.fds import Closing, OwnedFd

if TYPE_CHECKING:
    from vhostuser.devices.tap_links import Link

__all__ = ["TAP_MAX_MTU", "TAP_MIN_MTU", "Tap", "TapOptions", "open_tap"]

TAP_MIN_MTU, TAP_MAX_MTU = 68, 65521
"""What the kernel takes."""

_FLAGS = tun.InterfaceFlags.TAP | tun.InterfaceFlags.NO_PI | tun.InterfaceFlags.VNET_HDR
_HEADER_BYTES = 12
_OFFLOADS = (
    tun.Offloads.CSUM | tun.Offloads.TSO4 | tun.Offloads.TSO6 | tun.Offloads.TSO_ECN,
    tun.Offloads.USO4 | tun.Offloads.USO6,
)
"""What every kernel knows, and what newer ones know besides."""
_TAKEN = (
    NetFeatures.GUEST_CSUM
    | NetFeatures.GUEST_TSO4
    | NetFeatures.GUEST_TSO6
    | NetFeatures.GUEST_ECN,
    NetFeatures.GUEST_USO4 | NetFeatures.GUEST_USO6,
)
"""What such kernels take of us, whatever their devices were told to leave to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapOptions:
    """Which TAP device is used, and how.

    Attributes:
        name: of the device, which is made if there is none, and then vanishes with its user; "":
            the kernel finds a name.
        queues: of the device, each with both directions.
        bridge: an interface of the host that the device becomes a port of; None: it stays where it
            is.
        mtu: largest payload of a frame, bytes; None: it stays as it is, 1500 at first.
        addresses: most addresses that are learned there.

    Raises:
        UsageError: a value is not in its range.
    """

    name: str = ""
    queues: int = 1
    bridge: str | None = None
    mtu: int | None = None
    addresses: int = 1024

    def __post_init__(self) -> None:
        if self.name:
            _require_name("tap", self.name)
        if self.bridge is not None:
            _require_name("bridge", self.bridge)
        if not 1 <= self.queues <= MAX_PAIRS:
            raise UsageError(f"queues: a number from 1 to {MAX_PAIRS}, not {self.queues}")
        if self.mtu is not None and not TAP_MIN_MTU <= self.mtu <= TAP_MAX_MTU:
            raise UsageError(f"mtu: a number from {TAP_MIN_MTU} to {TAP_MAX_MTU}, not {self.mtu}")


def _require_name(what: str, name: str) -> None:
    if len(os.fsencode(name)) > tun.NAME_BYTES:
        raise UsageError(
            f"{what}: {name!r} is too long: interfaces have up to {tun.NAME_BYTES} bytes"
        )
    if not name or name in {".", ".."} or any(letter in "/:%" or letter <= " " for letter in name):
        raise UsageError(
            f"{what}: {name!r} is not a name that an interface can have: no spaces, '/', ':', '%'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap(Closing):
    """An open TAP device, ready for use.

    Attributes:
        name: as the kernel calls it.
        mac: the address that the host has there.
        mtu: largest payload of a frame, bytes.
        features: the GUEST_* offloads that it takes.
        queues: one file for each, non-blocking; taken out by who uses them.
        control: one of these files once more.
    """

    name: str
    mac: bytes
    mtu: int
    features: NetFeatures
    queues: tuple[OwnedFd, ...]
    control: OwnedFd

    def close(self) -> None:
        """Close what was not handed over; a device that was made by it vanishes with the last."""
        for fd in (*self.queues, self.control):
            fd.close()

    def set_carrier(self, *, up: bool) -> None:
        """Have the host see the cable plugged in, or pulled. Raises OSError."""
        fcntl.ioctl(self.control.fileno(), tun.Request.SETCARRIER, tun.number_argument(up))


def open_tap(options: TapOptions) -> Tap:
    """Open a TAP device, with all its queues, up, and in its bridge.

    Raises:
        TapError: it cannot be had; nothing is left of it.
        OSError: the host is out of memory or file descriptors.
    """
    with Links() as links, contextlib.ExitStack() as stack:
        bridge = None if options.bridge is None else find_bridge(links, options.bridge)
        before = links.find(options.name) if options.name else None
        if before is not None:
            require_tap(before, options)
            require_free(before, options)
        name, flags = options.name, _FLAGS
        if options.queues > 1 or (before is not None and before.multi_queue):
            flags |= tun.InterfaceFlags.MULTI_QUEUE
        queues: list[OwnedFd] = []
        for _ in range(options.queues):
            queues.append(stack.enter_context(_open_node()))
            name = _attach(queues[-1], name, flags, options, before)
        control = stack.enter_context(queues[0].duplicate())
        features = _set_headers(control, name)
        link = _set_link(links, name, options, bridge)
        stack.pop_all()  # all of it is the caller's now
    return Tap(
        name=name,
        mac=link.mac,
        mtu=link.mtu,
        features=features,
        queues=tuple(queues),
        control=control,
    )


# ---- Queues


def _open_node() -> OwnedFd:
    try:
        return OwnedFd(os.open(TUN_NODE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            text = NO_NODE
        elif error.errno in {errno.EACCES, errno.EPERM}:
            text = NO_RIGHT_TO_NODE
        else:
            raise
        raise TapError(error.errno, text) from error


def _attach(
    fd: OwnedFd,
    name: str,
    flags: tun.InterfaceFlags,
    options: TapOptions,
    before: Link | None,
) -> str:
    """Make an open file a queue of the device; return the device's name."""
    request = tun.interface_request(name, flags)
    try:
        fcntl.ioctl(fd.fileno(), tun.Request.SETIFF, request)
    except OSError as error:
        _explain(error, options, before)
    return tun.interface_name(request)


def _explain(error: OSError, options: TapOptions, before: Link | None) -> NoReturn:
    name = options.name or "a TAP device"
    if error.errno == errno.EPERM and before is not None:
        text = no_right_to_use(options)
    elif error.errno == errno.EPERM:
        text = no_right_to_make(options)
    elif error.errno == errno.EBUSY:
        text = f"{name} is in use: end the program that has it, or choose another name"
    else:
        text = f"cannot make {name} with {options.queues} queues: {error.strerror}"
    raise TapError(error.errno, text) from error


def _set_headers(fd: OwnedFd, name: str) -> NetFeatures:
    """Agree on the header before each frame, and on what it may ask for; return what we may ask."""
    number = fd.fileno()
    try:
        fcntl.ioctl(number, tun.Request.SETVNETHDRSZ, tun.number_argument(_HEADER_BYTES))
        fcntl.ioctl(number, tun.Request.SETVNETLE, tun.number_argument(1))
        every, newer = _OFFLOADS
        with contextlib.suppress(OSError):
            fcntl.ioctl(number, tun.Request.SETOFFLOAD, every | newer)
            return _TAKEN[0] | _TAKEN[1]
        fcntl.ioctl(number, tun.Request.SETOFFLOAD, every)
    except OSError as error:
        text = f"{name} has no virtio-net headers as we need them: {error.strerror}"
        raise TapError(error.errno, text) from error
    return _TAKEN[0]


# ---- The interface


def _set_link(links: Links, name: str, options: TapOptions, bridge: Link | None) -> Link:
    """Have the interface as it is wanted, leaving alone what is so already; return it."""
    link = links.find(name)
    if link is None:
        raise TapError(errno.ENODEV, f"{name} was removed while it was opened; try again")
    if options.mtu not in {None, link.mtu}:
        _change(links, link, f"ip link set dev {name} mtu {options.mtu}", mtu=options.mtu)
    if bridge is not None and link.bridge != bridge.index:
        command = f"ip link set dev {name} master {options.bridge}"
        _change(links, link, command, master=bridge.index)
    if not link.up:
        _change(links, link, f"ip link set dev {name} up", state="up")
    return links.find(name) or link


def _change(links: Links, link: Link, command: str, **attributes: object) -> None:
    """Change the interface; `command` is what root would say to do it."""
    try:
        links.change(link, **attributes)
    except OSError as error:
        if error.errno == errno.EPERM:
            text = (
                f"no right to change the interface: run as root, or give the program "
                f"CAP_NET_ADMIN, or have root do it first: {command}"
            )
        else:
            text = f"the kernel refuses what '{command}' would do: {error.strerror}"
        raise TapError(error.errno, text) from error
