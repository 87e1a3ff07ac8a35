"""One run of a network row: frames through a switch, by DPDK's virtio_user or by our own rings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .conversation import Conversation
from .errors import RunFailedError
from .model import run_of
from .net_serve import EAL, busy_ns, net_serving
from .row import Client

if TYPE_CHECKING:
    from .model import Bench, Run
    from .net_row import NetLoad
    from .row import Contestant, Load
    from .serve import Served

__all__ = ["measure_net", "net_client_command"]

_WARM_SECONDS = 0.2
_RING = 1024


def _virtio_user(bench: Bench, load: Load, net: NetLoad, served: Served) -> list[str]:
    place = bench.place
    ring = f"queues=1,queue_size={_RING},packed_vq={int(load.packed)},mrg_rxbuf=1,in_order=0"
    ports = [f"net_virtio_user{i},path={path},{ring}" for i, path in enumerate(served.sockets)]
    return [
        str(bench.programs.net_load),
        *("--lcores", f"0@{place.client_cpu}", *EAL),
        *(word for port in ports for word in ("--vdev", port)),
        *("--", net.traffic.value, str(net.size), str(_WARM_SECONDS), str(bench.seconds_of(load))),
    ]


def net_client_command(bench: Bench, load: Load, served: Served) -> list[str]:
    """Return the command of the load generator that puts `load` on a switch."""
    net = load.net
    assert net is not None
    if load.client is Client.VIRTIO_USER:
        return _virtio_user(bench, load, net, served)
    command = [*bench.place.pinned(bench.place.client_cpu), str(bench.programs.net_ring_load)]
    command += [net.traffic.value, str(net.size)]
    command += ["--ports", str(net.ports), "--pairs", str(net.pairs), "--shape", net.shape.value]
    command += ["--warm", str(_WARM_SECONDS), "--seconds", str(bench.seconds_of(load))]
    command += ["--buffer", str(net.buffer), "--segment", str(net.segment)]
    command += ["--pace", str(net.pace)]
    command += ["--packed"] if load.packed else []
    command += [] if load.poll else ["--sleep"]
    return [*command, *map(str, served.sockets)]


def measure_net(bench: Bench, contestant: Contestant) -> Run:
    """Measure one contestant of a network row once.

    Raises:
        RunFailedError: the switch or the client failed, or no frame arrived.
        BenchError: the machine's state cannot be told.
    """
    load = contestant.load
    assert load.net is not None
    with net_serving(bench, contestant) as served:
        command = net_client_command(bench, load, served)
        log = served.sockets[0].with_name("client.log")
        with Conversation.with_program(command, log=log) as client:
            client.hear()
            before = bench.gate.before()
            cpu, start = served.cpu_seconds(), time.monotonic()
            client.go_on()
            figures = client.hear()
            used, elapsed = served.cpu_seconds() - cpu, time.monotonic() - start
            after = bench.gate.probe()
            if figures["errors"] or not figures["rate"] > 0:
                raise RunFailedError(f"frames were lost or wrong, or none came: {figures}")
            client.leave()
        counters = busy_ns(contestant, served) if load.net.counted else {}
    share = round(used / elapsed, 3)
    return run_of(contestant, figures, share, (before, after), counters)
