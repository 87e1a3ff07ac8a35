"""Looking for leaks: every kind of thing that is held too long is seen."""

from __future__ import annotations

import mmap
import os

from vhostuser.fds import OwnedFd
from vhostuser.testing import CountingFd, held, open_fds


def test_an_open_descriptor_is_found_by_number_and_kind() -> None:
    with OwnedFd(os.eventfd(0)) as fd:
        assert open_fds()[fd.fileno()] == "anon_inode:[eventfd]"
        number = fd.fileno()
    assert number not in open_fds()


def test_two_of_a_kind_are_more_than_one_though_they_look_the_same() -> None:
    with OwnedFd(os.eventfd(0)):
        before = held()
        with OwnedFd(os.eventfd(0)):
            assert held().more_than(before) == "1 x anon_inode:[eventfd]"
        assert held().more_than(before) == ""


def test_a_mapping_is_held_after_its_descriptor_was_closed() -> None:
    before = held()
    with OwnedFd(os.memfd_create("left-over")) as fd:
        os.truncate(fd.fileno(), mmap.PAGESIZE)
        left = mmap.mmap(fd.fileno(), mmap.PAGESIZE)
    assert "left-over" in held().more_than(before)
    left.close()
    assert not held().more_than(before)


def test_a_counting_fd_counts_every_close() -> None:
    fd = CountingFd("one")
    assert not fd.closed
    fd.close()
    fd.close()
    assert fd.closed
    assert repr(fd) == "CountingFd('one', closes=2)"
