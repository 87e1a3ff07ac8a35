"""Where a ring's three areas are, in whichever addresses are needed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError
from vhostuser.native import lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.vhost_user import Uva
    from vhostuser.datapath.interface import RingStart
    from vhostuser.memory import Snapshot

__all__ = ["find_areas", "require_areas"]

_AREAS = ("desc", "driver", "device")
_SHARE = "share the guest's memory (QEMU: a memory-backend with share=on)"


def _sizes(start: RingStart) -> list[tuple[Uva, int]]:
    """Address and size of each area."""
    features = int(start.features)
    return [
        (getattr(start, name), int(lib.vhu_ring_area_size(features, start.num, area)))
        for area, name in enumerate(_AREAS)
    ]


def find_areas(
    start: RingStart, translate: Callable[[Uva, int], int | None]
) -> tuple[int, ...] | None:
    """Translate the areas; None unless all of each lies in one region.

    Args:
        start: the ring.
        translate: takes a front-end address and a length, as those of `Snapshot`.
    """
    found = [translate(address, size) for address, size in _sizes(start)]
    known = tuple(place for place in found if place is not None)
    return known if len(known) == len(found) else None


def require_areas(
    start: RingStart,
    snapshot: Snapshot | None,
    translate: Callable[[Snapshot, Uva, int], int | None],
) -> tuple[int, ...]:
    """As `find_areas`, of the table in use; None: there was none yet.

    Raises:
        RequestError: an area does not lie inside guest memory.
    """
    places = []
    for name, (address, size) in zip(_AREAS, _sizes(start), strict=True):
        place = None if snapshot is None else translate(snapshot, address, size)
        if place is None:
            rule = f"its {size} bytes lie inside one region of the memory table"
            if snapshot is None or not snapshot.regions:
                rule += f", which is empty: {_SHARE}"
            del snapshot  # or the error's traceback would keep guest memory mapped
            raise RequestError(errno.EFAULT, rule, field=name, value=f"{address:#x}")
        places.append(place)
    return tuple(places)
