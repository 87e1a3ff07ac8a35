"""The memory table: changes are prepared, committed or given up, and nothing leaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.vhost_user import Gpa, MemRegion, Uva
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.memory import MemoryTable
from vhostuser.testing import held

PAGE = 4096


def memfd(size):
    fd = OwnedFd(os.memfd_create("guest"))
    os.truncate(fd.fileno(), size)
    return fd


def region(gpa=0, size=PAGE, uva=0x7000_0000, offset=0):
    return MemRegion(gpa=Gpa(gpa), size=size, uva=Uva(uva), offset=offset)


def apply(change):
    change.commit()
    change.release()


@pytest.fixture
def table():
    before = held()
    table = MemoryTable()
    yield table
    table.close()
    assert held().more_than(before) == ""


def test_a_region_is_translated_once_it_is_committed(table):
    with memfd(2 * PAGE) as fd:
        change = table.prepare_add(region(size=2 * PAGE), fd)
        assert table.snapshot.uva_to_hva(Uva(0x7000_0000), 1) is None
        apply(change)
    start = table.snapshot.uva_to_hva(Uva(0x7000_0000), 2 * PAGE)
    assert table.snapshot.uva_to_hva(Uva(0x7000_1000), PAGE) == start + PAGE


@pytest.mark.parametrize(
    ("address", "length"),
    [(0x6FFF_FFFF, 2), (0x7000_0FFF, 2), (0x7000_1000, 1), (0x7000_0000, 1 << 64)],
)
def test_what_is_not_whole_inside_a_region_is_not_translated(table, address, length):
    with memfd(PAGE) as fd:
        apply(table.prepare_add(region(), fd))
    if length < 1 << 64:
        assert table.snapshot.uva_to_hva(Uva(address), length) is None
    else:
        with pytest.raises(OverflowError):
            table.snapshot.uva_to_hva(Uva(address), length)


def test_a_change_that_was_given_up_leaves_no_trace(table):
    before = held()
    snapshot = table.snapshot
    with memfd(PAGE) as fd:
        table.prepare_add(region(), fd).abandon()
    assert held().more_than(before) == ""
    assert table.snapshot is snapshot


def test_a_table_of_which_one_region_fails_maps_none_of_them(table):
    before = held()
    with memfd(PAGE) as good, memfd(0) as empty:
        pair = [(region(), good), (region(gpa=PAGE, uva=0x7100_0000), empty)]
        with pytest.raises(RequestError, match="ends where its file ends") as caught:
            table.prepare_replace(pair)
    assert (caught.value.field, caught.value.value) == ("offset+size", "0x1000")
    assert held().more_than(before) == ""


def test_what_cannot_be_mapped_is_named(table):
    with OwnedFd(os.eventfd(0)) as fd, pytest.raises(RequestError, match="can be mapped") as caught:
        table.prepare_add(region(), fd)
    assert (caught.value.field, caught.value.value) == ("fd", "eventfd")


def test_replacing_unmaps_what_was_there(table):
    with memfd(PAGE) as fd:
        apply(table.prepare_add(region(), fd))
        before = held()
        apply(table.prepare_replace([(region(uva=0x7200_0000), fd)]))
    assert held().more_than(before) == ""
    assert table.snapshot.uva_to_hva(Uva(0x7000_0000), 1) is None
    assert table.snapshot.uva_to_hva(Uva(0x7200_0000), PAGE) is not None


def test_what_is_sent_again_stays_as_it_is_mapped(table):
    with memfd(2 * PAGE) as fd, fd.duplicate() as other, memfd(2 * PAGE) as stranger:
        apply(table.prepare_replace([(region(), fd)]))
        (before,) = table.snapshot.mapped
        more = region(gpa=PAGE, uva=0x7200_0000, offset=PAGE)
        apply(table.prepare_replace([(more, fd), (region(), other)]))
        assert before in table.snapshot.mapped
        assert len(table.snapshot.mapped) == 2
        apply(table.prepare_replace([(region(), stranger), (more, fd)]))
        assert before not in table.snapshot.mapped


def test_removing_keeps_the_other_regions_where_they_are(table):
    with memfd(2 * PAGE) as fd:
        apply(table.prepare_add(region(), fd))
        other = region(gpa=PAGE, uva=0x7200_0000, offset=PAGE)
        apply(table.prepare_add(other, fd))
        place = table.snapshot.uva_to_hva(Uva(0x7200_0000), PAGE)
        apply(table.prepare_remove(region(offset=8 * PAGE)))  # the offset does not count
    assert table.snapshot.regions == (other,)
    assert table.snapshot.uva_to_hva(Uva(0x7200_0000), PAGE) == place
    assert table.snapshot.number == 3


def test_what_was_replaced_stays_mapped_until_it_is_released(table):
    with memfd(PAGE) as fd:
        apply(table.prepare_add(region(), fd))
    change = table.prepare_remove(region())
    change.commit()
    assert table.snapshot.regions == ()
    assert "memfd:guest" in Path("/proc/self/maps").read_text(encoding="utf-8")
    change.release()
    assert "memfd:guest" not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_an_odd_size_is_mapped_to_its_last_byte_and_no_further(table):
    with memfd(PAGE + 1) as fd:
        apply(table.prepare_add(region(size=PAGE + 1), fd))
    assert table.snapshot.uva_to_hva(Uva(0x7000_1000), 1) is not None
    assert table.snapshot.uva_to_hva(Uva(0x7000_1001), 1) is None


def test_a_fork_does_not_inherit_guest_memory(table):
    with memfd(PAGE) as fd:
        apply(table.prepare_add(region(), fd))
        start = table.snapshot.uva_to_hva(Uva(0x7000_0000), PAGE)
    with open("/proc/self/smaps", encoding="ascii") as smaps:  # noqa: PTH123
        text = smaps.read()
    flags = text[text.index(f"{start:x}-") :].partition("VmFlags:")[2].partition("\n")[0]
    assert "dc" in flags.split()


def test_a_snapshot_in_hand_outlives_the_change_that_replaces_it(table):
    with memfd(PAGE) as fd:
        apply(table.prepare_add(region(), fd))
        old = table.snapshot
        start = old.uva_to_hva(Uva(0x7000_0000), 1)
        apply(table.prepare_remove(region()))
    assert (old.pins, old.uva_to_hva(Uva(0x7000_0000), 1)) == (0, start)
    assert table.snapshot.uva_to_hva(Uva(0x7000_0000), 1) is None
    del old
    assert "memfd:guest" not in Path("/proc/self/maps").read_text(encoding="utf-8")
