"""What the control socket's commands do: look at the disks, add, remove and resize them.

One table of commands, from which dispatch, `query-commands` and the reference derive; what a
command takes is an option table like that of a disk (`vhostuser.disks.options`). Answers are plain
data for JSON; feature bits go by name, with the bits that have none as numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.virtio import BlkFeatures, VirtioFeatures
from vhostuser import __version__
from vhostuser.disks import DiskConfig, OptionTable, Source, option, options, read
from vhostuser.disks.kinds import Name, Size, shown
from vhostuser.errors import UsageError
from vhostuser.monitor.qmp import CommandError

if TYPE_CHECKING:
    import enum
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from vhostuser.disks import Disk, DiskSet
    from vhostuser.server import ServedConnection

    Answer = Mapping[str, object] | Sequence[Mapping[str, object]]

__all__ = ["COMMANDS", "CommandRow", "execute"]

_ID = Name("a name", "ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing(OptionTable):
    """No arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which(OptionTable):
    """Of which disk."""

    id: str | None = option(_ID, "only of this disk (without: of all)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(OptionTable):
    """Which disk to end."""

    id: str = option(_ID, "which disk", required=frozenset({Source.CONTROL}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(OptionTable):
    """Which disk, and how large."""

    id: str | None = option(_ID, "which disk (without: the only one)")
    size: int | None = option(
        Size(), "the new size in bytes, or with a unit (without: look how large the image is now)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """One command.

    Attributes:
        run: does it, with the disks and an object of `arguments`.
        arguments: the table of what it takes.
        returns: what the answer is, in words.
    """

    run: Callable[[DiskSet, Any], Awaitable[Answer]]
    arguments: type[Any]
    returns: str


def _chosen(disks: DiskSet, which: Which) -> tuple[Disk, ...]:
    return disks.disks if which.id is None else (disks.find(which.id),)


def _served(disks: DiskSet, which: Which) -> Iterator[tuple[Disk, ServedConnection]]:
    for disk in _chosen(disks, which):
        if disk.server.connection is not None:
            yield disk, disk.server.connection


async def query_version(_disks: DiskSet, _arguments: Nothing) -> Answer:
    """Return this program's version."""
    return {"vhostuser": __version__}


async def query_commands(_disks: DiskSet, _arguments: Nothing) -> Answer:
    """Return the names of all commands."""
    return [{"name": name} for name in sorted([*COMMANDS, "qmp_capabilities", "quit"])]


async def query_disks(disks: DiskSet, which: Which) -> Answer:
    """Return every disk: how it is served, and to whom."""
    return [
        {
            "id": disk.id,
            "size": disk.size,
            "connection": disk.server.connection and disk.server.connection.number,
            "io": getattr(disk.device.datapath, "io", None),  # not every data path does any
            "config": _plain(disk.config),
        }
        for disk in _chosen(disks, which)
    ]


def _plain(config: DiskConfig) -> dict[str, object]:
    """Return the options of a disk as they could be given again."""
    values = {each: getattr(config, each.attribute) for each in options(DiskConfig, Source.CONTROL)}
    return {
        each.name: each.kind.plain(value) for each, value in values.items() if value is not None
    }


async def query_connections(disks: DiskSet, which: Which) -> Answer:
    """Return the front-ends being served."""
    return [
        {
            "id": disk.id,
            "connection": served.number,
            "process": served.process,
            "device": disk.device.profile.kind,
            "state": served.session.connection.state.name.lower(),
            "status": served.session.state.status,
            "requests": served.requests,
            "backend-channel": served.session.state.backend_channel,
        }
        for disk, served in _served(disks, which)
    ]


async def query_features(disks: DiskSet, which: Which) -> Answer:
    """Return what each disk offers and what its front-end accepted, by name."""
    return [_features(disk) for disk in _chosen(disks, which)]


def _features(disk: Disk) -> Mapping[str, object]:
    profile = disk.device.profile
    offered = {
        "virtio": _names(profile.features, VirtioFeatures, BlkFeatures),
        "protocol": _names(profile.protocol_features),
    }
    negotiated = None
    if disk.server.connection is not None:
        state = disk.server.connection.session.state
        negotiated = {
            "connection": disk.server.connection.number,
            "virtio": _names(state.features, VirtioFeatures, BlkFeatures),
            "protocol": _names(state.protocol_features),
        }
    return {"id": disk.id, "offered": offered, "negotiated": negotiated}


async def query_rings(disks: DiskSet, which: Which) -> Answer:
    """Return every ring: its set-up, what the engine does with it, its counters."""
    return [ring for disk in _chosen(disks, which) for ring in _rings(disk)]


def _rings(disk: Disk) -> Iterator[dict[str, object]]:
    connection = disk.server.connection
    vrings = connection.session.state.vrings if connection else ()
    for index, statistics in enumerate(disk.device.datapath.statistics()):
        counters = dataclasses.asdict(statistics)
        counters["actual"] = statistics.actual.value
        counters["fault"] = None if statistics.fault is None else statistics.fault.name
        ring: dict[str, object] = {"id": disk.id, "ring": index}
        if vrings:
            vring = vrings[index]
            ring |= {"size": vring.num, "enabled": vring.enabled, "started": vring.started}
            areas = connection.areas if connection else None
            ring["area"] = areas.states[index].value if areas else None
        yield ring | {name.replace("_", "-"): value for name, value in counters.items()}


async def query_memory(disks: DiskSet, which: Which) -> Answer:
    """Return the memory table of each front-end."""
    answer = []
    for disk, served in _served(disks, which):
        snapshot = served.carrier.memory.snapshot
        regions = [
            {"gpa": region.gpa, "uva": region.uva, "size": region.size, "offset": region.offset}
            for region in snapshot.regions
        ]
        answer.append(
            {
                "id": disk.id,
                "connection": served.number,
                "snapshot": snapshot.number,
                "pins": snapshot.pins,
                "regions": regions,
            }
        )
    return answer


async def disk_add(disks: DiskSet, config: DiskConfig) -> Answer:
    """Serve one more disk."""
    disk = await disks.add(config)
    return {"id": disk.id, "size": disk.size}


async def disk_remove(disks: DiskSet, which: Remove) -> Answer:
    """End a disk."""
    await disks.remove(which.id)
    return {}


async def block_resize(disks: DiskSet, resize: Resize) -> Answer:
    """Give a disk another size."""
    disk, size = await disks.resize(resize.id, resize.size)
    return {"id": disk.id, "size": size}


def _names(features: enum.IntFlag, *kinds: type[enum.IntFlag]) -> list[str]:
    """Name every bit, by the first of `kinds` (or the value's own) that has a name for it."""
    names = []
    for bit in range(int(features).bit_length()):
        if int(features) >> bit & 1:
            found = [kind(1 << bit).name for kind in kinds or (type(features),)]
            names.append(next((name for name in found if name), f"bit{bit}"))
    return names


COMMANDS: dict[str, CommandRow] = {
    "query-commands": CommandRow(
        run=query_commands, arguments=Nothing, returns="the names of all commands"
    ),
    "query-version": CommandRow(
        run=query_version, arguments=Nothing, returns="this program's version"
    ),
    "query-disks": CommandRow(
        run=query_disks,
        arguments=Which,
        returns="each disk: id, size in bytes, the connection that it is served to (null: none), "
        "how its requests wait for the image, and its options as `disk-add` takes them",
    ),
    "query-connections": CommandRow(
        run=query_connections,
        arguments=Which,
        returns="front-ends being served: disk, number, process id, device, state, device status, "
        "requests so far",
    ),
    "query-features": CommandRow(
        run=query_features,
        arguments=Which,
        returns="virtio and protocol features by name: what each disk offers, and what its "
        "front-end accepted (null: there is none)",
    ),
    "query-rings": CommandRow(
        run=query_rings,
        arguments=Which,
        returns="each ring: disk, size, enabled, started, how far the offer of its notify area has "
        "come, what is done with it (`stopped`, `running`, `stopping`, `broken`), the rule it "
        "broke, and counters: requests, errors, bytes, kicks that this process saw, stores found "
        "in a page of its own, calls, calls suppressed, waits for the image; whether requests are "
        "counted (an accelerator's are not)",
    ),
    "query-memory": CommandRow(
        run=query_memory,
        arguments=Which,
        returns="the memory table of each connection: regions, number of the snapshot, pins",
    ),
    "disk-add": CommandRow(
        run=disk_add,
        arguments=DiskConfig,
        returns="id and size in bytes of the disk, once front-ends can connect to it",
    ),
    "disk-remove": CommandRow(
        run=disk_remove,
        arguments=Remove,
        returns="nothing, once its front-end was left, its socket removed and its image closed",
    ),
    "block-resize": CommandRow(
        run=block_resize,
        arguments=Resize,
        returns="id and size in bytes that the disk has now; a running guest is told",
    ),
}
"""All commands but `qmp_capabilities` and `quit`, which are the connection's own."""


async def execute(disks: DiskSet, name: str, arguments: Mapping[str, object]) -> Answer:
    """Run a command.

    Raises:
        CommandError: there is no such command, it takes no such argument, or it failed.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError(
            f"the command {shown(name)[1:-1]} has not been found; query-commands lists all",
            kind="CommandNotFound",
        )
    made, problems = read(command.arguments, arguments, Source.CONTROL)
    if problems:
        raise CommandError("; ".join(map(str, problems)))
    try:
        return await command.run(disks, made)
    except UsageError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from error
