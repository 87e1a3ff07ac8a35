"""A device's interrupts: vectors that signal eventfds, and how its end is told."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest
import trio
import trio.testing

from protocol.kernel.vfio import NO_FD, Request
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

MSIX, ERR, REQ = 2, 3, 4


@pytest.fixture
def eventfd():
    with contextlib.ExitStack() as stack:

        def make():
            return stack.enter_context(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))

        yield make


def vectors(kernel):
    return {vector: fd for (kind, vector), fd in kernel.vectors.items() if kind == MSIX}


async def test_vectors_signal_eventfds_and_the_others_stay_as_they_are(
    kernel, open_device, eventfd
):
    device = open_device()
    first, second = eventfd(), eventfd()
    await device.set_vectors({1: first})
    assert vectors(kernel) == {0: NO_FD, 1: first.fileno(), 2: NO_FD}
    await device.set_vectors({0: second})
    assert vectors(kernel) == {0: second.fileno(), 1: first.fileno(), 2: NO_FD}
    await device.set_vectors({1: None, 2: first})
    assert vectors(kernel) == {0: second.fileno(), 1: NO_FD, 2: first.fileno()}
    device.close()
    assert vectors(kernel) == {}
    assert not first.closed


async def test_nothing_is_turned_on_for_nothing(kernel, open_device):
    device = open_device()
    before = kernel.log.count(Request.DEVICE_SET_IRQS)
    await device.set_vectors({})
    await device.set_vectors({0: None, 2: None})
    assert kernel.log.count(Request.DEVICE_SET_IRQS) == before


@pytest.mark.parametrize("vector", [-1, 3, 2**32])
async def test_a_vector_that_is_not_there_is_refused(kernel, open_device, eventfd, vector):
    device = open_device()
    with pytest.raises(AcceleratorError, match=f"no interrupt vector {vector}, only 3") as caught:
        await device.set_vectors({0: eventfd(), vector: eventfd()})
    assert caught.value.errno == errno.EINVAL
    assert vectors(kernel) == {}


async def test_a_host_with_few_vectors_left_gives_those(kernel, open_device, eventfd):
    kernel.free_vectors = 2
    device = open_device()
    await device.set_vectors({1: eventfd()})
    assert set(vectors(kernel)) == {0, 1}
    with pytest.raises(AcceleratorError, match="only 2 interrupt vectors left") as caught:
        await device.set_vectors({2: eventfd()})
    assert caught.value.errno == errno.ENOSPC


async def test_a_host_with_too_few_vectors_left_says_so(kernel, open_device, eventfd):
    kernel.free_vectors = 1
    device = open_device()
    with pytest.raises(AcceleratorError, match="1 interrupt vectors left, and 2 are needed"):
        await device.set_vectors({1: eventfd()})
    kernel.free_vectors = 8
    await device.set_vectors({1: eventfd()})
    assert set(vectors(kernel)) == {0, 1, 2}


async def test_a_refusal_is_told_with_the_devices_name(kernel, open_device, eventfd):
    kernel.refuse[Request.DEVICE_SET_IRQS] = (errno.EINVAL, 2)
    device = open_device()
    with pytest.raises(AcceleratorError, match=r"vfio:0000:01:00\.0: Invalid argument"):
        await device.set_vectors({1: eventfd()})


@pytest.mark.parametrize(
    ("kind", "words"), [(REQ, "the host wants the device back"), (ERR, "only a reset cures")]
)
async def test_everybody_who_waits_learns_that_the_device_goes(kernel, open_device, kind, words):
    device = open_device()
    reasons = []

    async def wait():
        reasons.append(await device.gone())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not reasons
        os.eventfd_write(kernel.vectors[kind, 0], 1)
    assert len(reasons) == 3
    assert all(words in reason for reason in reasons)
    assert await device.gone() == reasons[0]


async def test_waiting_can_be_given_up(kernel, open_device):
    device = open_device()
    with trio.move_on_after(0):
        await device.gone()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.gone)
        nursery.start_soon(device.gone)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.eventfd_write(kernel.vectors[REQ, 0], 1)
    assert "wants the device back" in await device.gone()


async def test_the_kernels_word_that_it_is_gone_counts(kernel, open_device):
    device = open_device()
    kernel.refuse[Request.DEVICE_RESET] = errno.ENODEV
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.gone)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AcceleratorError, match="No such device") as caught:
            await device.reset()
    assert caught.value.errno == errno.ENODEV
    assert await device.gone() == "the kernel says that it is gone"


@pytest.mark.parametrize("share_fd", [False, True])
async def test_a_device_that_left_its_bus_is_noticed_by_what_is_read(kernel, open_device, share_fd):
    device = open_device(share_fd=share_fd)
    os.pwrite(kernel.device, b"\xff", (4 << 40) + 20)
    assert await device.read(4, 20, 1) == 0xFF  # a register may hold that
    os.pwrite(kernel.device, b"\xff" * 256, 7 << 40)
    with pytest.raises(AcceleratorError, match="does not answer on its bus") as caught:
        await device.read(4, 20, 1)
    assert caught.value.errno == errno.ENODEV
    assert "does not answer" in await device.gone()


@pytest.mark.parametrize("irqs", [{2: (1, 3)}, {2: (1, 3), 3: (1, 0), 4: (0, 1)}])
async def test_a_device_that_tells_of_nothing_can_be_held_too(kernel, open_device, irqs):
    kernel.irqs = irqs
    device = open_device()
    assert kernel.vectors == {}
    with trio.move_on_after(0) as scope:
        await device.gone()
    assert scope.cancelled_caught


async def test_another_refusal_while_it_is_asked_is_no_absence(kernel, open_device):
    kernel.refuse[Request.DEVICE_GET_IRQ_INFO] = (errno.EIO, 2)
    with pytest.raises(OSError, match="Input/output"):
        open_device()
