"""Items 15-25 of the catalogue: fds, too many, too few, of the wrong kind or unwilling."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import FRONT_END_ROWS, SetVringCall, SetVringKick
from vhostuser.frontend import BlockDriver
from vhostuser.testing import NEED_REPLY, VERSION, open_fds, raw_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vhostuser.fds import OwnedFd

Case = "Callable[[Any], Awaitable[None]]"
ROWS = {row.name: row for row in FRONT_END_ROWS}
NO_FD = 1 << 8
SIZE = 1 << 20
REGION = struct.pack("=QQQQQ", 0, 0x1_0000_0000, SIZE, 0x7_0000_0000, 0)
TABLE = struct.pack("=II", 1, 0) + REGION[8:]


def index(value: int) -> bytes:
    return struct.pack("=Q", value)


LEGAL = {
    "ADD_MEM_REG": REGION,
    "REM_MEM_REG": REGION,
    "SET_MEM_TABLE": TABLE,
    "SET_VRING_NUM": struct.pack("=II", 0, 128),
    "SET_VRING_ENABLE": struct.pack("=II", 0, 1),
    "GET_CONFIG": struct.pack("=III", 0, 8, 0) + bytes(8),
    "SET_CONFIG": struct.pack("=III", 0, 8, 0) + bytes(8),
}


def surplus(name: str, extra: int) -> Case:
    row = ROWS[name]

    async def case(served: Any) -> None:
        fds = [served.eventfd() for _ in range(row.fds[1] + extra)]
        payload = LEGAL.get(name, bytes(row.payload.min_size))
        await served.refuses(name, payload, fds)

    return case


def many(count: int) -> Case:
    async def case(served: Any) -> None:
        fd = served.eventfd()
        await served.refuses("SET_OWNER", fds=[fd] * count, field="fds")

    return case


async def with_the_payload(served: Any) -> None:
    data = raw_message(ROWS["SET_STATUS"].number, bytes(8), flags=VERSION | NEED_REPLY)
    async with served.raw() as front_end:
        await front_end.send(data[:12])
        await front_end.send(data[12:], [served.eventfd()])
        await front_end.wait_closed()
    served.complained_once("SET_STATUS", "fds")


async def with_the_second_byte(served: Any) -> None:
    data = raw_message(ROWS["SET_VRING_CALL"].number, bytes(8), flags=VERSION | NEED_REPLY)
    async with served.raw() as front_end:
        await front_end.send(data[:1])
        # What the second write carries must not be read together with the first.
        await trio.testing.wait_all_tasks_blocked()
        await front_end.send(data[1:], [served.eventfd()])
        await front_end.wait_closed()
    served.complained_once(field="fds")


def missing(name: str, payload: bytes) -> Case:
    return lambda served: served.refuses(name, payload, field="fds")


def gated_missing(name: str) -> Case:
    payload = bytes(ROWS[name].payload.min_size)
    return lambda served: served.refuses(name, payload)


def epoll(served: Any) -> OwnedFd:
    with select.epoll() as made:
        return served.fd(os.dup(made.fileno()))


KINDS: dict[str, Callable[[Any], OwnedFd]] = {
    "pipe": lambda served: served.pipe()[1],
    "directory": lambda served: served.fd(os.open(served.path.parent, os.O_RDONLY)),
    "socket": lambda served: served.fd(socket.socket(socket.AF_UNIX).detach()),
    "null": lambda served: served.fd(os.open("/dev/null", os.O_RDWR)),
    "epoll": epoll,
    "read-only-file": lambda served: served.file(flags=os.O_RDONLY),
    "o-path": lambda served: served.file(flags=os.O_PATH),
    "file": lambda served: served.file(),
}


def wrong_memory(kind: str) -> Case:
    return lambda served: served.refuses("ADD_MEM_REG", REGION, [KINDS[kind](served)])


def wrong_notifier(name: str, kind: str) -> Case:
    return lambda served: served.refuses(name, index(0), [KINDS[kind](served)], field="fd")


async def no_socket_for_the_back_end_channel(served: Any) -> None:
    await served.refuses("SET_BACKEND_REQ_FD", fds=[served.eventfd()])


async def no_descriptor_free(served: Any) -> None:
    memory = served.memfd(SIZE)
    async with served.raw() as front_end:
        await served.still_answers(front_end)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = min(set(range(len(open_fds()) + 1)) - set(open_fds()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            await front_end.message(ROWS["ADD_MEM_REG"].number, REGION, fds=[memory])
            await front_end.wait_closed()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    served.complained_once(field="fds")


def odd_fds(make: Callable[[Any], tuple[OwnedFd, OwnedFd, OwnedFd]], *, queues: int = 1) -> Case:
    """The ring works with these: the fd to kick by, and those sent for kick and call."""

    async def case(served: Any) -> None:
        with served.guest() as memory:
            async with served.client(memory, queues=queues) as client:
                ring = [client.setup_queue(each, poll=True) for each in range(queues)]
                await client.start()
                ours, kick, call = make(served)
                for queue in ring:
                    await client.request(SetVringKick(index=queue.index), [kick])
                    await client.request(SetVringCall(index=queue.index), [call])
                await client.stop()
                await client.start()
                for queue in ring:
                    await client.request(SetVringKick(index=queue.index), [kick])
                    await client.request(SetVringCall(index=queue.index), [call])
                    queue.kick.close()
                    queue.kick = ours.duplicate()
                for queue in ring * 3:
                    await served.reads(BlockDriver([queue]), sector=5)

    return case


def eventfds(served: Any, kick: tuple[int, int], call: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Value and flags of each."""
    fd = served.eventfd(*kick)
    return fd, fd, served.eventfd(*call)


def pipe_kick(served: Any) -> tuple[Any, Any, Any]:
    reading, writing = served.pipe()
    return writing, reading, served.eventfd()


def pipe_call(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    return fd, fd, served.pipe()[1]


def sockets(served: Any) -> tuple[OwnedFd, OwnedFd]:
    """What user-mode Linux calls a pipe."""
    ours, theirs = socket.socketpair()
    return served.fd(ours.detach()), served.fd(theirs.detach())


def socket_kick(served: Any) -> tuple[Any, Any, Any]:
    ours, theirs = sockets(served)
    return ours, theirs, served.eventfd()


def socket_call(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    return fd, fd, sockets(served)[1]


def lonely_socket_call(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    return fd, fd, KINDS["socket"](served)


def closed_pipe_call(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    reading, writing = served.pipe()
    reading.close()
    return fd, fd, writing


def same_fd(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    return fd, fd, fd


def shared_kick(served: Any) -> tuple[Any, Any, Any]:
    fd = served.eventfd()
    return fd, fd, served.eventfd()


FULL = 2**64 - 2
QUIET = (0, os.EFD_NONBLOCK)
EVENTFDS = {
    "21-kick-blocking": ((0, 0), QUIET),
    "21-kick-semaphore": ((0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE), QUIET),
    "21-kick-many": ((1 << 20, os.EFD_NONBLOCK), QUIET),
    "21-call-blocking": (QUIET, (0, 0)),
}


async def full_counters(served: Any) -> None:
    kick, call = served.eventfd(), served.eventfd(0, 0)
    for fd in (kick, call):
        os.eventfd_write(fd.fileno(), FULL)
    await odd_fds(lambda _: (kick, kick, call))(served)


async def glued(served: Any) -> None:
    async with served.raw() as front_end:
        plain = raw_message(ROWS["GET_FEATURES"].number)
        call = raw_message(ROWS["SET_VRING_CALL"].number, index(0), flags=VERSION | NEED_REPLY)
        # Both writes are in the socket before the server's task runs again.
        with socket.socket(fileno=os.dup(front_end.sock.fileno())) as sock:
            for _ in range(3):
                sock.send(plain)
                socket.send_fds(sock, [call], [served.eventfd().fileno()])
        for _ in range(3):
            assert (await front_end.reply()).number == ROWS["GET_FEATURES"].number
            assert (await front_end.reply()).value == 0


RING_FDS = ("SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR")
CASES = {
    **{
        f"15-{row.name.lower().replace('_', '-')}-plus-{extra}": surplus(row.name, extra)
        for row in FRONT_END_ROWS
        for extra in (1, 8)
    },
    "16-fds-9": many(9),
    "16-fds-64": many(64),
    "16-fds-253": many(253),
    "17-with-payload": with_the_payload,
    "17-with-second-byte": with_the_second_byte,
    "18-set-mem-table": missing("SET_MEM_TABLE", TABLE),
    "18-add-mem-reg": missing("ADD_MEM_REG", REGION),
    "18-set-backend-req-fd": missing("SET_BACKEND_REQ_FD", b""),
    **{f"18-{name.lower().replace('_', '-')}": missing(name, index(0)) for name in RING_FDS},
    "18-set-log-base": gated_missing("SET_LOG_BASE"),
    "18-set-inflight-fd": gated_missing("SET_INFLIGHT_FD"),
    **{f"19-memory-{kind}": wrong_memory(kind) for kind in KINDS if kind != "file"},
    **{
        f"19-{name[10:].lower()}-{kind}": wrong_notifier(name, kind)
        for name in RING_FDS
        for kind in KINDS
        if kind not in {"pipe", "socket"}
    },
    "19-kick-pipe-works": odd_fds(pipe_kick),
    "19-call-pipe-works": odd_fds(pipe_call),
    "19-kick-socket-works": odd_fds(socket_kick),
    "19-call-socket-works": odd_fds(socket_call),
    "19-call-socket-of-nobody-works": odd_fds(lonely_socket_call),
    "19-channel-eventfd": no_socket_for_the_back_end_channel,
    "20-rlimit": no_descriptor_free,
    **{
        name: odd_fds(lambda served, kick=kick, call=call: eventfds(served, kick, call))
        for name, (kick, call) in EVENTFDS.items()
    },
    "21-counters-full": full_counters,
    "22-kick-is-call": odd_fds(same_fd),
    "22-kick-of-two-queues": odd_fds(shared_kick, queues=2),
    "23-call-closed-pipe": odd_fds(closed_pipe_call),
    "24-no-fd-bit-with-fd": lambda served: served.refuses(
        "SET_VRING_KICK", index(NO_FD), [served.eventfd()], field="fds"
    ),
    **{
        f"24-reserved-bit-{bit}": (
            lambda served, bit=bit: served.refuses(
                "SET_VRING_CALL", index(1 << bit), [served.eventfd()]
            )
        )
        for bit in (9, 63)
    },
    "25-glued": glued,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any) -> None:
    async with serving() as served:
        await case(served)
