"""The memory table: which parts of the front-end's memory are mapped here, as numbered snapshots.

A table never changes in place. A change is prepared (mapped, checked), then committed (rings move
to the new snapshot), then released (the old snapshot goes when its last pin is gone); until the
commit it can be given up without a trace. Translation for buffers happens in the engine; here only
a ring's own areas are looked up. Specification: "Memory region description", SET_MEM_TABLE,
ADD_MEM_REG, REM_MEM_REG.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError
from vhostuser.fds import kind_of
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import MemRegion, Uva
    from vhostuser.fds import OwnedFd
    from vhostuser.native import Pointer

__all__ = [
    "MAX_SLOTS",
    "MappedRegion",
    "MemoryChange",
    "MemoryTable",
    "Snapshot",
    "same_region",
]

MAX_SLOTS = 509
"""Regions that a table may hold: what libvhost-user and rust-vmm offer, and the kernel's
default."""


@dataclass(frozen=True, slots=True, eq=False)
class MappedRegion:
    """A region as a device can be given it; valid as long as a snapshot that holds it.

    Attributes:
        region: as the front-end described it.
        hva: where it is mapped here.
        fd: the file that holds it, from `region.offset` on; owned by the table. None unless the
            table keeps files.
    """

    region: MemRegion
    hva: int
    fd: OwnedFd | None


class _Mapping:
    """One mapped region; holds the creator's reference on it."""

    __slots__ = ("mapped", "memory", "native", "region")

    def __init__(self, region: MemRegion, fd: OwnedFd, *, keep_file: bool) -> None:
        self.memory = _identify(region, fd)
        ret = ffi.new("struct vhu_region **")
        code = lib.vhu_region_map(
            fd.fileno(), region.gpa, region.uva, region.size, region.offset, ret
        )
        if code == -errno.ERANGE:
            raise RequestError(
                errno.ERANGE,
                "the region ends where its file ends, or before",
                field="offset+size",
                value=f"{region.offset + region.size:#x}",
            )
        if code == -errno.EOPNOTSUPP:
            raise RequestError(
                errno.EOPNOTSUPP,
                "guest memory must not be a file of FUSE or virtiofs, whose server could hold up "
                "everybody here: use a memfd (QEMU: memory-backend-memfd,share=on), or a file in "
                "/dev/shm or on hugetlbfs",
                field="fd",
                value="a file of FUSE",
            )
        if code < 0:
            raise RequestError(
                -code,
                f"memory that can be mapped shared and writable: {os.strerror(-code)}",
                field="fd",
                value=kind_of(fd).value,
            )
        self.region = region
        self.native = ret[0]
        hva = int(ffi.cast("uintptr_t", lib.vhu_region_hva(self.native)))
        try:
            self.mapped = MappedRegion(region, hva, fd.duplicate() if keep_file else None)
        except OSError:
            lib.vhu_region_unref(self.native)
            raise

    def unmap(self) -> None:
        """Drop the creator's reference; the mapping goes with the last snapshot that holds it."""
        if self.mapped.fd is not None:
            self.mapped.fd.close()
        lib.vhu_region_unref(self.native)
        self.native = ffi.NULL


def _identify(region: MemRegion, fd: OwnedFd) -> tuple[MemRegion, int, int]:
    """Tell memory from other memory, also when its file comes by another descriptor."""
    status = os.fstat(fd.fileno())
    return region, status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The whole table at one moment; immutable.

    Attributes:
        number: counts up with each change.
        regions: as the front-end described them.
        mapped: the same as they are mapped here.
        native: the engine's `struct vhu_mem`, which lives as long as this object: somebody may
            still look at a snapshot while a thread commits the next.
    """

    number: int
    regions: tuple[MemRegion, ...]
    mapped: tuple[MappedRegion, ...]
    native: Pointer

    def uva_to_gpa(self, address: Uva, length: int) -> int | None:
        """Translate a front-end address to the guest's; None unless all of it is in one region."""
        for region in self.regions:
            start = address - region.uva
            if start >= 0 and start + length <= region.size:
                return region.gpa + start
        return None

    def uva_to_hva(self, address: Uva, length: int) -> int | None:
        """Translate a front-end address to one of ours; None unless all of it is in one region."""
        hva = lib.vhu_mem_uva_to_hva(self.native, address, length)
        return None if hva == ffi.NULL else int(ffi.cast("uintptr_t", hva))

    @property
    def pins(self) -> int:
        """How many rings and requests still use this snapshot."""
        return int(lib.vhu_mem_pins(self.native))


def _owned(native: Pointer) -> Pointer:
    """Drop the creator's reference when nothing in Python holds the pointer any more."""
    return ffi.gc(native, lib.vhu_mem_unref)


class MemoryChange:
    """A prepared change: commit it and then release what it replaced, or abandon it.

    Attributes:
        snapshot: the table as it will be.
        replaced: the table as it was, between commit and release.
    """

    def __init__(
        self, table: MemoryTable, mappings: tuple[_Mapping, ...], added: tuple[_Mapping, ...]
    ) -> None:
        self._table = table
        self._mappings = mappings
        self._added = added
        self._gone: list[_Mapping] = []
        self.replaced: Snapshot | None = None
        ret = ffi.new("struct vhu_mem **")
        natives = ffi.new("struct vhu_region *[]", [mapping.native for mapping in mappings])
        check(lib.vhu_mem_create(natives, len(mappings), ret), "build the memory table")
        regions = tuple(mapping.region for mapping in mappings)
        mapped = tuple(mapping.mapped for mapping in mappings)
        self.snapshot = Snapshot(table.snapshot.number + 1, regions, mapped, _owned(ret[0]))

    def commit(self) -> None:
        """Make the new snapshot the table's; quick."""
        table = self._table
        self.replaced, table.snapshot = table.snapshot, self.snapshot
        self._gone = [mapping for mapping in table.mappings if mapping not in self._mappings]
        table.mappings = self._mappings

    def release(self) -> None:
        """Let go of what was replaced, once nothing uses it any more.

        Unmapping may take long: call it in a thread, and keep no reference to `replaced`.
        """
        self.replaced = None
        for mapping in self._gone:
            mapping.unmap()
        self._gone = []

    def abandon(self) -> None:
        """Undo the preparation; the table stays as it was."""
        ffi.release(self.snapshot.native)
        for mapping in self._added:
            mapping.unmap()


class MemoryTable:
    """The guest memory of one session. Close it when the session ends.

    The `prepare_…` methods map memory and may take long: call them in a thread. Only one change may
    be under way at a time.

    Args:
        keep_files: whether to keep each region's fd, for a device that maps the file itself.
    """

    def __init__(self, *, keep_files: bool = False) -> None:
        self._keep_files = keep_files
        ret = ffi.new("struct vhu_mem **")
        check(lib.vhu_mem_create(ffi.NULL, 0, ret), "build the empty memory table")
        self.mappings: tuple[_Mapping, ...] = ()
        self.snapshot = Snapshot(0, (), (), _owned(ret[0]))

    def prepare_replace(self, regions: Sequence[tuple[MemRegion, OwnedFd]]) -> MemoryChange:
        """Map a whole new table (SET_MEM_TABLE).

        What is there already stays as it is mapped: front-ends send all again when one region came,
        and a device must not lose what it works on.

        Args:
            regions: each with the fd that holds it; the fds stay the caller's.

        Raises:
            OSError: a region is not legal or cannot be mapped; nothing has changed.
        """
        here = {mapping.memory: mapping for mapping in self.mappings}
        wanted = {_identify(region, fd): (region, fd) for region, fd in regions}
        kept = tuple(here[memory] for memory in wanted if memory in here)
        return self._prepare(kept, [wanted[memory] for memory in wanted if memory not in here])

    def prepare_add(self, region: MemRegion, fd: OwnedFd) -> MemoryChange:
        """Map one more region (ADD_MEM_REG).

        Raises:
            OSError: the region is not legal, overlaps another, or cannot be mapped; nothing has
                changed.
        """
        return self._prepare(self.mappings, [(region, fd)])

    def prepare_remove(self, region: MemRegion) -> MemoryChange:
        """Leave out one region (REM_MEM_REG): the one with this gpa, uva and size.

        Raises:
            OSError: the host is out of memory; nothing has changed.
        """
        kept = tuple(
            mapping for mapping in self.mappings if not same_region(mapping.region, region)
        )
        return self._prepare(kept, ())

    def _prepare(
        self, kept: tuple[_Mapping, ...], regions: Sequence[tuple[MemRegion, OwnedFd]]
    ) -> MemoryChange:
        added: list[_Mapping] = []
        try:
            for region, fd in regions:
                added.append(_Mapping(region, fd, keep_file=self._keep_files))
            return MemoryChange(self, (*kept, *added), tuple(added))
        except OSError:
            for mapping in added:
                mapping.unmap()
            raise

    def close(self) -> None:
        """Unmap everything, which may take long. Every ring must have stopped."""
        change = MemoryChange(self, (), ())
        change.commit()
        change.release()


def same_region(one: MemRegion, other: MemRegion) -> bool:
    """Whether REM_MEM_REG would mean the same region: the offset does not count."""
    return (one.gpa, one.uva, one.size) == (other.gpa, other.uva, other.size)
