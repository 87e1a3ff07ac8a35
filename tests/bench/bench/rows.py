"""What is measured, and what is promised of it: data, no code that measures.

A row is one workload. Its contestants run it in turns, each time from a fresh start, and its bars
compare the medians of two of them or hold one against a fixed value.
"""

from __future__ import annotations

from dataclasses import replace

from .accelerated_rows import ACCELERATED_ROWS
from .net_rows import NET_ROWS
from .row import Backend, Bar, Client, Contestant, Load, Metric, Row, Store

__all__ = ["ROWS"]


def _ours(load: Load) -> Contestant:
    return Contestant(name="ours", backend=Backend.OURS, load=load)


def _peer(load: Load) -> Contestant:
    return Contestant(name="peer", backend=Backend.PEER, load=load)


def _peer_native(load: Load) -> Contestant:
    return Contestant(name="peer, native", backend=Backend.PEER, load=load, aio="native")


def _ideal(load: Load) -> Contestant:
    return Contestant(name="ideal", backend=Backend.IDEAL, load=load)


def _raw(load: Load) -> Contestant:
    return Contestant(name="raw", backend=Backend.RAW, load=load)


def _raw_busy(load: Load) -> Contestant:
    return Contestant(name="raw, busy", backend=Backend.RAW, load=load, busy=True)


def _null_rows() -> list[Row]:
    rows = []
    for depth, ratio in ((1, 4.0), (32, 5.0), (128, 5.0)):
        load = Load(depth=depth)
        rows.append(
            Row(
                name=f"null-read-qd{depth}",
                group="null",
                title=f"null store, read, QD{depth}",
                contestants=(_ours(load), _peer(load), _ideal(load)),
                bars=(Bar(least=ratio), Bar(over=("ideal",), least=0.6)),
            )
        )
    return rows


def _file_rows(store: Store, group: str, bars: dict[tuple[bool, int], float]) -> list[Row]:
    rows = []
    for write in (False, True):
        for depth in (1, 32, 128):
            if store is Store.CACHED and depth == 128:
                continue
            load = Load(store=store, write=write, depth=depth)
            least = bars.get((write, depth))
            kind = "write" if write else "read"
            rows.append(
                Row(
                    name=f"{group}-{kind}-qd{depth}",
                    group=group,
                    title=f"{store.value}, {kind}, QD{depth}",
                    contestants=(_ours(load), _peer(load)),
                    bars=() if least is None else (Bar(least=least),),
                )
            )
    return rows


def _direct_rows() -> list[Row]:
    rows = []
    for write in (False, True):
        for depth in (1, 32):
            load = Load(store=Store.DIRECT, write=write, depth=depth, seconds=1.0)
            kind = "write" if write else "read"
            rows.append(
                Row(
                    name=f"direct-{kind}-qd{depth}",
                    group="direct",
                    title=f"{Store.DIRECT.value}, {kind}, QD{depth}",
                    contestants=(
                        _ours(load),
                        _peer(load),
                        _peer_native(load),
                        _raw(load),
                        _raw_busy(load),
                    ),
                    bars=(
                        Bar(over=("peer", "peer, native"), least=1.0),
                        Bar(over=("raw",), least=0.95),
                    ),
                    gated=False,
                )
            )
    return rows


def _sleeping_row() -> Row:
    load = Load(poll=False)
    return Row(
        name="sleep-null-qd1",
        group="sleep",
        title="null store, read, QD1, client that sleeps",
        contestants=(_ours(load), _peer(load), _ideal(load)),
        bars=(Bar(over=(), most=2.0, metric=Metric.P50),),
        metric=Metric.P50,
    )


def _region_rows() -> list[Row]:
    rows = []
    for depth in (32, 128):
        load = Load(depth=depth)
        contestants = [
            Contestant(
                name=f"{count} region{'s' if count > 1 else ''}",
                backend=Backend.OURS,
                load=replace(load, regions=count),
            )
            for count in (1, 8, 64)
        ]
        rows.append(
            Row(
                name=f"regions-qd{depth}",
                group="regions",
                title=f"null store, read, QD{depth}, buffers in several regions",
                contestants=tuple(contestants),
                bars=(
                    Bar(of="8 regions", over=("1 region",), most=1.05, cost=True),
                    Bar(of="64 regions", over=("1 region",), most=1.25, cost=True),
                ),
            )
        )
    return rows


def _ring_rows() -> list[Row]:
    rows = []
    for depth in (1, 32):
        split = Load(depth=depth, client=Client.RING)
        packed = replace(split, packed=True)
        rows.append(
            Row(
                name=f"rings-qd{depth}",
                group="rings",
                title=f"null store, read, QD{depth}, other client",
                contestants=(
                    Contestant(name="split", backend=Backend.OURS, load=split),
                    Contestant(name="packed", backend=Backend.OURS, load=packed),
                    Contestant(
                        name="split, indirect",
                        backend=Backend.OURS,
                        load=replace(split, indirect=True),
                    ),
                    Contestant(
                        name="packed, indirect",
                        backend=Backend.OURS,
                        load=replace(packed, indirect=True),
                    ),
                    Contestant(name="ideal, split", backend=Backend.IDEAL, load=split),
                    Contestant(name="ideal, packed", backend=Backend.IDEAL, load=packed),
                    Contestant(name="peer, split", backend=Backend.PEER, load=split),
                ),
            )
        )
    return rows


def _disk_row() -> Row:
    load = Load(depth=32)
    eight = replace(load, served=8, disks=8)
    return Row(
        name="disks",
        group="disks",
        title="null store, read, QD32 on each disk",
        contestants=(
            Contestant(name="1 disk", backend=Backend.OURS, load=load),
            Contestant(name="1 of 8 disks", backend=Backend.OURS, load=replace(load, served=8)),
            Contestant(name="8 disks", backend=Backend.OURS, load=eight),
            Contestant(name="ideal, 1 disk", backend=Backend.IDEAL, load=load),
            Contestant(name="ideal, 8 disks", backend=Backend.IDEAL, load=eight),
        ),
        bars=(
            Bar(of="1 of 8 disks", over=("1 disk",), most=1.05, cost=True),
            Bar(of="8 disks", over=("1 disk",), most=1.05, cost=True),
        ),
    )


ROWS: tuple[Row, ...] = (
    *_null_rows(),
    *_file_rows(
        Store.SHM,
        "shm",
        {(False, 1): 5.0, (True, 1): 5.0, (False, 32): 3.3, (True, 32): 3.3},
    ),
    *_file_rows(Store.CACHED, "cached", {(False, 32): 2.0}),
    *_direct_rows(),
    _sleeping_row(),
    *_region_rows(),
    *_ring_rows(),
    _disk_row(),
    *ACCELERATED_ROWS,
    *NET_ROWS,
)
"""All rows, in the order in which they are measured and published."""
