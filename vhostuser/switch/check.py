"""`--check`: what only a look at the host tells of ports, without serving them.

Nothing is made or changed: a configuration can be checked while it is being served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.options import Problem
from vhostuser.serving import Finding, check_served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhostuser.serving import Placed, ProgramConfig
    from vhostuser.switch.config import PortConfig

__all__ = ["check_ports"]

_INTERFACES = Path("/sys/class/net")
_TUN = Path("/dev/net/tun")
_STATUS = Path("/proc/self/status")
_CAP_NET_ADMIN = 12
_IFF_TAP, _IFF_MULTI_QUEUE = 0x0002, 0x0100


def check_ports(
    program: ProgramConfig, ports: Placed[PortConfig], where: str = ""
) -> list[Finding]:
    """Look for what would keep these ports from being served.

    Args:
        program: the options of the program.
        ports: each with its place in messages.
        where: the place of the program's options in messages.
    """
    return check_served(program, ports, where, _of_port) + list(_conflicts(ports))


def _of_port(port: PortConfig) -> Iterator[Problem]:
    if port.tap is not None:
        yield from _of_tap(port, port.tap)
    if port.bridge is not None:
        yield from _of_bridge(port.bridge)


def _of_tap(port: PortConfig, name: str) -> Iterator[Problem]:
    if not _TUN.exists():
        text = f"{_TUN} is not there: load its driver (modprobe tun), or pass it to the container"
        yield Problem("tap", text)
        return
    if not os.access(_TUN, os.R_OK | os.W_OK):
        yield Problem("tap", f"{_TUN} cannot be opened: it takes read and write permission")
        return
    flags = _number(_INTERFACES / name / "tun_flags")
    if flags is None and (_INTERFACES / name).exists():
        yield Problem("tap", f"{name} is another interface of the host: choose a name that is free")
    elif flags is not None and not flags & _IFF_TAP:
        yield Problem("tap", f"{name} is a TUN device, which carries packets, not frames")
    elif flags is not None and port.queue_pairs > 1 and not flags & _IFF_MULTI_QUEUE:
        text = f"{name} was made with one queue, not with {port.queue_pairs}: give one pair"
        yield Problem("queue-pairs", text)
    elif not (_administers() or _owns(name)):
        several = " multi_queue" if port.queue_pairs > 1 else ""
        made = f"ip tuntap add dev {name} mode tap user $USER vnet_hdr{several}"
        text = f"no right to use {name}: run as root, or have root make it: {made}"
        yield Problem("tap", text)


def _of_bridge(name: str) -> Iterator[Problem]:
    if not (_INTERFACES / name).exists():
        text = f"there is no bridge {name}: make it first: ip link add {name} type bridge"
        yield Problem("bridge", text)
    elif not (_INTERFACES / name / "bridge").exists():
        yield Problem("bridge", f"{name} is no bridge: name one of `ip link show type bridge`")


def _administers() -> bool:
    """Whether this process may make and change interfaces."""
    for line in _STATUS.read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def _owns(name: str) -> bool:
    """Whether root has made a TAP device for this user."""
    folder = _INTERFACES / name
    groups = {os.getegid(), *os.getgroups()}
    return _number(folder / "owner") == os.geteuid() or _number(folder / "group") in groups


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"), 0)
    except (OSError, ValueError):
        return None


def _conflicts(ports: Placed[PortConfig]) -> Iterator[Finding]:
    taps: dict[str, str] = {}
    addresses: dict[bytes, str] = {}
    for port, place in ports:
        if port.tap is not None and taps.setdefault(port.tap, port.id) != port.id:
            text = f"{port.tap} is the TAP device of port {taps[port.tap]}, too: choose another"
            yield Finding(place, Problem("tap", text))
        if port.mac is not None and addresses.setdefault(port.mac, port.id) != port.id:
            text = f"port {addresses[port.mac]} has the same address: each needs its own"
            yield Finding(place, Problem("mac", text))
