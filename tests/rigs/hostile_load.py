"""A front-end that attacks a disk until it is told to end: the load under which others are tested.

    python tests/rigs/hostile_load.py ATTACK SOCKET

prints the name of the attack once it is in full swing, and goes on until a line comes on its
standard input, or its end. It needs nothing but the standard library, so that it can be run from
anywhere; a back-end that does not answer within ten seconds ends it with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import random
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ATTACKS"]

SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR = 2, 3, 5, 8, 9
SET_VRING_BASE, SET_VRING_KICK, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 10, 12, 16, 18
GET_FEATURES = 1
VERSION, NEED_REPLY = 1, 1 << 3
FEATURES, PROTOCOL_FEATURES = 1 << 32 | 1 << 30, 1 << 3
GPA, SIZE = 1 << 32, 4 << 20
DESC, AVAIL, USED, HEADERS, DATA = 0x0, 0x1000, 0x2000, 0x3000, 0x10000
NUM, LENGTH = 128, 16384
WRITE, NEXT = 2, 1
PATIENCE = 10.0
MANY = 200
KICKS = 2000


def told() -> bool:
    """Whether to end."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


@contextlib.contextmanager
def connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)  # waits for its turn as long as it takes
        sock.settimeout(PATIENCE)
        yield sock


def message(number: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
    return struct.pack("=III", number, flags, len(payload)) + payload


def ask(sock: socket.socket, number: int, payload: bytes, *fds: int) -> None:
    """Send a request and wait until it is acknowledged."""
    socket.send_fds(sock, [message(number, payload, VERSION | NEED_REPLY)], fds)
    answer = sock.recv(20, socket.MSG_WAITALL)
    if len(answer) < 20 or answer[12:] != bytes(8):
        raise SystemExit(f"request {number} was not carried out: {answer.hex()}")


def wait_closed(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass


class Ring:
    """A split ring that runs, in memory of its own.

    Args:
        sock: a fresh connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.memfd = os.memfd_create("hostile", os.MFD_CLOEXEC)
        os.truncate(self.memfd, SIZE)
        self.memory = mmap.mmap(self.memfd, SIZE)
        self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.index = 0
        sock.sendall(message(SET_OWNER) + message(SET_FEATURES, struct.pack("=Q", FEATURES)))
        sock.sendall(message(SET_PROTOCOL_FEATURES, struct.pack("=Q", PROTOCOL_FEATURES)))
        table = struct.pack("=IIQQQQ", 1, 0, GPA, SIZE, GPA, 0)
        ask(sock, SET_MEM_TABLE, table, self.memfd)
        ask(sock, SET_VRING_NUM, struct.pack("=II", 0, NUM))
        ask(sock, SET_VRING_BASE, struct.pack("=II", 0, 0))
        areas = [0, 0, GPA + DESC, GPA + USED, GPA + AVAIL, 0]
        ask(sock, SET_VRING_ADDR, struct.pack("=IIQQQQ", *areas))
        ask(sock, SET_VRING_KICK, bytes(8), self.kick)
        ask(sock, SET_VRING_ENABLE, struct.pack("=II", 0, 1))

    def notify(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.kick, 1)

    def fill(self) -> None:
        """Make as many reads available as there is room for."""
        for number in range(NUM // 2):
            header, data = GPA + HEADERS + 16 * number, GPA + DATA + LENGTH * number
            struct.pack_into("<IIQ", self.memory, HEADERS + 16 * number, 0, 0, number)
            first = struct.pack("<QIHH", header, 16, NEXT, 2 * number + 1)
            second = struct.pack("<QIHH", data, LENGTH + 1, WRITE, 0)
            # the byte behind the data is the status, which the next buffer overwrites
            self.memory[DESC + 32 * number : DESC + 32 * (number + 1)] = first + second
            place = AVAIL + 4 + 2 * ((self.index + number) % NUM)
            struct.pack_into("<H", self.memory, place, 2 * number)
        self.index = (self.index + NUM // 2) % 65536
        # In one store: struct's pack_into clears the place first, and the ring is being polled.
        ctypes.c_uint16.from_buffer(self.memory, AVAIL + 2).value = self.index
        self.notify()

    def wait(self) -> None:
        """Until all was served."""
        end = time.monotonic() + PATIENCE
        while struct.unpack_from("<H", self.memory, USED + 2)[0] != self.index:
            if time.monotonic() > end:
                raise SystemExit("requests were not served")
            os.sched_yield()

    def close(self) -> None:
        self.memory.close()
        os.close(self.memfd)
        os.close(self.kick)


@contextlib.contextmanager
def ringing(path: str) -> Iterator[tuple[socket.socket, Ring]]:
    with connected(path) as sock, contextlib.closing(Ring(sock)) as ring:
        yield sock, ring


def once(path: str, attack: Callable[[str], None]) -> Iterator[None]:
    """Do it again and again."""
    while True:
        attack(path)
        yield


def send_garbage(path: str) -> None:
    """Random bytes, and messages with random contents and a stranger's fd."""
    for number in [*range(45), 65535]:
        with connected(path) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            data = message(number, random.randbytes(random.randrange(64)))  # noqa: S311
            socket.send_fds(sock, [data], [sys.stdin.fileno()])
            sock.sendall(random.randbytes(500))  # noqa: S311
            sock.shutdown(socket.SHUT_WR)
            wait_closed(sock)


def truncate_memory(path: str) -> None:
    """Memory that goes while the ring is served."""
    with ringing(path) as (sock, ring):
        ring.fill()
        os.truncate(ring.memfd, 0)
        ring.notify()
        wait_closed(sock)


def spoil_ring(path: str) -> None:
    """A ring full of nonsense, and one that becomes so."""
    with ringing(path) as (sock, ring):
        ring.memory[DESC:USED] = random.randbytes(USED - DESC)  # noqa: S311
        ring.notify()
        sock.sendall(message(GET_FEATURES))
        sock.recv(20, socket.MSG_WAITALL)


def connect_storm(path: str) -> None:
    """Connections that say nothing."""
    for _ in range(MANY):
        with connected(path):
            pass


def stall(path: str) -> Iterator[None]:
    """Half a message, and others who wait behind it."""
    with connected(path) as sock, contextlib.ExitStack() as stack:
        sock.sendall(message(SET_VRING_NUM, bytes(8))[:15])
        for _ in range(MANY):
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            other.setblocking(False)  # noqa: FBT003 - no keyword
            with contextlib.suppress(BlockingIOError):
                other.connect(path)
        while True:
            yield
            time.sleep(0.01)


def kick_storm(path: str) -> Iterator[None]:
    """Kicks for nothing, as fast as they can be written."""
    with ringing(path) as (_, ring):
        while True:
            for _ in range(KICKS):
                ring.notify()
            yield


def flood(path: str) -> Iterator[None]:
    """As many requests as the ring holds, always."""
    with ringing(path) as (_, ring):
        while True:
            ring.fill()
            ring.wait()
            yield


ATTACKS: dict[str, Callable[[str], Iterator[None]]] = {
    "garbage": lambda path: once(path, send_garbage),
    "truncation": lambda path: once(path, truncate_memory),
    "spoilt-ring": lambda path: once(path, spoil_ring),
    "connect-storm": lambda path: once(path, connect_storm),
    "stall": stall,
    "kick-storm": kick_storm,
    "flood": flood,
}


def main() -> None:
    """Attack."""
    parser = argparse.ArgumentParser(description="attack a disk until a line comes on stdin")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("socket")
    options = parser.parse_args()
    random.seed(options.attack)
    for number, _ in enumerate(ATTACKS[options.attack](options.socket)):
        if number == 0:
            sys.stdout.write(f"{options.attack}\n")
            sys.stdout.flush()
        if told():
            return


if __name__ == "__main__":
    main()
