"""What is measured, and what is promised of it: data, no code that measures.

A row is one workload. Its contestants run it in turns, each time from a fresh start, and its bars
compare the medians of two of them or hold one against a fixed value.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

__all__ = ["ROWS", "Backend", "Bar", "Client", "Contestant", "Load", "Metric", "Row", "Store"]


class Store(enum.Enum):
    """What the disk is made of."""

    NULL = "null"
    SHM = "file in /dev/shm"
    CACHED = "file on disk, in the page cache"
    DIRECT = "file on disk, O_DIRECT"


class Backend(enum.Enum):
    """Who serves."""

    OURS = "ours"
    PEER = "qemu-storage-daemon"
    IDEAL = "ideal"
    RAW = "fio on the file"
    PASSED = "vhostuser accel, doorbells handed over"
    RELAYED = "vhostuser accel, doorbells relayed"
    STRAIGHT = "the simulated device, without a back-end"
    DEVICE = "registers of the simulated device"
    ECHO = "echo in C"


class Client(enum.Enum):
    """Which load generator."""

    LIBBLKIO = "blk_load"
    RING = "ring_load"
    C = "echo_load"
    BLOCKING = "blocking"
    TRIO = "trio"


class Metric(enum.Enum):
    """Which figure of a run; the value is its name in the JSON of the load generators."""

    RATE = "rate"
    P50 = "p50_us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the client does.

    Attributes:
        store: what the disk is made of.
        write: random writes, else random reads.
        depth: requests in flight on each disk.
        client: which load generator.
        poll: whether the client polls for completions, else it sleeps until the call; a simulated
            device does the same, and sleeps until its doorbell is rung.
        regions: memory regions over which its buffers are spread.
        disks: disks of one process that are under load at the same time.
        served: disks that the process serves, at least as many.
        packed: packed rings instead of split ones.
        indirect: one indirect descriptor a request.
        seconds: measuring time of a run.
        least: requests of a run, however long they take; of hand-overs only.
        together: whether both ends have the back-end's processor; of round trips only.
    """

    store: Store = Store.NULL
    write: bool = False
    depth: int = 1
    client: Client = Client.LIBBLKIO
    poll: bool = True
    regions: int = 1
    disks: int = 1
    served: int = 1
    packed: bool = False
    indirect: bool = False
    seconds: float = 0.5
    least: int = 0
    together: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Who takes part in a row.

    Attributes:
        name: unique within the row.
        backend: who serves.
        load: what it is given; the row's own but for what is compared.
        aio: how the peer does its I/O; it has no say in the null store.
        busy: keep the client's processor busy where there is no client: disks interrupt it, too.
    """

    name: str
    backend: Backend
    load: Load
    aio: str = "io_uring"
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A promise about medians: `of` divided by `over`, or `of` alone.

    Attributes:
        of: name of a contestant.
        over: names of contestants, the best of which counts; empty: `of` is held against the limit.
        least: smallest value that keeps the promise, or None.
        most: largest value that keeps it, or None.
        metric: which figure.
        cost: compare time for each request (1 / rate) instead of the rate.
    """

    of: str = "ours"
    over: tuple[str, ...] = ("peer",)
    least: float | None = None
    most: float | None = None
    metric: Metric = Metric.RATE
    cost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One workload.

    Attributes:
        name: how one asks for it.
        group: several rows that belong together; one can ask for them, too.
        title: for people.
        contestants: in the order of their turns.
        bars: promises; none: the figures are published, that is all.
        gated: whether runs count only in one state of the machine; a disk is far slower than a
            cache line on its way, so that its rows need no gate.
        keep: runs of each contestant that are wanted; 0: the usual number.
    """

    name: str
    group: str
    title: str
    contestants: tuple[Contestant, ...]
    bars: tuple[Bar, ...] = ()
    gated: bool = True
    metric: Metric = field(default=Metric.RATE)
    keep: int = 0


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


def _hand_over_rows() -> list[Row]:
    """Runs differ by a few percent, and the bar is near: what is wanted is many of them."""
    rows = []
    for poll, depth, keep in ((True, 1, 7), (True, 32, 11), (False, 32, 9)):
        load = Load(depth=depth, poll=poll)
        contestants = [
            Contestant(name="passed", backend=Backend.PASSED, load=load),
            Contestant(name="straight", backend=Backend.STRAIGHT, load=load),
        ]
        if not poll:  # else there are hardly any kicks
            contestants.append(Contestant(name="relayed", backend=Backend.RELAYED, load=load))
        both = "driver and device poll" if poll else "both sleep"
        rows.append(
            Row(
                name=f"hand-over-{'poll' if poll else 'sleep'}-qd{depth}",
                group="hand-over",
                title=f"simulated null disk, read, QD{depth}, {both}",
                contestants=tuple(contestants),
                bars=(Bar(of="passed", over=("straight",), least=0.98),),
                gated=poll,
                keep=keep,
            )
        )
    return rows


def _round_trip_rows() -> list[Row]:
    """A bar holds the client alone: the other end is the same for both."""
    rows = []
    for together in (False, True):
        load = Load(poll=False, together=together)
        kinds = {"C": Client.C, "blocking client": Client.BLOCKING, "trio client": Client.TRIO}
        servers = {"C": Backend.ECHO, "our device": Backend.DEVICE}
        contestants = [
            Contestant(name=f"{client}, {server}", backend=backend, load=replace(load, client=kind))
            for server, backend in servers.items()
            for client, kind in kinds.items()
        ]
        where = "on one processor" if together else "on two processors"
        rows.append(
            Row(
                name=f"vfio-user-{'together' if together else 'apart'}",
                group="vfio-user",
                title=f"read 4 bytes of a register over vfio-user, {where}",
                contestants=tuple(contestants),
                bars=(Bar(of="blocking client, C", over=("C, C",), most=1.3, metric=Metric.P50),),
                gated=False,
                metric=Metric.P50,
            )
        )
    return rows


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
    *_hand_over_rows(),
    *_round_trip_rows(),
)
"""All rows, in the order in which they are measured and published."""
