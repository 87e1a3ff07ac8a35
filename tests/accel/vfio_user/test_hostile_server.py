"""Servers that break rules, against our client and the device that is made of it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

import pytest
import trio
from vfio_user_rig import BAR, PAGE, RawPeer, memfd, message, trio_pair

from accel.vfio_user import open_over, over
from accel.vfio_user.given import GivenMemory
from protocol.vfio_user import Header
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd
from vhostuser.native import ffi

NAME = "vfio-user:test"
IOVA = 0x10_0000
TOP = 1 << 64
READ_WRITE_MMAP = 7
CAPABILITIES = 8


def version(minor=2, major=0, text=b'{"capabilities":{"max_msg_fds":16}}\0'):
    return struct.pack("=HH", major, minor) + text


def device_info(flags=3, regions=9, irqs=5, argsz=16):
    return struct.pack("=4I", argsz, flags, regions, irqs)


def region_info(  # noqa: PLR0913 - one for each field
    index=BAR, size=4 * PAGE, *, flags=3, argsz=None, chain=b"", offset=0, cap=None
):
    argsz = 32 + len(chain) if argsz is None else argsz
    cap = (32 if chain else 0) if cap is None else cap
    return struct.pack("=4IQQ", argsz, flags, index, cap, size, offset) + chain


def sparse(*areas, following=0, count=None):
    count = len(areas) if count is None else count
    head = struct.pack("=HHIII", 1, 1, following, count, 0)
    return head + b"".join(struct.pack("=QQ", *area) for area in areas)


def irq_info(index=2, count=4, argsz=16):
    return struct.pack("=4I", argsz, 1, index, count)


def io_fds(*entries, argsz=None, count=None):
    data = b"".join(entries)
    count = len(entries) if count is None else count
    return struct.pack("=4I", 16 + len(data) if argsz is None else argsz, 0, BAR, count) + data


def io_fd(*, offset=0, size=2, index=0, kind=0):
    return struct.pack("=QQIIIIQ", offset, size, index, kind, 0, 0, 0)


class Script:
    """A server that answers each command as it is told, else as a decent one with one BAR.

    Attributes:
        answers: by command: the payload, or a function of the request's payload that returns it.
        fds: by command: sent along, the test's.
    """

    def __init__(self) -> None:
        self.answers = {
            1: version(),
            4: device_info(),
            5: lambda asked: region_info(index := asked[8], 4 * PAGE if index == BAR else 0),
            7: irq_info(),
            2: b"",
            3: lambda asked: asked,
            8: b"",
            9: lambda asked: asked + bytes(int.from_bytes(asked[12:16], "little")),
            10: lambda asked: asked[:16],
        }
        self.fds = {}
        self.flags = {}
        self.peer = None

    async def run(self, sock) -> None:
        self.peer = RawPeer(sock)
        with contextlib.suppress(EOFError, OSError, trio.ClosedResourceError):
            while True:
                header, payload = await self.peer.receive()
                if header.is_reply:
                    continue
                answer = self.answers[header.command]
                answer = answer(payload) if callable(answer) else answer
                flags = self.flags.get(header.command, 1)
                data = Header(
                    id=header.id, command=header.command, size=16 + len(answer), flags=flags
                )
                await self.peer.send(data.build() + answer, self.fds.get(header.command, ()))
        sock.close()


@pytest.fixture
def script():
    return Script()


@contextlib.asynccontextmanager
async def client_of(script):
    near, far = trio_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.run, far)
        try:
            async with over(near, NAME, seconds=30) as client:
                yield client
        finally:
            nursery.cancel_scope.cancel()
            far.close()


async def discover(script):
    """Return the device that the script makes, closed."""
    async with client_of(script) as client, open_over(client) as pci:
        return pci


def error_in(group):
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    return group


@contextlib.contextmanager
def refused(text):
    """Expect an AcceleratorError that says this."""
    with pytest.raises((AcceleratorError, BaseExceptionGroup)) as caught:
        yield
    error = error_in(caught.value)
    assert isinstance(error, AcceleratorError)
    assert text in str(error)
    assert NAME in str(error)


async def test_the_decent_server_is_one(script):
    pci = await discover(script)
    assert set(pci.regions) == {BAR}
    assert pci.vectors == 4


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (version(major=1), "the major version is 0"),
        (version(minor=9), "at most the proposed one"),
        (version(text=b"{"), "ends in one NUL"),
        (version(text=b"nonsense\0"), "JSON"),
        (version(text=b'{"capabilities":{"max_data_xfer_size":0}}\0'), "max_data_xfer_size"),
        (version(text=b'{"capabilities":{"twin_socket":{"supported":true}}}\0'), "twin socket"),
        (b"", "size"),
    ],
    ids=range(7),
)
async def test_a_bad_version_is_said(script, answer, text):
    script.answers[1] = answer
    with refused(text):
        await discover(script)


@pytest.mark.parametrize(
    ("leaves", "text"),
    [(True, "make sure that it speaks vfio-user"), (False, "end the other one first")],
)
async def test_a_server_without_first_words_is_told_with_what_to_do(autojump_clock, leaves, text):
    ours, theirs = trio_pair()
    with theirs, refused(text):
        if leaves:
            theirs.shutdown(socket.SHUT_WR)
        async with over(ours, NAME):
            pass


async def test_fds_that_come_with_a_version_are_closed(script):
    with memfd(PAGE) as fd:
        script.fds[1] = [fd] * 100
        with refused("file descriptors"):
            await discover(script)


@pytest.mark.parametrize(
    ("command", "answer", "text"),
    [
        (4, device_info(flags=1), "is no PCI device"),
        (4, device_info(regions=1 << 31), "at most 256 regions"),
        (4, device_info(argsz=8), "a reply needs"),
        (4, b"short", "size"),
        (5, region_info(index=3), "index is the request's"),
        (5, region_info(size=TOP - 1, offset=2), "does not pass 2^64"),
        (5, region_info(argsz=1 << 30), "a reply needs"),
        (5, region_info(argsz=4096), "needs ever more room"),
        (5, region_info(flags=15, chain=sparse((0, 5 * PAGE))), "inside the region"),
        (5, region_info(flags=15, chain=sparse((TOP - PAGE, PAGE))), "inside the region"),
        (5, region_info(flags=15, chain=sparse((0, 0))), "at least one byte"),
        (5, region_info(flags=15, chain=sparse((0, PAGE), count=1 << 28)), "nr_areas"),
        (5, region_info(flags=15, chain=sparse((0, PAGE), following=32)), "next"),
        (5, region_info(flags=15, chain=sparse((0, PAGE), following=4096)), "next"),
        (5, region_info(flags=15, chain=sparse((0, PAGE)), cap=8), "cap_offset"),
        (5, region_info(flags=15, chain=sparse((0, PAGE)), cap=0xFFFF_FFF0), "cap_offset"),
        (7, irq_info(index=1), "index is the request's"),
    ],
)
async def test_a_bad_description_is_said(script, command, answer, text):
    script.answers[command] = answer
    with refused(text):
        await discover(script)


async def test_more_vectors_than_msix_has_are_not_believed(script):
    script.answers[7] = irq_info(count=0xFFFF_FFFF)
    assert (await discover(script)).vectors == 2048


async def test_more_regions_than_pci_has_are_not_asked_for(script):
    script.answers[4] = device_info(regions=256)
    assert set((await discover(script)).regions) == {BAR}


async def test_several_fds_for_a_region_are_refused_and_closed(script):
    with memfd(PAGE) as fd:
        script.fds[5] = [fd] * 3
        with refused("file descriptors"):
            await discover(script)


async def test_an_fd_for_a_region_that_is_empty_is_closed(script):
    script.answers[5] = lambda asked: region_info(asked[8], 0)
    with memfd(PAGE) as fd:
        script.fds[5] = [fd]
        assert (await discover(script)).regions == {}


def other_files():
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair()
    with OwnedFd(write_end), theirs:
        yield OwnedFd(read_end)
        yield OwnedFd(ours.detach())
    yield OwnedFd(os.eventfd(0))
    yield OwnedFd(os.open("/", os.O_RDONLY))
    yield OwnedFd(os.open("/dev/null", os.O_RDWR))
    yield OwnedFd(os.open("/proc/self/exe", os.O_RDONLY))


async def test_a_region_in_what_is_no_file_is_neither_mapped_nor_handed_on(script):
    script.answers[5] = lambda asked: region_info(
        asked[8], 4 * PAGE if asked[8] == BAR else 0, flags=READ_WRITE_MMAP
    )
    for number, fd in enumerate(other_files()):
        with fd:
            script.fds[5] = [fd]
            async with client_of(script) as client, open_over(client) as pci:
                assert pci.map_area(BAR, 0, PAGE) is None
                if number < 5:  # the last is a file, only not one that can be written
                    with pytest.raises(AcceleratorError, match="only a file or memfd"):
                        pci.share_area(BAR, 0, PAGE)


@pytest.mark.parametrize("offset", [0, PAGE, 1 << 40, TOP - 4 * PAGE])
async def test_a_region_that_ends_behind_its_file_is_neither_mapped_nor_handed_on(script, offset):
    script.answers[5] = lambda asked: region_info(
        asked[8], 4 * PAGE if asked[8] == BAR else 0, flags=READ_WRITE_MMAP, offset=offset
    )
    with memfd(4 * PAGE - 1 + (offset == PAGE) * PAGE) as fd:
        script.fds[5] = [fd]
        async with client_of(script) as client, open_over(client) as pci:
            assert pci.map_area(BAR, 3 * PAGE, PAGE) is None
            with pytest.raises(AcceleratorError, match="ends before that"):
                pci.share_area(BAR, 3 * PAGE, PAGE)


# Eventfds


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (io_fds(io_fd(index=1)), 1),
        (io_fds(io_fd()), 0),
        (io_fds(io_fd(), count=2), 1),
        (io_fds(argsz=1 << 20), 0),
        (io_fds(io_fd(offset=TOP - 1, size=8)), 1),
    ],
    ids=["index", "no fd", "count", "argsz", "wraps"],
)
async def test_bad_descriptions_of_eventfds_give_none_and_leave_none_open(script, answer, count):
    script.answers[6] = answer
    with OwnedFd(os.eventfd(0)) as fd:
        script.fds[6] = [fd] * count
        async with client_of(script) as client, open_over(client) as pci:
            assert await pci.doorbell_fd(BAR, 0, 2, 0) is None


async def test_what_is_no_eventfd_rings_no_doorbell(script):
    script.answers[6] = io_fds(io_fd(), io_fd(index=1, kind=1), io_fd(index=1, kind=2))
    with memfd(PAGE) as file, OwnedFd(os.eventfd(0)) as fd:
        script.fds[6] = [file, fd]
        async with client_of(script) as client, open_over(client) as pci:
            assert await pci.doorbell_fd(BAR, 0, 2, 0) is None


async def test_the_longer_entries_of_libvfio_user_are_understood(script):
    entry = struct.pack("=QQIIIIQQ", 0, 2, 0, 0, 1, 0, 0, 7)
    script.answers[6] = io_fds(entry)
    with OwnedFd(os.eventfd(0)) as fd:
        script.fds[6] = [fd]
        async with client_of(script) as client, open_over(client) as pci:
            assert await pci.doorbell_fd(BAR, 0, 2, 0) is None
            with await pci.doorbell_fd(BAR, 0, 2, 7) as found:
                os.eventfd_write(found.fileno(), 1)
            assert os.eventfd_read(fd.fileno()) == 1


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("=QII", 0, BAR, 8) + bytes(8),
        struct.pack("=QII", 4, BAR, 4) + bytes(4),
        struct.pack("=QII", 0, 1, 4) + bytes(4),
        struct.pack("=QII", 0, BAR, 4) + bytes(3),
        struct.pack("=QII", 0, BAR, 0xFFFF_FFFF),
        b"",
    ],
    ids=range(6),
)
async def test_an_answer_that_is_none_to_what_was_asked_ends_the_connection(script, answer):
    script.answers[9] = answer
    async with client_of(script) as client, open_over(client) as pci:
        with refused("broke the protocol"):
            await pci.read(BAR, 0, 4)
        assert "broke the protocol" in await pci.gone()


async def test_an_error_without_the_type_of_an_answer_is_understood(script):
    """rust-vmm's old server forgets it."""
    script.answers[9] = b""
    script.flags[9] = 0x20
    async with client_of(script) as client, open_over(client) as pci:
        with refused("refused RegionRead without a reason"):
            await pci.read(BAR, 0, 4)
        script.answers[10] = lambda asked: asked[:16]
        await pci.write(BAR, 0, 4, 1)


async def test_an_answer_with_an_unknown_id_ends_the_connection(script):
    async with client_of(script) as client:
        await script.peer.send(message(9, bytes(16), flags=1, number=999))
        assert "broke the protocol" in await client.gone()


async def test_a_server_that_takes_little_at_a_time_gets_little_at_a_time(script):
    script.answers[1] = version(text=b'{"capabilities":{"max_data_xfer_size":3,"max_msg_fds":1}}\0')
    async with client_of(script) as client, open_over(client) as pci:
        assert await pci.read_block(BAR, 0, 10) == bytes(10)
        await pci.write_block(BAR, 0, bytes(10))
        with OwnedFd(os.eventfd(0)) as fd:
            await pci.set_vectors({0: fd, 1: fd})


async def test_a_server_that_takes_no_fds_is_not_sent_any(script):
    script.answers[1] = version(text=b'{"capabilities":{"max_msg_fds":0}}\0')
    async with client_of(script) as client, open_over(client) as pci:
        with OwnedFd(os.eventfd(0)) as fd, refused("at most 0 file descriptors"):
            await pci.set_vectors({0: fd})


async def test_a_server_that_takes_few_ranges_is_not_sent_more(script):
    script.answers[1] = version(text=b'{"capabilities":{"max_dma_maps":1}}\0')
    memory, given = memory_at(IOVA)
    _, second = memory_at(IOVA + PAGE)
    async with client_of(script) as client:
        await client.map(given, None, 0)
        with refused("takes 1 ranges of memory at most"):
            await client.map(second, None, 0)
    del memory


# DMA


def memory_at(address, **rights):
    memory = ffi.new("char[]", PAGE)
    hva = int(ffi.cast("uintptr_t", memory))
    return memory, GivenMemory(address=address, size=PAGE, hva=hva, **rights)


@pytest.mark.parametrize(
    ("command", "address", "count", "expected"),
    [
        (11, IOVA - 1, 1, errno.EFAULT),
        (11, IOVA + PAGE - 1, 2, errno.EFAULT),
        (11, IOVA, 1 << 20, errno.EFAULT),
        (11, TOP - 1, 1, errno.EFAULT),
        (11, IOVA, TOP - 1, errno.EINVAL),
        (11, IOVA, (1 << 20) + 1, errno.EINVAL),
        (12, IOVA + PAGE - 1, 2, errno.EFAULT),
        (12, IOVA + 2 * PAGE, 1, errno.EACCES),
        (11, IOVA + 3 * PAGE, 1, errno.EACCES),
        (9, 0, 16, errno.EINVAL),
        (1, 0, 0, errno.EINVAL),
        (99, 0, 0, errno.EINVAL),
    ],
)
async def test_a_server_reaches_only_what_it_was_given(script, command, address, count, expected):
    memories = [
        memory_at(IOVA),
        memory_at(IOVA + 2 * PAGE, writable=False),
        memory_at(IOVA + 3 * PAGE, readable=False),
    ]
    replies = []
    async with client_of(script) as client:
        for _, given in memories:
            await client.map(given, None, 0)
        received = script.peer.receive

        async def note():
            header, payload = await received()
            if header.is_reply:
                replies.append(header)
            return header, payload

        script.peer.receive = note
        await client.read(BAR, 0, 4)  # the script waits for this one already, and notes those after
        payload = struct.pack("=QQ", address, count)
        if command == 12:
            payload += b"\xff" * count
        await script.peer.send(message(command, payload, number=77))
        await script.peer.send(message(11, struct.pack("=QQ", IOVA, 1), number=78))
        with trio.fail_after(30):
            while len(replies) < 2:
                await client.read(BAR, 0, 4)
    assert [(reply.id, reply.error) for reply in replies] == [(77, expected), (78, 0)]
    assert all(ffi.buffer(memory)[:] == bytes(PAGE) for memory, _ in memories)


async def test_a_server_that_asks_and_reads_no_answers_is_left(script):
    memory, given = memory_at(IOVA)
    near, far = trio_pair()
    peer = RawPeer(far)

    async def serve():
        with contextlib.suppress(OSError):
            await peer.receive()
            await peer.send(message(1, version(), number=0, flags=1))
            await peer.receive()
            await peer.send(message(2, number=1, flags=1))
            while True:
                await peer.send(message(11, struct.pack("=QQ", IOVA, PAGE)) * 16)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with over(near, NAME) as client:
            client._channel._seconds = 0.05
            await client.map(given, None, 0)
            with trio.fail_after(60):
                assert "did not read" in await client.gone()
        nursery.cancel_scope.cancel()
    peer.close()
    del memory
