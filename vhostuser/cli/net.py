"""`vhostuser net`: connect guests with each other and with the host.

What can be set is `vhostuser.switch.config`; here it is collected from the command line, on which
each socket and TAP is a port, or from the file, and the switch is run until somebody ends it.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from vhostuser.cli.collecting import Collected, add_file_arguments, from_file, of_program, report
from vhostuser.cli.command import Command
from vhostuser.cli.serving import Serving, run_served
from vhostuser.monitor.ports import PORT_COMMANDS
from vhostuser.options import Source, add_arguments, given, given_each, read
from vhostuser.server import systemd_sockets
from vhostuser.serving import ID, Finding
from vhostuser.switch import PortConfig, PortSet, SwitchConfig, check_ports

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["COMMAND"]

_NOTHING = (
    "there is nothing to serve: give --socket-path PATH, --connect PATH or --tap NAME, once for "
    "each port (in a file a [[port]]), or a control socket"
)
_OWNERS = {"bridge": "tap", "socket-mode": "socket-path", "socket-group": "socket-path"}
"""Options that hold for one kind of ports on the command line, not for all."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Each --socket-path, --connect, --fd and --tap is a port of its own: port0, port1 and so "
        "on, in their order. The other options of ports hold for all of them: describe ports that "
        "differ, or have a mac or lock-mac, in a file (--config)."
    )
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="print what this back-end can do as JSON, and end",
    )
    add_file_arguments(parser, PortConfig)
    add_arguments(parser, PortConfig, each_of="socket")
    add_arguments(parser, SwitchConfig)


def _run(namespace: argparse.Namespace) -> int:
    if namespace.print_capabilities:
        json.dump({"type": "net", "features": []}, sys.stdout)
        print()
        return 0
    told = _collect(namespace)
    if namespace.check:
        told = told.with_findings(check_ports(told.program, told.served, told.place))
        return report(told, _NOTHING)
    serving = Serving(
        table=PortConfig,
        open_set=functools.partial(PortSet.open, told.program),
        commands=PORT_COMMANDS,
        nothing=_NOTHING,
    )
    run_served(namespace, serving, told.program, told.require_right())
    return 0


def _collect(namespace: argparse.Namespace) -> Collected[SwitchConfig, PortConfig]:
    of_all = given(namespace, PortConfig)
    places = given_each(namespace)
    if namespace.config is not None:
        names = [*(name for name, _ in places), *of_all]
        return from_file(namespace, SwitchConfig, PortConfig, names)
    ports: list[tuple[PortConfig, str]] = []
    findings: list[Finding] = []
    for identity, values in _described(of_all, places):
        port, problems = read(PortConfig, values, Source.COMMAND_LINE)
        findings += [Finding("", each) for each in problems]
        if port is not None:
            ports.append((replace(port, id=identity), ""))
    return Collected(
        program=of_program(namespace, SwitchConfig),
        served=ports,
        findings=list(dict.fromkeys(findings)),  # a mistake may be every port's
    )


def _described(
    of_all: Mapping[str, object], places: Sequence[tuple[str, object]]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield name and options of each port of a command line.

    Args:
        of_all: the options of every port.
        places: where each leads; none: each socket that systemd passed is a port.
    """
    kinds = {kind for kind, _ in places}
    for number, (kind, place) in enumerate(places):
        owners = {name: _OWNERS.get(name, kind) for name in of_all}
        # What is of no port at all is kept: it is a mistake, and will be told.
        kept = {name for name, owner in owners.items() if owner == kind or owner not in kinds}
        yield f"port{number}", {name: of_all[name] for name in kept} | {kind: place}
    if not places:
        yield from ((name, of_all) for name in systemd_sockets() if ID.read(name))


COMMAND = Command(
    summary="connect guests with each other and with the host: a switch for virtio networks",
    configure=_configure,
    run=_run,
    obeys_signals=True,
)
