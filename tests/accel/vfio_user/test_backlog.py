"""Commands between reader and worker: order, weight, and who closes their fds."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio.testing import wait_all_tasks_blocked

from accel.vfio_user.backlog import Backlog
from vhostuser.testing import CountingFd


@dataclass(eq=False)
class Command:
    name: str = ""
    fds: tuple[CountingFd, ...] = ()


async def test_commands_come_out_as_they_went_in_and_then_nothing_more():
    backlog = Backlog[Command]()
    backlog.put(Command("a"), 16)
    backlog.put(Command("b"), 16)
    backlog.finish()
    assert [(await backlog.get()).name for _ in range(2)] == ["a", "b"]
    assert await backlog.get() is None


async def test_weight_counts_bytes_and_fds_and_goes_with_the_command():
    backlog = Backlog[Command](pause_at=100 << 10, full_at=300 << 10)
    backlog.put(Command(fds=(CountingFd(), CountingFd())), 16)
    assert backlog.busy
    assert not backlog.full
    backlog.put(Command(), 200 << 10)
    assert backlog.full
    await backlog.get()
    assert backlog.busy
    assert not backlog.full
    await backlog.get()
    assert not backlog.busy


async def test_many_small_commands_weigh_too():
    backlog = Backlog[Command](pause_at=100 << 10)
    for _ in range(100):
        backlog.put(Command(), 0)
    assert backlog.busy


async def test_who_waits_for_room_hears_of_it():
    backlog = Backlog[Command](pause_at=1, full_at=2)
    backlog.put(Command(), 1)
    heard = trio.Event()

    async def wait():
        while backlog.busy:
            await backlog.changed()
        heard.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not heard.is_set()
        await backlog.get()
        with trio.fail_after(5):
            await heard.wait()


async def test_what_is_left_over_is_closed_once_and_so_is_what_comes_later():
    left, late, taken = (Command(fds=(CountingFd(),)) for _ in range(3))
    backlog = Backlog[Command]()
    backlog.put(taken, 1)
    backlog.put(left, 1)
    await backlog.get()
    backlog.close()
    backlog.close()
    backlog.put(late, 1)
    assert [command.fds[0].closes for command in (left, late, taken)] == [1, 1, 0]
    assert await backlog.get() is None
