"""Rows about the switch that virtio_user cannot drive: our own rings do. Data only."""

from __future__ import annotations

from dataclasses import replace

from .net_row import NetLoad, Shape, Traffic
from .row import Backend, Bar, Client, Contestant, Load, Metric, Row

__all__ = ["NET_RING_ROWS"]

_LARGE = 1518
_LARGEST = 65535 - 20
"""Bytes of a TCP segment that a network card would cut, with its headers."""


def _ours(name: str, net: NetLoad, *, packed: bool = False, poll: bool = True) -> Contestant:
    load = Load(client=Client.NET_RING, packed=packed, poll=poll, net=net)
    return Contestant(name=name, backend=Backend.OURS, load=load)


def _layout(*, packed: bool) -> str:
    return "packed" if packed else "split"


def _shape_rows() -> list[Row]:
    """A Linux guest's driver chains header and frame, or has indirect descriptors."""
    rows = []
    for size in (64, _LARGE):
        net = NetLoad(traffic=Traffic.ONE_WAY, size=size, counted=True)
        rows.append(
            Row(
                name=f"net-shapes-{size}",
                group="net-rings",
                title=f"guest to guest, {size} B, other client",
                contestants=tuple(
                    _ours(
                        f"{_layout(packed=packed)}, {shape.value}",
                        replace(net, shape=shape),
                        packed=packed,
                    )
                    for packed in (False, True)
                    for shape in Shape
                ),
                metric=Metric.BUSY,
            )
        )
    return rows


def _buffers_row() -> Row:
    net = NetLoad(traffic=Traffic.ONE_WAY, size=_LARGE, counted=True)
    return Row(
        name="net-buffers",
        group="net-rings",
        title=f"guest to guest, {_LARGE} B, into several receive buffers",
        contestants=tuple(
            _ours(
                f"{_layout(packed=packed)}, {count}",
                replace(net, buffer=size),
                packed=packed,
            )
            for packed in (False, True)
            for count, size in (("1 buffer", 0), ("3 buffers", 512), ("6 buffers", 256))
        ),
        metric=Metric.BUSY,
    )


def _large_row() -> Row:
    """TCP as Linux sends it: 64 KiB at once, into buffers of a page each."""
    net = NetLoad(traffic=Traffic.ONE_WAY, size=_LARGEST, segment=1448, buffer=4096, counted=True)
    return Row(
        name="net-large",
        group="net-rings",
        title="guest to guest, TCP of 64 KiB to be segmented, into buffers of 4 KiB",
        contestants=(
            _ours("split", replace(net, shape=Shape.INDIRECT)),
            _ours("packed", replace(net, shape=Shape.INDIRECT), packed=True),
        ),
        metric=Metric.BUSY,
    )


def _queues_rows() -> list[Row]:
    """The second worker has the same processor: the client has the other one."""
    net = NetLoad(traffic=Traffic.ONE_WAY, counted=True)
    eight = replace(net, pairs=4)
    return [
        Row(
            name="net-queues",
            group="net-rings",
            title="guest to guest, 64 B, busy queues on one worker",
            contestants=(
                _ours("1 pair", net),
                _ours("4 pairs", eight),
                _ours("8 pairs", replace(net, pairs=8)),
                _ours("4 pairs, packed", eight, packed=True),
            ),
            metric=Metric.BUSY,
        ),
        Row(
            name="net-workers",
            group="net-rings",
            title="guest to guest, 64 B, 4 queue pairs, workers that share a processor",
            contestants=(
                _ours("1 worker", replace(eight, counted=False)),
                _ours("2 workers", replace(eight, counted=False, workers=2)),
            ),
        ),
    ]


def _ports_row() -> Row:
    net = NetLoad(traffic=Traffic.BOTH_WAYS, counted=True)
    many = replace(net, ports=16)
    bars = (
        Bar(of="16 ports", over=("2 ports",), most=1.2, metric=Metric.BUSY),
        Bar(of="16 ports, packed", over=("2 ports, packed",), most=1.2, metric=Metric.BUSY),
    )
    return Row(
        name="net-ports",
        group="net-rings",
        title="guests to guests, both ways, 64 B, all ports busy",
        contestants=(
            _ours("2 ports", net),
            _ours("16 ports", many),
            _ours("2 ports, packed", net, packed=True),
            _ours("16 ports, packed", many, packed=True),
        ),
        bars=bars,
        metric=Metric.BUSY,
    )


def _idle_rows() -> list[Row]:
    """A port that is idle has one ring that is looked at: the one that it sends by."""
    rows = []
    for packed in (False, True):
        net = NetLoad(traffic=Traffic.ROUND_TRIP)
        names = {count: f"{count} idle ports" if count else "none idle" for count in (0, 14, 62)}
        rows.append(
            Row(
                name=f"net-idle-ports-{_layout(packed=packed)}",
                group="net-round-trip",
                title=f"round trip on 2 ports beside idle ones, 64 B, {_layout(packed=packed)}",
                contestants=tuple(
                    _ours(name, replace(net, idle=count), packed=packed)
                    for count, name in names.items()
                ),
                bars=(Bar(of=names[62], over=(names[0],), most=2.5, metric=Metric.P50, each=62),),
                metric=Metric.P50,
            )
        )
    return rows


def _paced_rows() -> list[Row]:
    """What adaptive polling costs and saves where frames come at leisure and everybody sleeps."""
    rows = []
    for pace in (1_000, 10_000, 100_000):
        net = NetLoad(traffic=Traffic.ROUND_TRIP, pace=pace)
        rows.append(
            Row(
                name=f"net-paced-{pace}",
                group="net-polling",
                title=f"round trip on 2 ports, 64 B, {pace} a second, client that sleeps",
                contestants=(
                    _ours("adaptive", net, poll=False),
                    _ours("never polls", replace(net, options=("--poll-us", "0")), poll=False),
                    _ours("always polls", replace(net, options=("--busy-poll",)), poll=False),
                ),
                metric=Metric.P50,
                gated=False,
            )
        )
    return rows


NET_RING_ROWS: tuple[Row, ...] = (
    *_shape_rows(),
    _buffers_row(),
    _large_row(),
    *_queues_rows(),
    _ports_row(),
    *_idle_rows(),
    *_paced_rows(),
)
"""In the order in which they are measured and published."""
