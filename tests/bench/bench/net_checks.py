"""What a switch costs while nobody sends anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .check import Check
from .conversation import Conversation
from .net_measure import net_client_command
from .net_row import NetLoad, Traffic
from .net_serve import net_serving
from .process import busy_percent
from .row import Backend, Client, Contestant, Load

if TYPE_CHECKING:
    from .model import Bench

__all__ = ["NET_CHECKS"]

_PORTS = 16
_SETTLE_SECONDS = 0.5
_TIMES = 3


def _idle_switch(bench: Bench) -> list[float]:
    """Let guests that were busy stay connected and send nothing."""
    net = NetLoad(traffic=Traffic.BOTH_WAYS, ports=_PORTS)
    load = Load(client=Client.NET_RING, net=net)
    contestant = Contestant(name="ours", backend=Backend.OURS, load=load)
    with net_serving(bench, contestant) as served:
        command = net_client_command(bench, load, served)
        log = served.sockets[0].with_name("client.log")
        with Conversation.with_program(command, log=log) as client:
            client.hear()
            client.go_on()
            client.hear()
            time.sleep(_SETTLE_SECONDS)
            values = [busy_percent(served.pid) for _ in range(_TIMES)]
            client.leave()
    return values


NET_CHECKS: tuple[Check, ...] = (
    Check(
        name="net-idle",
        title=f"processor time of a switch while guests on {_PORTS} ports are idle after a load",
        unit="% of a core",
        most=1.0,
        values=_idle_switch,
        group="switch",
    ),
)
"""In the order in which they are measured and published."""
