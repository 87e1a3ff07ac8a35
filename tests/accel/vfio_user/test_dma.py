"""The table of DMA ranges against a simple one, and ranges that are in use."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from accel.vfio_user.dma import DmaTable
from vhostuser.errors import AcceleratorError

TOP = 1 << 64


@dataclass(frozen=True)
class Range:
    address: int
    size: int
    readable: bool = True
    writable: bool = True


def table_of(*ranges: Range) -> DmaTable[Range]:
    table = DmaTable[Range](most=64)
    for each in ranges:
        table.add(each)
    return table


places = st.builds(Range, st.integers(0, 40), st.integers(1, 8))


@given(st.lists(places, max_size=20))
def test_a_range_is_taken_exactly_when_no_other_has_a_byte_of_it(ranges):
    table = table_of()
    taken: set[int] = set()
    for each in ranges:
        wanted = set(range(each.address, each.address + each.size))
        if wanted & taken:
            with pytest.raises(AcceleratorError) as caught:
                table.add(each)
            assert caught.value.errno == errno.EEXIST
        else:
            table.add(each)
            taken |= wanted
    assert {at for each in table for at in range(each.address, each.address + each.size)} == taken
    assert [each.address for each in table] == sorted(each.address for each in table)


@given(st.lists(places, max_size=12), places)
def test_an_access_is_cut_into_the_ranges_that_hold_it_or_refused(ranges, access):
    table = table_of()
    held = {}
    for each in ranges:
        try:
            table.add(each)
        except AcceleratorError:
            continue
        held |= {each.address + at: (each, at) for at in range(each.size)}
    wanted = [held.get(at) for at in range(access.address, access.address + access.size)]
    if None in wanted:
        with (
            pytest.raises(AcceleratorError) as caught,
            table.use(access.address, access.size, write=False),
        ):
            pass
        assert caught.value.errno == errno.EFAULT
    else:
        with table.use(access.address, access.size, write=False) as pieces:
            found = [(p.span, p.offset + at) for p in pieces for at in range(p.size)]
        assert found == wanted


def test_the_same_range_again_is_refused():
    table = table_of(Range(0x1000, 0x1000))
    with pytest.raises(AcceleratorError, match="overlaps") as caught:
        table.add(Range(0x1000, 0x1000))
    assert caught.value.errno == errno.EEXIST


def test_a_range_may_end_with_the_address_space():
    table = table_of(Range(TOP - 0x1000, 0x1000), Range(0, 0x1000))
    with table.use(TOP - 1, 1, write=True) as pieces:
        assert [(piece.offset, piece.size) for piece in pieces] == [(0xFFF, 1)]
    with pytest.raises(AcceleratorError, match="not mapped"), table.use(TOP - 1, 2, write=True):
        pass


def test_a_full_table_says_how_many_it_holds():
    table = DmaTable[Range](most=2)
    table.add(Range(0, 1))
    table.add(Range(1, 1))
    with pytest.raises(AcceleratorError, match="at most 2 ranges") as caught:
        table.add(Range(2, 1))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("address", "size"), [(0x1000, 0x1000), (0x1000, 0x3000), (0x1800, 0x1800), (0x5000, 0x1000)]
)
async def test_only_a_whole_range_can_be_taken_out(address, size):
    table = table_of(Range(0x1000, 0x2000))
    with pytest.raises(AcceleratorError, match="nothing is mapped") as caught:
        await table.drain(address, size)
    assert caught.value.errno == errno.ENOENT
    assert len(table) == 1


@pytest.mark.parametrize("write", [False, True])
def test_a_device_may_only_do_what_the_range_allows(write):
    table = table_of(Range(0, 16, readable=write, writable=not write))
    with pytest.raises(AcceleratorError, match="may not") as caught, table.use(0, 1, write=write):
        pass
    assert caught.value.errno == errno.EACCES


async def test_a_range_is_taken_out_when_its_last_user_has_gone_and_lets_no_new_one_in():
    span = Range(0x1000, 0x1000)
    table = table_of(span)
    order = []

    async def take_out():
        assert await table.drain(0x1000, 0x1000) is span
        table.discard(span)
        order.append("taken out")

    async with trio.open_nursery() as nursery:
        with table.use(0x1000, 4, write=True), table.use(0x1004, 4, write=False):
            nursery.start_soon(take_out)
            await wait_all_tasks_blocked()
            with (
                pytest.raises(AcceleratorError, match="not mapped"),
                table.use(0x1000, 1, write=False),
            ):
                pass
            order.append("used")
    assert order == ["used", "taken out"]
    assert len(table) == 0
    table.add(span)
