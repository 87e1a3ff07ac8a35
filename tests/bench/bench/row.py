"""What a row is made of: a workload, who takes part, and what is promised. Data only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .net_row import NetLoad

__all__ = ["Backend", "Bar", "Client", "Contestant", "Load", "Metric", "Row", "Store"]


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
    DPDK = "DPDK's testpmd with net_vhost"


class Client(enum.Enum):
    """Which load generator."""

    LIBBLKIO = "blk_load"
    RING = "ring_load"
    C = "echo_load"
    BLOCKING = "blocking"
    TRIO = "trio"
    VIRTIO_USER = "net_load"
    NET_RING = "net_ring_load"


class Metric(enum.Enum):
    """Which figure of a run; the value is its name in what load generators or back-ends say."""

    RATE = "rate"
    P50 = "p50_us"
    BUSY = "busy ns"


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
        net: what a client for networks does, who has frames instead of a disk's requests.
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
    net: NetLoad | None = None


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
        each: of a latency: what each of so many more things adds to it, in nanoseconds, instead of
            the ratio; 0: the ratio.
    """

    of: str = "ours"
    over: tuple[str, ...] = ("peer",)
    least: float | None = None
    most: float | None = None
    metric: Metric = Metric.RATE
    cost: bool = False
    each: int = 0


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
