"""Several disks in a process: added, removed and failing one by one."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
import trio

from vhostuser.disks import DiskConfig, DiskSet, ServedKind
from vhostuser.errors import StoreError, UsageError
from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory
from vhostuser.testing import FakeDevice, RawFrontend

GET_FEATURES = 1
SECONDS = 30


class Events(list):
    def __call__(self, name, data):
        self.append((name, dict(data)))

    def of(self, identity):
        return [name for name, data in self if data["id"] == identity]


@contextlib.asynccontextmanager
async def disk_set(**options):
    with trio.fail_after(SECONDS):
        async with DiskSet.open(**options) as disks:
            disks.notify = Events()
            yield disks


@contextlib.asynccontextmanager
async def fake_device(_config):
    yield FakeDevice()


FAKES = ServedKind(open_device=fake_device)


def at(path, identity, **options):
    return DiskConfig(id=identity, socket_path=path / identity, **options)


def passed(sock):
    """Hand a socket over as a parent would."""
    number = sock.detach()
    os.set_inheritable(number, True)  # noqa: FBT003 - no keyword
    return number


async def use(path):
    """Write and read back as a guest would."""
    with GuestMemory() as memory:
        async with FrontendClient.connect(path, memory) as client:
            await client.negotiate()
            disk = BlockDriver([client.setup_queue(0)])
            await client.start()
            await disk.write(1, path.name.encode().ljust(512, b"."))
            return await disk.read(1, 512)


async def test_disks_come_and_go_while_others_serve(tmp_path):
    async with disk_set() as disks:
        for name in ("a", "b"):
            await disks.add(at(tmp_path, name, memory=1 << 20))
        async with RawFrontend.connect(tmp_path / "a") as kept:
            assert (await kept.ask(GET_FEATURES)).number == GET_FEATURES
            await disks.add(at(tmp_path, "c", null=1 << 20, workers=2, num_queues=2))
            assert [disk.id for disk in disks.disks] == ["a", "b", "c"]
            assert await use(tmp_path / "b") == b"b".ljust(512, b".")
            await disks.remove("b")
            assert not (tmp_path / "b").exists()
            await disks.remove("c")
            assert (await kept.ask(GET_FEATURES)).number == GET_FEATURES
        assert disks.notify.of("b") == [
            *["DISK_ADDED", "CONNECTED", "DISCONNECTED", "DISK_REMOVED"],
        ]
    assert list(tmp_path.iterdir()) == []


async def test_a_removed_disk_leaves_its_front_end_and_its_image(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    async with disk_set() as disks:
        await disks.add(at(tmp_path, "a", blk_file=image))
        async with RawFrontend.connect(tmp_path / "a") as raw:
            await raw.ask(GET_FEATURES)
            await disks.remove("a")
            assert await raw.reply() is None
        await disks.add(at(tmp_path, "a", blk_file=image))  # name, socket and image are free again
        assert await use(tmp_path / "a") == b"a".ljust(512, b".")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"id": "a"}, UsageError, "there is a disk 'a' already"),
        ({"socket_path": "a"}, UsageError, "is the socket of disk 'a'"),
        ({"blk_file": "missing"}, StoreError, "cannot open"),
        ({"blk_file": "image"}, StoreError, "image"),
        ({"socket_group": "no-such-group"}, UsageError, "there is no group 'no-such-group'"),
        ({"socket_path": "no/folder"}, UsageError, "make the folder"),
        ({"socket_path": None}, UsageError, "where are front-ends"),
        (
            {"socket_path": None, "fd": 9999},
            UsageError,
            "fd 9999 is no open socket that was passed",
        ),
    ],
)
async def test_a_disk_that_cannot_be_added_changes_nothing(tmp_path, options, error, text):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    values = {"id": "b", "socket_path": "b"} | options
    for name in ("socket_path", "blk_file"):
        if values.get(name):
            values[name] = tmp_path / values[name]
    async with disk_set() as disks:
        await disks.add(at(tmp_path, "a", blk_file=image))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=text):
            await disks.add(DiskConfig(**values))
        assert [disk.id for disk in disks.disks] == ["a"]
        assert sorted(tmp_path.iterdir()) == before
        assert disks.notify.of("b") == []
        assert await use(tmp_path / "a") == b"a".ljust(512, b".")


async def test_a_disk_grows_while_it_is_served(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    async with disk_set() as disks:
        disk = await disks.add(at(tmp_path, "a", blk_file=image))
        await disks.add(at(tmp_path, "b", memory=1 << 20))
        assert await disks.resize("a", 2 << 20) == (disk, 2 << 20)
        assert (disk.size, image.stat().st_size) == (2 << 20, 2 << 20)
        with image.open("r+b") as file:
            file.truncate(3 << 20)
        assert await disks.resize("a", None) == (disk, 3 << 20)
        with pytest.raises(StoreError, match="would lose data"):
            await disks.resize("a", 1 << 20)
        sizes = [data for name, data in disks.notify if name == "BLOCK_RESIZED"]
        assert sizes == [{"id": "a", "size": 2 << 20}, {"id": "a", "size": 3 << 20}]
        assert [each.size for each in disks.disks] == [3 << 20, 1 << 20]


async def test_a_device_without_a_size_cannot_be_resized(tmp_path):
    async with disk_set(kind=FAKES) as disks:
        await disks.add(at(tmp_path, "a"))
        with pytest.raises(UsageError, match="of a kind that has no size"):
            await disks.resize(None, 1 << 20)


async def test_a_disk_that_fails_ends_alone_and_says_so(tmp_path, caplog):
    async with disk_set(kind=FAKES) as disks:
        good = await disks.add(at(tmp_path, "good"))
        bad = await disks.add(at(tmp_path, "bad"))
        bad.server.endpoint._socket.close()  # the host takes its socket away
        await bad.ended.wait()
        assert disks.disks == (good,)
        assert disks.notify[-1] == ("DISK_REMOVED", {"id": "bad", "reason": "failed"})
        async with RawFrontend.connect(tmp_path / "good") as raw:
            assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES
    assert "failed" in caplog.text


async def test_the_set_is_finished_when_the_last_disk_ended_by_itself(tmp_path):
    ours, theirs = socket.socketpair()
    async with disk_set(kind=FAKES) as disks:
        disks.inherited = {"given": passed(theirs)}
        await disks.add(DiskConfig(id="given"))
        await disks.add(at(tmp_path, "other"))
        ours.close()
        await disks.disks[0].ended.wait()
        await disks.remove("other")  # by command: whoever gave it may give another disk
        await trio.testing.wait_all_tasks_blocked()
        assert not disks._idle.is_set()
        ours, theirs = socket.socketpair()
        disks.inherited = {"given": passed(theirs)}
        await disks.add(DiskConfig(id="given"))
        ours.close()
        await disks.finished()


async def test_the_error_that_ended_the_last_disk_ends_the_program(tmp_path):
    async with disk_set(kind=FAKES) as disks:
        disk = await disks.add(at(tmp_path, "bad"))
        disk.server.endpoint._socket.close()
        with pytest.raises(trio.ClosedResourceError):
            await disks.finished()


async def test_a_disk_is_found_by_name_or_when_it_is_the_only_one(tmp_path):
    async with disk_set(kind=FAKES) as disks:
        with pytest.raises(UsageError, match="there are none"):
            disks.find(None)
        first = await disks.add(at(tmp_path, "first"))
        assert disks.find(None) is first
        await disks.add(at(tmp_path, "second"))
        assert disks.find("first") is first
        for name in (None, "third"):
            with pytest.raises(UsageError, match="there are first, second"):
                disks.find(name)


async def test_two_additions_of_one_name_cannot_overtake_each_other(tmp_path):
    entered, go = trio.Event(), trio.Event()

    @contextlib.asynccontextmanager
    async def slow(_config):
        entered.set()
        await go.wait()
        yield FakeDevice()

    async with disk_set(kind=ServedKind(open_device=slow)) as disks, trio.open_nursery() as nursery:
        nursery.start_soon(disks.add, at(tmp_path, "a"))
        await entered.wait()
        with pytest.raises(UsageError, match="there is a disk 'a' already"):
            await disks.add(DiskConfig(id="a", socket_path=tmp_path / "b"))
        go.set()
