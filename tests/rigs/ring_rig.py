"""Guest memory between guard pages, and a ring served twice: by the engine and by its Python twin.

A twin ring has two copies of guest memory. Whoever plays the driver writes both at once; each
device operation runs on both, and results, faults and every byte of guest memory must come out the
same.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cffi

from protocol.virtio import RingArea, VirtioFeatures, ring_area_size
from vhostuser.memory import Snapshot
from vhostuser.native import check, ffi, lib
from vhostuser.virtqueue import (
    Buffer,
    Chain,
    DeviceRing,
    PureDeviceRing,
    PureMemory,
    PureRingConfig,
    RingConfig,
    RingFaultError,
    RingState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["GuardedMemory", "RingPlace", "RingTwin", "TwinMemory"]

PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_MAP_PRIVATE_ANONYMOUS = 0x22

_libc_ffi = cffi.FFI()
_libc_ffi.cdef("""
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
    int munmap(void *address, size_t length);
""")
_libc = _libc_ffi.dlopen(None)


def _reserve(length: int) -> int:
    """Take address space that nobody may touch."""
    pointer = _libc.mmap(_libc_ffi.NULL, length, _PROT_NONE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
    address = int(_libc_ffi.cast("uintptr_t", pointer))
    assert address != (1 << 64) - 1, "no address space left"
    return address


def _unmap(address: int, length: int) -> None:
    assert _libc.munmap(_libc_ffi.cast("void *", address), length) == 0


class GuardedMemory:
    """Guest memory as the engine maps it, each region between two pages that nobody may touch.

    Args:
        sizes: bytes of each region, whole pages, by its guest-physical address.
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._guards: list[int] = []
        self._regions = [self._map(gpa, size) for gpa, size in sizes.items()]
        ret = ffi.new("struct vhu_mem **")
        natives = ffi.new("struct vhu_region *[]", self._regions)
        check(lib.vhu_mem_create(natives, len(self._regions), ret), "build the memory table")
        self.snapshot = Snapshot(1, (), (), ret[0])
        self._hvas = {
            gpa: int(ffi.cast("uintptr_t", lib.vhu_region_hva(region)))
            for gpa, region in zip(sizes, self._regions, strict=True)
        }
        self._sizes = dict(sizes)
        self.memory = PureMemory(
            {
                gpa: memoryview(ffi.buffer(ffi.cast("char *", self._hvas[gpa]), size))
                for gpa, size in sizes.items()
            }
        )

    def _map(self, gpa: int, size: int) -> Any:
        """Map one region just into a hole between two guard pages."""
        fd = os.memfd_create("guarded", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        plugs = []  # mappings that the kernel put into other holes of that size
        ret = ffi.new("struct vhu_region **")
        try:
            while True:
                start = _reserve(size + 2 * PAGE)
                _unmap(start + PAGE, size)
                check(lib.vhu_region_map(fd, gpa, gpa, size, 0, ret), "map a region")
                if int(ffi.cast("uintptr_t", lib.vhu_region_hva(ret[0]))) == start + PAGE:
                    self._guards += [start, start + PAGE + size]
                    return ret[0]
                plugs.append(ret[0])
                _unmap(start, PAGE)
                _unmap(start + PAGE + size, PAGE)
        finally:
            os.close(fd)
            for plug in plugs:
                lib.vhu_region_unref(plug)

    def hva(self, gpa: int) -> int:
        """Return the host address of a guest-physical one."""
        start = max(start for start in self._hvas if start <= gpa)
        return self._hvas[start] + gpa - start

    def gpa(self, hva: int) -> int:
        """Return the guest-physical address of a host address."""
        for start, first in self._hvas.items():
            if first <= hva < first + self._sizes[start]:
                return start + hva - first
        raise AssertionError(f"{hva:#x} is no address of guest memory")

    def close(self) -> None:
        """Unmap everything."""
        for view in self.memory.regions.values():
            view.release()
        lib.vhu_mem_unref(self.snapshot.native)
        for region in self._regions:
            lib.vhu_region_unref(region)
        for guard in self._guards:
            _unmap(guard, PAGE)


class TwinMemory(PureMemory):
    """The oracle's copy of guest memory and the engine's: what is written goes into both."""

    def __init__(self, guarded: GuardedMemory) -> None:
        super().__init__(
            {gpa: bytearray(len(view)) for gpa, view in guarded.memory.regions.items()}
        )
        self.guarded = guarded
        self.oracle = PureMemory(self.regions)
        """The oracle's copy alone."""

    def write(self, gpa: int, data: bytes) -> None:
        super().write(gpa, data)
        self.guarded.memory.write(gpa, data)

    def clear(self) -> None:
        """Fill both copies with zeros."""
        for gpa, view in self.regions.items():
            zeros = bytes(len(view))
            view[:] = zeros
            self.guarded.memory.regions[gpa][:] = zeros

    def contents(self) -> dict[int, bytes]:
        """Return a copy of every region, having compared the two."""
        copy = {gpa: bytes(view) for gpa, view in self.regions.items()}
        for gpa, expected in copy.items():
            got = self.guarded.memory.regions[gpa].obj
            assert expected == got, _first_difference(gpa, expected, bytes(got))
        return copy


def _first_difference(gpa: int, expected: bytes, got: bytes) -> str:
    offset = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
    return (
        f"guest memory differs from gpa {gpa + offset:#x} on: the oracle has "
        f"{expected[offset : offset + 16].hex()}, the engine {got[offset : offset + 16].hex()}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPlace:
    """A ring's shape, and where it lies: its areas one after the other from `gpa` on."""

    features: VirtioFeatures
    num: int
    gpa: int
    state: RingState

    @property
    def packed(self) -> bool:
        return VirtioFeatures.RING_PACKED in self.features

    def area(self, area: RingArea) -> tuple[int, int]:
        """Return the address and the size of an area; each has its cache lines to itself."""
        start = self.gpa
        for other in RingArea:
            size = ring_area_size(other, self.num, packed=self.packed)
            if other is area:
                return start, size
            start += -(-size // 64) * 64
        raise AssertionError(area)

    @property
    def end(self) -> int:
        """The first address behind the ring, on a cache line."""
        start, size = self.area(RingArea.DEVICE)
        return start + -(-size // 64) * 64

    def pure(self) -> PureRingConfig:
        desc, driver, device = (self.area(area)[0] for area in RingArea)
        return PureRingConfig(
            features=self.features,
            num=self.num,
            desc=desc,
            driver=driver,
            device=device,
            state=self.state,
        )

    def native(self, guarded: GuardedMemory) -> RingConfig:
        desc, driver, device = (guarded.hva(self.area(area)[0]) for area in RingArea)
        return RingConfig(
            features=self.features,
            num=self.num,
            desc_hva=desc,
            driver_hva=driver,
            device_hva=device,
            state=self.state,
        )

    def start_used(self, memory: PureMemory) -> None:
        """Write what a driver that has been running for a while has left in the ring."""
        if not self.packed:
            memory.write_u16(self.area(RingArea.DRIVER)[0] + 2, self.state.avail)
            memory.write_u16(self.area(RingArea.DEVICE)[0] + 2, self.state.used)
            return
        # Descriptors of the lap that is over, or of the one before, are used: seen from the other
        # counter they are not available.
        for index in range(self.num):
            wrap = self.state.avail_wrap if index < self.state.avail else not self.state.avail_wrap
            flags = 0x8080 if wrap else 0
            memory.write_u16(self.area(RingArea.DESC)[0] + 16 * index + 14, flags)


class RingTwin:
    """One ring, and the device's end of it twice.

    Args:
        memory: both copies of guest memory.
        place: the ring in it.
    """

    def __init__(self, memory: TwinMemory, place: RingPlace) -> None:
        self.memory = memory
        self.place = place
        self.pure = PureDeviceRing(memory.oracle, place.pure())
        self.engine = DeviceRing(memory.guarded.snapshot, place.native(memory.guarded))
        self.in_flight: list[tuple[Chain, Chain]] = []

    def close(self) -> None:
        self.engine.close()

    def pop(self) -> Chain | RingFaultError | None:
        """Pop on both sides; return what both gave: a chain, None, or the fault."""
        pure, engine = _outcome(self.pure.pop), _outcome(self.engine.pop)
        if isinstance(pure, Chain) and isinstance(engine, Chain):
            packed = self.place.packed
            assert _comparable(engine, self.memory.guarded.gpa, packed=packed) == _comparable(
                pure, int, packed=packed
            )
            self.in_flight.append((pure, engine))
        elif isinstance(pure, RingFaultError) and isinstance(engine, RingFaultError):
            assert (engine.fault, engine.value) == (pure.fault, pure.value)
        else:
            assert engine is pure, f"the oracle says {pure!r}, the engine {engine!r}"
        self.compare()
        return pure

    def push(self, which: int, written: int) -> None:
        """Push back one of the chains in flight."""
        pure, engine = self.in_flight.pop(which)
        self.pure.push(pure, written)
        self.engine.push(engine, written)
        self.compare()

    def publish(self) -> bool:
        return self._agree(self.pure.publish, self.engine.publish)

    def kick_enable(self) -> bool:
        return self._agree(self.pure.kick_enable, self.engine.kick_enable)

    def kick_disable(self) -> None:
        self._agree(self.pure.kick_disable, self.engine.kick_disable)

    def _agree(self, pure: Callable[[], Any], engine: Callable[[], Any]) -> Any:
        expected, got = pure(), engine()
        assert got == expected, f"the oracle says {expected}, the engine {got}"
        self.compare()
        return expected

    def compare(self) -> dict[int, bytes]:
        """Compare positions and all of guest memory; return a copy of it."""
        assert self.engine.state() == self.pure.state()
        return self.memory.contents()


def _comparable(chain: Chain, to_gpa: Callable[[int], int], *, packed: bool) -> Chain:
    """Return a chain with guest-physical addresses; a split ring does not count slots."""
    return replace(
        chain,
        slots=chain.slots if packed else 0,
        readable=tuple(Buffer(to_gpa(part.address), part.length) for part in chain.readable),
        writable=tuple(Buffer(to_gpa(part.address), part.length) for part in chain.writable),
    )


def _outcome(pop: Callable[[], Chain | None]) -> Chain | RingFaultError | None:
    try:
        return pop()
    except RingFaultError as error:
        return error
