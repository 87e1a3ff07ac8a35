"""Handlers of the memory table. Specification: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG.

What can be said of a region without its file is checked here, and what concerns the table as a
whole; the file itself is looked at where it is mapped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vhostuser.memory import MAX_SLOTS, same_region
from vhostuser.session.plan import AddRegion, RemoveRegion, ReplaceMemory, settled
from vhostuser.session.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import AddMemReg, MemRegion, RemMemReg, SetMemTable
    from vhostuser.devices import DeviceProfile
    from vhostuser.fds import OwnedFd
    from vhostuser.session.plan import Plan
    from vhostuser.session.state import SessionState

    Fds = tuple[OwnedFd, ...]


_PAGE = 4096
_MOST_BYTES = 1 << 45
"""Of all regions together, 32 TiB: an old and a new table fit into the 128 TiB that a process has,
with room for the process itself."""


def _require_mappable(new: MemRegion, others: Sequence[MemRegion]) -> None:
    """Check what can be said of a region without its file."""
    for name in ("gpa", "uva", "offset"):
        value = getattr(new, name)
        if value % _PAGE:
            raise Refusal(name, f"{value:#x}", f"a multiple of {_PAGE}")
    for other in others:
        for name in ("gpa", "uva"):
            start, begin = getattr(new, name), getattr(other, name)
            if start < begin + other.size and begin < start + new.size:
                raise Refusal(name, f"{start:#x}", "a range that no other region holds")
    if new.size + sum(other.size for other in others) > _MOST_BYTES:
        raise Refusal("size", f"{new.size:#x}", f"at most {_MOST_BYTES:#x} bytes in all regions")


def set_mem_table(
    _profile: DeviceProfile, state: SessionState, request: SetMemTable, fds: Fds
) -> Plan:
    """Replace the whole table."""
    if len(fds) != len(request.regions):
        raise Refusal(
            "nregions", len(request.regions), f"one fd comes with each region; {len(fds)} came"
        )
    for number, region in enumerate(request.regions):
        _require_mappable(region, request.regions[:number])
    step = ReplaceMemory(tuple(zip(request.regions, fds, strict=True)))
    return settled(replace(state, regions=request.regions, repeated={}), step)


def add_mem_reg(profile: DeviceProfile, state: SessionState, request: AddMemReg, fds: Fds) -> Plan:
    """Add one region.

    QEMU 7.2 has a vhost device for each pair of a network device's queues, and each of them adds
    and removes every region.
    """
    if request.region in state.regions and _times(state, request.region) < _adders(profile):
        return settled(_repeated(state, request.region, 1))
    if len(state.regions) >= MAX_SLOTS:
        raise Refusal("region", len(state.regions) + 1, f"at most {MAX_SLOTS} fit")
    _require_mappable(request.region, state.regions)
    after = replace(state, regions=(*state.regions, request.region))
    return settled(after, AddRegion(request.region, fds[0]))


def rem_mem_reg(
    _profile: DeviceProfile, state: SessionState, request: RemMemReg, _fds: Fds
) -> Plan:
    """Remove the region with this gpa, uva and size. An fd may come with it; it is closed."""
    for region in state.repeated:
        if same_region(region, request.region):
            return settled(_repeated(state, region, -1))
    kept = tuple(region for region in state.regions if not same_region(region, request.region))
    if len(kept) == len(state.regions):
        raise Refusal(
            "region",
            request.region.gpa,
            "no region of the table has this guest address, user address and size",
        )
    return settled(replace(state, regions=kept), RemoveRegion(request.region))


def _adders(profile: DeviceProfile) -> int:
    return 1 if profile.queue_num is None else profile.queue_num


def _times(state: SessionState, region: MemRegion) -> int:
    return 1 + state.repeated.get(region, 0)


def _repeated(state: SessionState, region: MemRegion, more: int) -> SessionState:
    times = state.repeated.get(region, 0) + more
    others = {other: count for other, count in state.repeated.items() if other != region}
    return replace(state, repeated=others | ({region: times} if times else {}))
