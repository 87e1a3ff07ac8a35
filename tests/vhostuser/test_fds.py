"""Owned file descriptors: one owner, one close."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile

import pytest

from vhostuser.fds import FdKind, OwnedFd, kind_of
from vhostuser.testing import held


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_closing_twice_closes_once():
    fd = OwnedFd(os.eventfd(0))
    number = fd.fileno()
    fd.close()
    other = os.dup2(1, number)  # somebody else's now
    fd.close()
    assert is_open(other)
    os.close(other)


def test_what_was_handed_over_is_no_longer_closed_here():
    fd = OwnedFd(os.eventfd(0))
    number = fd.detach()
    fd.close()
    assert is_open(number)
    os.close(number)


@pytest.mark.parametrize("end", ["close", "detach"])
def test_a_number_that_is_no_longer_owned_cannot_be_had(end):
    fd = OwnedFd(os.eventfd(0))
    number = fd.fileno()
    getattr(fd, end)()
    assert fd.closed
    with pytest.raises(ValueError, match="closed or handed over"):
        fd.fileno()
    with pytest.raises(ValueError, match="closed or handed over"):
        fd.detach()
    if end == "detach":
        os.close(number)


def test_a_block_closes_at_its_end_also_after_an_error():
    before = held()
    with contextlib.suppress(ZeroDivisionError), OwnedFd(os.eventfd(0)):
        raise ZeroDivisionError
    assert held().more_than(before) == ""


def test_a_duplicate_is_close_on_exec_and_lives_on_its_own():
    with OwnedFd(os.eventfd(7)) as fd:
        second = fd.duplicate()
    with second:
        assert os.eventfd_read(second.fileno()) == 7
        assert not os.get_inheritable(second.fileno())


def test_forgetting_to_close_is_a_warning_and_no_leak():
    before = held()
    fd = OwnedFd(os.eventfd(0))
    with pytest.warns(ResourceWarning, match="never closed"):
        del fd
    assert held().more_than(before) == ""


def test_a_negative_number_is_no_descriptor():
    with pytest.raises(ValueError, match="0 or more"):
        OwnedFd(-1)


@contextlib.contextmanager
def opened(kind):
    with contextlib.ExitStack() as stack:
        if kind is FdKind.EVENTFD:
            yield stack.enter_context(OwnedFd(os.eventfd(0)))
        elif kind is FdKind.PIPE:
            ends = [stack.enter_context(OwnedFd(number)) for number in os.pipe()]
            yield ends[1]
        elif kind is FdKind.SOCKET:
            ours, _ = map(stack.enter_context, socket.socketpair())
            yield ours
        elif kind is FdKind.FILE:
            yield stack.enter_context(tempfile.TemporaryFile())
        elif kind is FdKind.DIRECTORY:
            yield stack.enter_context(OwnedFd(os.open("/", os.O_RDONLY)))
        elif kind is FdKind.CHARACTER_DEVICE:
            yield stack.enter_context(OwnedFd(os.open("/dev/null", os.O_RDWR)))


@pytest.mark.parametrize("kind", sorted(set(FdKind) - {FdKind.BLOCK_DEVICE, FdKind.OTHER}, key=str))
def test_descriptors_are_told_apart(kind):
    with opened(kind) as fd:
        assert kind_of(fd.fileno()) is kind


def test_an_anonymous_inode_that_is_no_eventfd_is_something_else():
    import select  # noqa: PLC0415 - for this one case

    with select.epoll() as epoll:
        assert kind_of(epoll.fileno()) is FdKind.OTHER
