"""VFIO groups of the RFC dialects: one a queue, counted, and nothing else passes for one."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2, Dialect, ResetDevice
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.frontend import GroupIdentity, Host, identify_group
from vhostuser.testing import held, open_fds

if TYPE_CHECKING:
    from collections.abc import Callable

RFCS = pytest.mark.parametrize("dialect", [RFC_V2, RFC_V1], ids=lambda each: each.name)


def by_inode(fd: OwnedFd) -> GroupIdentity:
    """Take every memfd for a group, and nothing else."""
    name = open_fds()[fd.fileno()]
    if not name.startswith("/memfd:"):
        raise RequestError(errno.EINVAL, "a group of this test", field="fd", value=name)
    return GroupIdentity(0, os.fstat(fd.fileno()).st_ino)


HOST = Host(identify_group=by_inode)


@RFCS
async def test_a_group_is_counted_by_what_it_is_not_by_its_fd(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect, host=HOST) as (client, backend):
        with make_memfd() as group:
            identity = by_inode(group)
            for index in (0, 1, 1):
                assert await backend.offer_group(group.duplicate(), index=index) == 0
            assert len(client.groups) == 1
            assert client.groups.references(identity) == 2
            assert await backend.offer_group(None, index=0) == 0
            assert (client.groups.of(0), client.groups.of(1)) == (None, identity)
            assert await backend.offer_group(None, index=0) == 0, "removing is idempotent"
            assert client.groups.references(identity) == 1
            assert await backend.offer_group(None, index=1) == 0
            assert len(client.groups) == 0


@RFCS
async def test_another_group_replaces_the_one_before(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect, host=HOST) as (client, backend):
        with make_memfd() as one, make_memfd() as two:
            assert await backend.offer_group(one.duplicate()) == 0
            before = held()
            assert await backend.offer_group(two.duplicate()) == 0
            assert client.groups.of(0) == by_inode(two)
            assert client.groups.references(by_inode(one)) == 0
            assert not held().more_than(before), "the first is let go of"


@RFCS
async def test_what_is_no_group_leaves_the_one_before(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect, host=HOST) as (client, backend):
        with make_memfd() as group:
            assert await backend.offer_group(group.duplicate()) == 0
            for flags in (os.O_RDWR, os.O_RDONLY):
                bad = OwnedFd(os.open("/dev/null", flags | os.O_CLOEXEC))
                assert await backend.offer_group(bad) == 1
            assert client.groups.of(0) == by_inode(group)


@RFCS
@pytest.mark.parametrize(
    ("word", "fds"),
    [(0, 0), (0x100, 1), (0, 2), (2, 1), (255, 1), (0x200, 1), (1 << 63, 1), (2 | 0x100, 0)],
    ids=hex,
)
async def test_a_bad_group_message_is_refused_and_changes_nothing(
    word: int,
    fds: int,
    dialect: Dialect,
    handing: Callable[..., Any],
    make_memfd: Callable[..., OwnedFd],
) -> None:
    async with handing(dialect, host=HOST) as (client, backend):
        with make_memfd() as group:
            assert await backend.offer_group(group.duplicate()) == 0
            files = [make_memfd() for _ in range(fds)]
            answer = await backend.say(backend.group.number, struct.pack("=Q", word), files)
            assert answer == 1
            assert client.groups.of(0) == by_inode(group)
            assert len(client.groups) == 1


@RFCS
async def test_a_group_is_held_until_it_is_taken_back_or_the_channel_ends(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect, host=HOST) as (client, backend):
        assert await backend.offer_group(make_memfd()) == 0
        await client.stop()
        assert client.groups.of(0) is not None
        await client.request(ResetDevice())
        assert client.groups.of(0) is not None
        assert await backend.offer(make_memfd()) == 0
        backend.close()
        await client.areas.changed(0)
        assert len(client.groups) == 0


async def test_there_are_no_groups_today(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(CURRENT, host=HOST) as (client, backend):
        assert backend.group is None
        assert await backend.say(4, struct.pack("=Q", 0), [make_memfd()]) == 1
        assert len(client.groups) == 0


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/"])
def test_a_device_that_is_no_vfio_group_is_told_from_one(path: str) -> None:
    with (
        OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as fd,
        pytest.raises(RequestError, match=r"a VFIO group comes along, such as /dev/vfio/12"),
    ):
        identify_group(fd)


def test_a_file_of_the_name_of_a_group_is_none(tmp_path: Any) -> None:
    path = tmp_path / "vfio" / "12"
    path.parent.mkdir()
    path.touch()
    with OwnedFd(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as fd, pytest.raises(RequestError):
        identify_group(fd)
