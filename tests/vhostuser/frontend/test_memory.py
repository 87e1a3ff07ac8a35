"""Guest memory: addresses, allocation, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import os

import pytest

from vhostuser.frontend import GuestMemory, RegionLayout
from vhostuser.testing import held

PAGE = 4096
TWO = [RegionLayout(gpa=0x10000, size=PAGE), RegionLayout(gpa=0x11000, size=PAGE)]


def test_bytes_written_by_address_are_in_the_memfd_where_the_back_end_is_told() -> None:
    layout = RegionLayout(gpa=0x10000, size=PAGE, uva=0x7000_0000, margin=PAGE)
    with GuestMemory([layout]) as memory:
        memory.write(0x10010, b"hello")
        region = memory.regions[0]
        told = region.description
        assert (told.gpa, told.uva, told.size, told.offset) == (0x10000, 0x7000_0000, PAGE, PAGE)
        assert os.pread(region.fd.fileno(), 5, told.offset + 0x10) == b"hello"
        assert memory.read(0x10010, 5) == b"hello"
        assert memory.uva(0x10010) == 0x7000_0010
        assert region.contents()[:PAGE] == bytes(PAGE)


def test_reads_and_writes_cross_adjacent_regions_but_an_address_does_not() -> None:
    with GuestMemory(TWO) as memory:
        memory.write(0x10FFE, b"abcd")
        assert memory.read(0x10FFE, 4) == b"abcd"
        assert memory.regions[1].read(0x11000, 2) == b"cd"
        with pytest.raises(ValueError, match=r"^no region holds the 4 bytes at gpa 0x10ffe$"):
            memory.hva(0x10FFE, 4)


def test_a_write_beyond_guest_memory_writes_nothing() -> None:
    with GuestMemory(TWO) as memory:
        with pytest.raises(ValueError, match=r"^no region holds the 1 bytes at gpa 0x12000$"):
            memory.write(0x11FFF, b"xy")
        assert memory.read(0x11FFF, 1) == b"\0"


def test_buffers_are_aligned_disjoint_and_never_span_two_memfds() -> None:
    with GuestMemory(TWO) as memory:
        buffers = [memory.alloc(1200, alignment=512) for _ in range(4)]
        starts = sorted(buffer.gpa for buffer in buffers)
        assert starts == [0x10000, 0x10600, 0x11000, 0x11600]
        with pytest.raises(MemoryError, match=r"^no region has 4096 bytes of guest memory left$"):
            memory.alloc(PAGE)


def test_freed_pieces_grow_together_again_within_their_region() -> None:
    with GuestMemory(TWO) as memory:
        pieces = [memory.alloc(PAGE // 4) for _ in range(8)]
        for piece in pieces[::2] + pieces[1::2]:
            memory.free(piece)
        assert {memory.alloc(PAGE).gpa for _ in range(2)} == {0x10000, 0x11000}


def test_address_0_is_never_handed_out() -> None:
    with GuestMemory([RegionLayout(gpa=0, size=PAGE)]) as memory:
        assert memory.alloc(16).gpa == 16


@pytest.mark.parametrize("sealed", [True, False])
def test_a_memfd_is_sealed_against_shrinking_unless_asked_otherwise(sealed: bool) -> None:
    with GuestMemory([RegionLayout(gpa=0, size=PAGE, sealed=sealed)]) as memory:
        seals = fcntl.fcntl(memory.regions[0].fd.fileno(), fcntl.F_GET_SEALS)
        assert bool(seals & fcntl.F_SEAL_SHRINK) is sealed


def test_closing_gives_back_every_fd_and_mapping() -> None:
    before = held()
    memory = GuestMemory(TWO)
    assert held().more_than(before)
    memory.close()
    memory.close()
    assert not held().more_than(before)


def test_a_region_that_the_host_cannot_give_leaves_nothing_behind() -> None:
    before = held()
    with pytest.raises(OSError, match=r"File too large|Cannot allocate memory|Invalid argument"):
        GuestMemory([*TWO, RegionLayout(gpa=1 << 40, size=1 << 62)])
    assert not held().more_than(before)
