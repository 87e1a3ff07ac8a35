"""Commands of the control socket that every server has: they look at front-ends and their rings.

Feature bits go by name, with the bits that have none as numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.virtio import BlkFeatures, NetFeatures, VirtioFeatures
from vhostuser import __version__
from vhostuser.monitor.table import CommandRow, Nothing
from vhostuser.options import OptionTable, Source, option, options
from vhostuser.serving import ID

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator, Mapping, Sequence

    from vhostuser.monitor.table import Answer, AnySet
    from vhostuser.server import ServedConnection, Server
    from vhostuser.serving import Served, ServedConfig

__all__ = ["COMMON", "Which", "chosen", "plain_config"]

_FEATURES: Mapping[str, Sequence[type[enum.IntFlag]]] = {
    "block": (BlkFeatures,),
    "net": (NetFeatures,),
}
"""Whose names a device's own feature bits have, by its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which(OptionTable):
    """Of which of those that are served."""

    id: str | None = option(ID, "only of this one (without: of all)")


def chosen(served: AnySet, which: Which) -> tuple[Any, ...]:
    """Return all that are served, or the one that is asked for.

    Raises:
        UsageError: there is none of this name.
    """
    return served.members if which.id is None else (served.find(which.id),)


def plain_config(config: ServedConfig) -> dict[str, object]:
    """Return options as they could be given again."""
    rows = options(type(config), Source.CONTROL)
    values = {each: getattr(config, each.attribute) for each in rows}
    return {
        each.name: each.kind.plain(value) for each, value in values.items() if value is not None
    }


def _servers(served: AnySet, which: Which) -> Iterator[tuple[Served[Any], Server]]:
    for member in chosen(served, which):
        if member.server is not None:
            yield member, member.server


def _connected(
    served: AnySet, which: Which
) -> Iterator[tuple[Served[Any], Server, ServedConnection]]:
    for member, server in _servers(served, which):
        if server.connection is not None:
            yield member, server, server.connection


async def query_version(_served: AnySet, _arguments: Nothing) -> Answer:
    """Return this program's version."""
    return {"vhostuser": __version__}


async def query_connections(served: AnySet, which: Which) -> Answer:
    """Return the front-ends being served."""
    return [
        {
            "id": member.id,
            "connection": connection.number,
            "process": connection.process,
            "device": server.device.profile.kind,
            "state": connection.session.connection.state.name.lower(),
            "status": connection.session.state.status,
            "requests": connection.requests,
            "backend-channel": connection.session.state.backend_channel,
        }
        for member, server, connection in _connected(served, which)
    ]


async def query_features(served: AnySet, which: Which) -> Answer:
    """Return what each device offers and what its front-end accepted, by name."""
    return [_features(member, server) for member, server in _servers(served, which)]


def _features(member: Served[Any], server: Server) -> Mapping[str, object]:
    profile = server.device.profile
    kinds: Sequence[type[enum.IntFlag]] = (VirtioFeatures, *_FEATURES.get(profile.kind, ()))
    offered = {
        "virtio": _names(profile.features, kinds),
        "protocol": _names(profile.protocol_features),
    }
    negotiated = None
    if server.connection is not None:
        state = server.connection.session.state
        negotiated = {
            "connection": server.connection.number,
            "virtio": _names(state.features, kinds),
            "protocol": _names(state.protocol_features),
        }
    return {"id": member.id, "offered": offered, "negotiated": negotiated}


async def query_rings(served: AnySet, which: Which) -> Answer:
    """Return every ring: its set-up, what the engine does with it, its counters."""
    found = _servers(served, which)
    return [ring for member, server in found for ring in _rings(member, server)]


def _rings(member: Served[Any], server: Server) -> Iterator[dict[str, object]]:
    connection = server.connection
    vrings = connection.session.state.vrings if connection else ()
    for index, statistics in enumerate(server.device.datapath.statistics()):
        counters = dataclasses.asdict(statistics)
        counters["actual"] = statistics.actual.value
        counters["fault"] = None if statistics.fault is None else statistics.fault.name
        ring: dict[str, object] = {"id": member.id, "ring": index}
        if vrings:
            vring = vrings[index]
            ring |= {"size": vring.num, "enabled": vring.enabled, "started": vring.started}
            areas = connection.areas if connection else None
            ring["area"] = areas.states[index].value if areas else None
        yield ring | {name.replace("_", "-"): value for name, value in counters.items()}


async def query_memory(served: AnySet, which: Which) -> Answer:
    """Return the memory table of each front-end."""
    answer = []
    for member, _, connection in _connected(served, which):
        snapshot = connection.carrier.memory.snapshot
        regions = [
            {"gpa": region.gpa, "uva": region.uva, "size": region.size, "offset": region.offset}
            for region in snapshot.regions
        ]
        answer.append(
            {
                "id": member.id,
                "connection": connection.number,
                "snapshot": snapshot.number,
                "pins": snapshot.pins,
                "regions": regions,
            }
        )
    return answer


def _names(features: enum.IntFlag, kinds: Sequence[type[enum.IntFlag]] = ()) -> list[str]:
    """Name every bit, by the first of `kinds` (or the value's own) that has a name for it."""
    names = []
    for bit in range(int(features).bit_length()):
        if int(features) >> bit & 1:
            found = [kind(1 << bit).name for kind in kinds or (type(features),)]
            names.append(next((name for name in found if name), f"bit{bit}"))
    return names


COMMON: dict[str, CommandRow] = {
    "query-version": CommandRow(
        run=query_version, arguments=Nothing, returns="this program's version"
    ),
    "query-connections": CommandRow(
        run=query_connections,
        arguments=Which,
        returns="front-ends being served: id of the disk or port, number, process id, device, "
        "state, device status, requests so far",
    ),
    "query-features": CommandRow(
        run=query_features,
        arguments=Which,
        returns="virtio and protocol features by name: what each device offers, and what its "
        "front-end accepted (null: there is none)",
    ),
    "query-rings": CommandRow(
        run=query_rings,
        arguments=Which,
        returns="each ring: id of its disk or port, size, enabled, started, how far the offer of "
        "its notify area has come, what is done with it (`stopped`, `running`, `stopping`, "
        "`broken`), the rule it broke, and counters: requests, errors, bytes, kicks that this "
        "process saw, stores found in a page of its own, calls, calls suppressed, waits for the "
        "image; whether requests are counted (an accelerator's are not)",
    ),
    "query-memory": CommandRow(
        run=query_memory,
        arguments=Which,
        returns="the memory table of each connection: regions, number of the snapshot, pins",
    ),
}
"""What every server can be asked."""
