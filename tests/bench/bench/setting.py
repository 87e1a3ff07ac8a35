"""What every command of the benchmarks needs first: programs, images, the gate."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from parts.huge_pages import huge_pages

from .errors import BenchError
from .gate import Gate
from .images import make_image, read_through
from .model import Bench
from .net_serve import MEMORY_MIB, needs_dpdk
from .row import Store
from .rows import ROWS
from .serve import Ours, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .programs import Programs
    from .row import Row

__all__ = ["DISK_FOLDER", "rows_named", "say", "set_up", "warm_image"]

DISK_FOLDER = Path("/var/tmp")  # noqa: S108 - a folder of our own is made in it
"""Where images of a disk lie unless another folder is named: seldom in memory."""


def say(text: str) -> None:
    """Tell people."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def rows_named(names: Sequence[str]) -> list[Row]:
    """Return the rows that are named by name, group or the beginning of a name.

    Raises:
        BenchError: there is no such row.
    """
    rows: list[Row] = []
    for name in names:
        found = [row for row in ROWS if name in (row.name, row.group)] or [
            row for row in ROWS if row.name.startswith(name)
        ]
        if not found:
            groups = ", ".join(dict.fromkeys(row.group for row in ROWS))
            raise BenchError(f"there is no row {name}; groups: {groups}")
        rows += [row for row in found if row not in rows]
    return rows


@contextmanager
def set_up(
    programs: Programs, rows: Sequence[Row], *, disk: Path, wait: bool, fifo: bool = False
) -> Iterator[Bench]:
    """Make the images that the rows need, and remove them at the end of the block.

    Args:
        programs: who takes part.
        rows: what will be measured.
        disk: folder for images on a disk.
        wait: whether the gate waits a while for the near state.
        fifo: whether both sides run before all else.

    Raises:
        BenchError: `disk` lies in memory, there is one processor only, or who takes part cannot
            run before all else.
        UnobtainableError: there are no huge pages to be had, and DPDK takes part.
    """
    stores = {each.load.store for row in rows for each in row.contestants}
    by_dpdk = any(needs_dpdk(each) for row in rows for each in row.contestants)
    if by_dpdk and fifo:
        raise BenchError("DPDK hangs where it runs before all else: leave --fifo out")
    with (
        huge_pages(MEMORY_MIB) if by_dpdk else nullcontext(),
        tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as shm,
        tempfile.TemporaryDirectory(prefix="bench-", dir=disk) as folder,
    ):
        place = Place(shm=Path(shm), disk=Path(folder), fifo=fifo)
        if Store.SHM in stores:
            make_image(place.shm / "image")
        if stores & {Store.CACHED, Store.DIRECT}:
            make_image(place.disk / "image", real_disk=True)
        cpus = (place.back_end_cpu, place.client_cpu)
        gate = Gate(programs.pingpong, cpus, wait=wait, fifo=fifo)
        yield Bench(programs=programs, ours=Ours(), place=place, gate=gate)


def warm_image(bench: Bench, row: Row) -> Path | None:
    """Bring the image of a row, if it has one, into the state in which it is measured."""
    store = row.contestants[0].load.store
    image = bench.place.image(store)
    if image is not None and store is Store.CACHED:
        read_through(image)
    return image
