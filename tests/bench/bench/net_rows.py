"""Rows about the switch: DPDK's virtio_user drives it, and DPDK's vhost is the peer. Data only.

The peer forwards from each port to the next, without a table of addresses; a frame is copied twice
there. The ideal switch gives descriptors back and touches no frame: what the client can reach.
"""

from __future__ import annotations

from dataclasses import replace

from .net_ring_rows import NET_RING_ROWS
from .net_row import NetLoad, Traffic
from .row import Backend, Bar, Client, Contestant, Load, Metric, Row

__all__ = ["NET_ROWS"]

_TITLES = {
    Traffic.SINK: "sink",
    Traffic.SOURCE: "source",
    Traffic.ONE_WAY: "guest to guest",
    Traffic.BOTH_WAYS: "guest to guest, both ways",
    Traffic.ROUND_TRIP: "round trip",
}
_SMALL = 64
_LARGE = 1518


def _titled(net: NetLoad, *, packed: bool) -> str:
    ports = f" on {net.ports} port{'s' if net.ports > 1 else ''}"
    where = ports if net.traffic is Traffic.ROUND_TRIP else ""
    return f"{_TITLES[net.traffic]}{where}, {net.size} B, {'packed' if packed else 'split'}"


def _contestants(net: NetLoad, *, packed: bool, ideal: bool = True) -> tuple[Contestant, ...]:
    load = Load(client=Client.VIRTIO_USER, packed=packed, net=net)
    who = {"ours": Backend.OURS, "peer": Backend.DPDK}
    who |= {"ideal": Backend.IDEAL} if ideal else {}
    return tuple(Contestant(name=name, backend=backend, load=load) for name, backend in who.items())


def _rate_rows() -> list[Row]:
    """A bar of a pair is for split rings, then for packed ones."""
    promised = {
        (Traffic.SINK, _SMALL): 1.0,
        (Traffic.SOURCE, _SMALL): 1.5,
        (Traffic.ONE_WAY, _SMALL): 1.0,
        (Traffic.ONE_WAY, _LARGE): 1.9,
        (Traffic.BOTH_WAYS, _SMALL): 1.0,
        (Traffic.BOTH_WAYS, _LARGE): 1.8,
    }
    rows = []
    for traffic in (Traffic.SINK, Traffic.SOURCE, Traffic.ONE_WAY, Traffic.BOTH_WAYS):
        ports = 2 if traffic in {Traffic.ONE_WAY, Traffic.BOTH_WAYS} else 1
        for size in (_SMALL, _LARGE):
            for packed in (False, True):
                net = NetLoad(traffic=traffic, size=size, ports=ports)
                least = promised.get((traffic, size))
                bars = [] if least is None else [Bar(least=least)]
                if ports == 2 and size == _SMALL:
                    bars.append(Bar(over=("ideal",), least=0.95))
                rows.append(
                    Row(
                        name=f"net-{traffic.value}-{size}-{'packed' if packed else 'split'}",
                        group="net",
                        title=_titled(net, packed=packed),
                        contestants=_contestants(net, packed=packed),
                        bars=tuple(bars),
                    )
                )
    return rows


def _round_trip_rows() -> list[Row]:
    rows = []
    for ports in (1, 2):
        for packed, most in ((False, 0.9), (True, 0.65)):
            net = NetLoad(traffic=Traffic.ROUND_TRIP, size=_SMALL, ports=ports)
            rows.append(
                Row(
                    name=f"net-round-trip-{ports}-{'packed' if packed else 'split'}",
                    group="net-round-trip",
                    title=_titled(net, packed=packed),
                    contestants=_contestants(net, packed=packed),
                    bars=(Bar(most=most, metric=Metric.P50),),
                    metric=Metric.P50,
                )
            )
    return rows


def _busy_rows() -> list[Row]:
    """Measuring the time costs some of it: these are other runs than those of rates."""
    rows = []
    for traffic in (Traffic.ONE_WAY, Traffic.BOTH_WAYS):
        for size in (_SMALL, _LARGE):
            for packed, most in ((False, 0.45), (True, 0.65)):
                net = NetLoad(traffic=traffic, size=size, counted=True)
                rows.append(
                    Row(
                        name=f"net-busy-{traffic.value}-{size}-{'packed' if packed else 'split'}",
                        group="net-busy",
                        title=_titled(replace(net, counted=False), packed=packed),
                        contestants=_contestants(net, packed=packed, ideal=False),
                        bars=(Bar(most=most, metric=Metric.BUSY),) if size == _SMALL else (),
                        metric=Metric.BUSY,
                    )
                )
    return rows


NET_ROWS: tuple[Row, ...] = (
    *_rate_rows(),
    *_round_trip_rows(),
    *_busy_rows(),
    *NET_RING_ROWS,
)
"""In the order in which they are measured and published."""
