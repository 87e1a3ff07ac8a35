"""What the control socket's commands do: look at the server, and end it.

One table of commands, from which dispatch and `query-commands` derive. Answers are plain data for
JSON; feature bits go by name, with the bits that have none as numbers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from protocol.virtio import BlkFeatures, VirtioFeatures
from vhostuser import __version__
from vhostuser.monitor.qmp import CommandError

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping, Sequence

    from vhostuser.server import ServedConnection, Server

    Answer = Mapping[str, object] | Sequence[Mapping[str, object]]

__all__ = ["COMMANDS", "execute"]


def _connections(server: Server) -> list[ServedConnection]:
    return [] if server.connection is None else [server.connection]


def query_version(_server: Server) -> Answer:
    """Return this program's version."""
    return {"vhostuser": __version__}


def query_commands(_server: Server) -> Answer:
    """Return the names of all commands."""
    return [{"name": name} for name in sorted([*COMMANDS, "qmp_capabilities", "quit"])]


def query_connections(server: Server) -> Answer:
    """Return the front-ends being served."""
    return [
        {
            "connection": served.number,
            "process": served.process,
            "device": server.device.profile.kind,
            "state": served.session.connection.state.name.lower(),
            "status": served.session.state.status,
            "requests": served.requests,
            "backend-channel": served.session.state.backend_channel,
        }
        for served in _connections(server)
    ]


def query_features(server: Server) -> Answer:
    """Return what is offered and what each front-end accepted, by name."""
    profile = server.device.profile
    offered = {
        "virtio": _names(profile.features, VirtioFeatures, BlkFeatures),
        "protocol": _names(profile.protocol_features),
    }
    negotiated = [
        {
            "connection": served.number,
            "virtio": _names(served.session.state.features, VirtioFeatures, BlkFeatures),
            "protocol": _names(served.session.state.protocol_features),
        }
        for served in _connections(server)
    ]
    return {"offered": offered, "negotiated": negotiated}


def query_rings(server: Server) -> Answer:
    """Return every ring: its set-up, what the engine does with it, its counters."""
    vrings = server.connection.session.state.vrings if server.connection else ()
    rings = []
    for index, statistics in enumerate(server.device.datapath.statistics()):
        counters = dataclasses.asdict(statistics)
        counters["actual"] = statistics.actual.value
        counters["fault"] = None if statistics.fault is None else statistics.fault.name
        ring: dict[str, object] = {"ring": index}
        if vrings:
            vring = vrings[index]
            ring |= {"size": vring.num, "enabled": vring.enabled, "started": vring.started}
        rings.append(ring | {name.replace("_", "-"): value for name, value in counters.items()})
    return rings


def query_memory(server: Server) -> Answer:
    """Return the memory table of each front-end."""
    answer = []
    for served in _connections(server):
        snapshot = served.carrier.memory.snapshot
        regions = [
            {"gpa": region.gpa, "uva": region.uva, "size": region.size, "offset": region.offset}
            for region in snapshot.regions
        ]
        answer.append(
            {
                "connection": served.number,
                "snapshot": snapshot.number,
                "pins": snapshot.pins,
                "regions": regions,
            }
        )
    return answer


def _names(features: enum.IntFlag, *kinds: type[enum.IntFlag]) -> list[str]:
    """Name every bit, by the first of `kinds` (or the value's own) that has a name for it."""
    names = []
    for bit in range(int(features).bit_length()):
        if int(features) >> bit & 1:
            found = [kind(1 << bit).name for kind in kinds or (type(features),)]
            names.append(next((name for name in found if name), f"bit{bit}"))
    return names


COMMANDS: dict[str, Callable[[Server], Answer]] = {
    "query-commands": query_commands,
    "query-connections": query_connections,
    "query-features": query_features,
    "query-memory": query_memory,
    "query-rings": query_rings,
    "query-version": query_version,
}


def execute(server: Server, name: str, arguments: Mapping[str, object]) -> Answer:
    """Run a command.

    Raises:
        CommandError: there is no such command, or it takes no such argument.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError(
            f"the command {name} has not been found; query-commands lists all",
            kind="CommandNotFound",
        )
    if arguments:
        raise CommandError(f"{name} takes no argument '{min(arguments)}'")
    return command(server)
