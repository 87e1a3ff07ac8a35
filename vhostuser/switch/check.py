"""`--check`: what only a look at the host tells of ports, without serving them.

Nothing is made or changed: a configuration can be checked while it is being served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhostuser.devices.tap_check import check_tap
from vhostuser.errors import UsageError
from vhostuser.options import Problem
from vhostuser.serving import Finding, check_served
from vhostuser.switch.config import same_address, same_tap
from vhostuser.switch.opening import tap_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhostuser.serving import Placed, ProgramConfig
    from vhostuser.switch.config import PortConfig

__all__ = ["check_ports"]


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
        try:
            check_tap(tap_options(port, port.tap))
        except (OSError, UsageError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield Problem("tap", text)


def _conflicts(ports: Placed[PortConfig]) -> Iterator[Finding]:
    taps: dict[str, str] = {}
    addresses: dict[bytes, str] = {}
    for port, place in ports:
        if port.tap is not None and taps.setdefault(port.tap, port.id) != port.id:
            yield Finding(place, same_tap(port.tap, taps[port.tap]))
        if port.mac is not None and addresses.setdefault(port.mac, port.id) != port.id:
            yield Finding(place, same_address(addresses[port.mac]))
