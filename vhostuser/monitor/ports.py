"""What the control socket of `vhostuser net` can do: add and remove ports, pull their cables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.devices import NET_DROPS
from vhostuser.monitor.common import COMMON, Which, chosen, plain_config
from vhostuser.monitor.table import CommandRow, Nothing, Remove, command_table
from vhostuser.options import Flag, Mac, OptionTable, Source, option
from vhostuser.serving import ID
from vhostuser.switch import PortConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhostuser.devices import NetCounters
    from vhostuser.monitor.table import Answer
    from vhostuser.switch import Port, PortSet

__all__ = ["OF_PORTS", "PORT_COMMANDS"]

_REQUIRED = frozenset({Source.CONTROL})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink(OptionTable):
    """Which port, and how its link shall be."""

    id: str = option(ID, "which port", required=_REQUIRED)
    up: bool = option(
        Flag(), "true: plug the cable in, false: pull it", default=False, required=_REQUIRED
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce(OptionTable):
    """Which port, and which address."""

    id: str = option(ID, "which port", required=_REQUIRED)
    mac: bytes | None = option(
        Mac(),
        "which address lives there (without: the port's mac, or the only one that was learned "
        "there)",
    )


async def query_ports(ports: PortSet, which: Which) -> Answer:
    """Return every port: where it leads, and what went through it."""
    return [_port(port) for port in chosen(ports, which)]


def _port(port: Port) -> dict[str, object]:
    connection = port.server.connection if port.server is not None else None
    return {
        "id": port.id,
        "number": port.port.number,
        "link": port.port.link_up,
        "mac": port.mac.hex(":"),
        "tap": port.tap.name if port.tap is not None else None,
        "connection": connection.number if connection is not None else None,
        "pairs": port.port.pairs,
        "pairs-used": port.port.state().pairs if port.tap is None else port.port.pairs,
        "rings": list(_rings(port)),
        "config": plain_config(port.config),
    }


def _rings(port: Port) -> Iterator[dict[str, object]]:
    statistics = port.device.datapath.statistics() if port.device is not None else ()
    for index, counters in enumerate(port.port.counters()):
        ring: dict[str, object] = {"ring": index, "direction": ("receive", "send")[index % 2]}
        ring |= _counted(counters)
        if index < len(statistics):
            status = statistics[index]
            ring |= {
                "kicks": status.kicks,
                "calls": status.calls,
                "calls-suppressed": status.calls_suppressed,
            }
        yield ring


def _counted(counters: NetCounters) -> dict[str, object]:
    drops = {name.replace("_", "-"): count for name, count in counters.drops.items() if count}
    return {
        "frames": counters.frames,
        "bytes": counters.bytes,
        "segments": counters.segments,
        "drops": drops,
    }


async def query_addresses(ports: PortSet, _arguments: Nothing) -> Answer:
    """Return the addresses that the switch knows."""
    answer = []
    for address in ports.switch.addresses():
        port = ports.by_number(address.port)
        if port is not None:  # else it has just gone
            entry = {"mac": address.mac.hex(":"), "id": port.id, "age": address.age_s}
            answer.append(entry)
    return sorted(answer, key=lambda entry: str(entry["mac"]))


async def port_add(ports: PortSet, config: PortConfig) -> Answer:
    """Serve one more port."""
    port = await ports.add(config)
    return {"id": port.id, **port.facts}


async def port_remove(ports: PortSet, which: Remove) -> Answer:
    """End a port."""
    await ports.remove(which.id)
    return {}


async def port_set_link(ports: PortSet, link: SetLink) -> Answer:
    """Plug a port's cable in, or pull it."""
    await ports.set_link(link.id, up=link.up)
    return {}


async def port_announce(ports: PortSet, announce: Announce) -> Answer:
    """Have the others learn where an address lives."""
    ports.find(announce.id).announce(announce.mac)
    return {}


_DROPS = ", ".join(f"`{name.replace('_', '-')}`" for name in NET_DROPS)

OF_PORTS: dict[str, CommandRow] = {
    "query-ports": CommandRow(
        run=query_ports,
        arguments=Which,
        returns="each port: id, its number in the switch, link (true: up), the address of the "
        "guest's device (QEMU's mac= is not known here, see `query-addresses`) or of the host at "
        "its TAP, name of the TAP (null: none), the connection "
        "that it is served to (null: none), pairs of queues that there are and that the driver "
        "uses, its options as `port-add` takes them, and of each ring its direction (the guest's "
        "view), frames, bytes, segments that were cut out of larger frames here, frames dropped "
        f"by reason ({_DROPS}), and, of a guest's, kicks, calls and calls suppressed",
    ),
    "query-addresses": CommandRow(
        run=query_addresses,
        arguments=Nothing,
        returns="each address that was learned: mac, id of its port, age in seconds since it was "
        "last heard of",
    ),
    "port-add": CommandRow(
        run=port_add,
        arguments=PortConfig,
        returns="id and number of the port, once front-ends can connect to it",
    ),
    "port-remove": CommandRow(
        run=port_remove,
        arguments=Remove,
        returns="nothing, once its front-end was left and its socket or TAP removed",
    ),
    "port-set-link": CommandRow(
        run=port_set_link,
        arguments=SetLink,
        returns="nothing; frames pass no longer, or again, and the host sees its link go "
        "down or up. So does a guest, but not one of QEMU's: QEMU has a `set_link` of its own",
    ),
    "port-announce": CommandRow(
        run=port_announce,
        arguments=Announce,
        returns="nothing; the other ports learn by a broadcast (RARP, or what the guest itself "
        "announces) that the address is there",
    ),
}
"""What only a switch can do."""

PORT_COMMANDS = command_table(COMMON, OF_PORTS)
"""All commands of a switch."""
