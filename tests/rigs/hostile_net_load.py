"""A front-end that attacks a port of a switch until it is told to end.

    python tests/rigs/hostile_net_load.py ATTACK SOCKET ADDRESS...

As `hostile_load`, for networks: ADDRESS... are those of the others, the first one its own. What it
sends does not fit the others' receive buffers, so that they have no excuse to lose a frame.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import random
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

from hostile_load import (
    FEATURES,
    GET_FEATURES,
    PATIENCE,
    PROTOCOL_FEATURES,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_ENABLE,
    SET_VRING_KICK,
    SET_VRING_NUM,
    ask,
    connected,
    message,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["ATTACKS", "FRAME", "LARGE", "SOURCES_AT_ONCE"]

GPA, SIZE = 1 << 32, 4 << 20
NUM = 256
SOURCES_AT_ONCE = NUM
"""Addresses that are made up at once."""
RINGS, DESC, AVAIL, USED, RING_SIZE = 2, 0x0, 0x1000, 0x2000, 0x4000
FRAMES, SLOT = 0x10000, 0x2000
HEADER, FRAME = 12, 4000
LARGE = 65550
BROADCAST = b"\xff" * 6
RECEIVES, SENDS = 0, 1
KICKS = 2000


class Pair:
    """Two split rings that run, in memory of their own.

    Args:
        sock: a fresh connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.memfd = os.memfd_create("hostile", os.MFD_CLOEXEC)
        os.truncate(self.memfd, SIZE)
        self.memory = mmap.mmap(self.memfd, SIZE)
        self.kicks = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(RINGS)]
        self.index = 0
        sock.sendall(message(SET_OWNER) + message(SET_FEATURES, struct.pack("=Q", FEATURES)))
        sock.sendall(message(SET_PROTOCOL_FEATURES, struct.pack("=Q", PROTOCOL_FEATURES)))
        table = struct.pack("=IIQQQQ", 1, 0, GPA, SIZE, GPA, 0)
        ask(sock, SET_MEM_TABLE, table, self.memfd)
        for ring, kick in enumerate(self.kicks):
            start = GPA + ring * RING_SIZE
            ask(sock, SET_VRING_NUM, struct.pack("=II", ring, NUM))
            ask(sock, SET_VRING_BASE, struct.pack("=II", ring, 0))
            areas = [ring, 0, start + DESC, start + USED, start + AVAIL, 0]
            ask(sock, SET_VRING_ADDR, struct.pack("=IIQQQQ", *areas))
            ask(sock, SET_VRING_KICK, struct.pack("=Q", ring), kick)
            ask(sock, SET_VRING_ENABLE, struct.pack("=II", ring, 1))
        heads = struct.pack(f"<{NUM}H", *range(NUM))
        self.memory[RING_SIZE + AVAIL + 4 : RING_SIZE + AVAIL + 4 + len(heads)] = heads

    def notify(self, ring: int = SENDS) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.kicks[ring], 1)

    def place(self, slot: int, frame: bytes) -> None:
        """Put a frame, behind an empty header, where descriptor `slot` of the sending ring is."""
        start = FRAMES + slot * SLOT
        self.memory[start : start + HEADER + len(frame)] = bytes(HEADER) + frame
        desc = struct.pack("<QIHH", GPA + start, HEADER + len(frame), 0, 0)
        at = RING_SIZE + DESC + 16 * slot
        self.memory[at : at + 16] = desc

    def send(self, count: int = NUM) -> None:
        """Make so many descriptors available, in one store: the ring is being polled."""
        self.index = (self.index + count) % 65536
        self.set_index(self.index)
        self.notify()

    def set_index(self, index: int, ring: int = SENDS) -> None:
        ctypes.c_uint16.from_buffer(self.memory, ring * RING_SIZE + AVAIL + 2).value = index

    def wait(self) -> None:
        """Until all was sent."""
        end = time.monotonic() + PATIENCE
        while struct.unpack_from("<H", self.memory, RING_SIZE + USED + 2)[0] != self.index:
            if time.monotonic() > end:
                raise SystemExit("frames were not sent")
            os.sched_yield()

    def close(self) -> None:
        self.memory.close()
        os.close(self.memfd)
        for kick in self.kicks:
            os.close(kick)


@contextlib.contextmanager
def pair(path: str) -> Iterator[tuple[socket.socket, Pair]]:
    with connected(path) as sock, contextlib.closing(Pair(sock)) as rings:
        yield sock, rings


def await_left(sock: socket.socket) -> None:
    """Until the back-end has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass


def settle(sock: socket.socket) -> None:
    """Until the back-end answers again."""
    sock.sendall(message(GET_FEATURES))
    sock.recv(20, socket.MSG_WAITALL)


def flood(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """Broadcast large frames, always as many as the ring holds."""
    with pair(path) as (_, rings):
        for slot in range(NUM):
            rings.place(slot, BROADCAST + addresses[0] + bytes(FRAME - 12))
        while True:
            rings.send()
            rings.wait()
            yield


def largest(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """The largest frames there are, in one buffer that overlaps those of the next ones."""
    with pair(path) as (_, rings):
        for slot in range(NUM // 2):
            rings.place(slot, (BROADCAST + addresses[0] + b"\x88\xb5").ljust(LARGE, b"\xa5"))
        while True:
            rings.send(NUM // 2)
            rings.wait()
            rings.send(NUM // 2)  # the rest of the ring: descriptors of no bytes
            rings.wait()
            yield


def garbage(path: str, _addresses: Sequence[bytes]) -> Iterator[None]:
    """Rings of random bytes."""
    while True:
        with pair(path) as (sock, rings):
            rings.memory[: RINGS * RING_SIZE] = random.randbytes(RINGS * RING_SIZE)  # noqa: S311
            rings.notify(RECEIVES)
            rings.notify(SENDS)
            settle(sock)
        yield


def stuck(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """A receiver that never offers a buffer, and has itself be known."""
    with pair(path) as (_, rings):
        rings.place(0, BROADCAST + addresses[0] + bytes(FRAME - 12))
        rings.send(1)
        while True:
            time.sleep(0.01)
            yield


def broken(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """Rings that break by every rule, again and again."""
    jumps = (NUM + 1, 1 << 15, 0xFFFF)
    for number in range(1 << 30):
        with pair(path) as (sock, rings):
            rings.place(0, addresses[1] + addresses[0] + bytes(FRAME - 12))
            rings.send(1)
            rings.wait()
            rings.set_index(jumps[number % len(jumps)], ring=number % RINGS)
            rings.notify(number % RINGS)
            settle(sock)
        yield


def truncation(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """Memory that goes while its frames are being read."""
    while True:
        with pair(path) as (sock, rings):
            for slot in range(NUM):
                rings.place(slot, BROADCAST + addresses[0] + bytes(FRAME - 12))
            rings.send()
            os.truncate(rings.memfd, 0)
            rings.notify()
            await_left(sock)
        yield


def leaving(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """A front-end that goes while its frames are on their way."""
    while True:
        with pair(path) as (_, rings):
            for slot in range(NUM):
                rings.place(slot, BROADCAST + addresses[0] + bytes(FRAME - 12))
            rings.send()
        yield


def sources(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """Random source addresses, a ring full at once."""
    with pair(path) as (_, rings):
        for slot in range(NUM):
            rings.place(slot, addresses[0] + addresses[0] + bytes(FRAME - 12))
        while True:
            made_up = random.randbytes(5 * NUM)  # noqa: S311
            for slot in range(NUM):
                at = FRAMES + slot * SLOT + HEADER + 6
                rings.memory[at + 1 : at + 6] = made_up[5 * slot : 5 * slot + 5]
            rings.send()
            rings.wait()
            yield


def spoofing(path: str, addresses: Sequence[bytes]) -> Iterator[None]:
    """Frames that say they come from each of the others."""
    with pair(path) as (_, rings):
        for slot in range(NUM):
            source = addresses[1 + slot % (len(addresses) - 1)]
            rings.place(slot, BROADCAST + source + bytes(FRAME - 12))
        while True:
            rings.send()
            rings.wait()
            yield


def kick_storm(path: str, _addresses: Sequence[bytes]) -> Iterator[None]:
    """Kicks for nothing, as fast as they can be written."""
    with pair(path) as (_, rings):
        while True:
            for number in range(KICKS):
                rings.notify(number % RINGS)
            yield


ATTACKS: dict[str, Callable[[str, Sequence[bytes]], Iterator[None]]] = {
    "flood": flood,
    "largest": largest,
    "garbage": garbage,
    "stuck": stuck,
    "broken": broken,
    "truncation": truncation,
    "leaving": leaving,
    "sources": sources,
    "spoofing": spoofing,
    "kick-storm": kick_storm,
}


def main() -> None:
    """Attack."""
    parser = argparse.ArgumentParser(description="attack a port until a line comes on stdin")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("socket")
    parser.add_argument("addresses", nargs="+", type=bytes.fromhex)
    parser.add_argument("--times", type=int, help="end by itself after so many rounds")
    options = parser.parse_args()
    random.seed(options.attack)
    for number, _ in enumerate(ATTACKS[options.attack](options.socket, options.addresses)):
        if number == 0:
            sys.stdout.write(f"{options.attack}\n")
            sys.stdout.flush()
        if told() if options.times is None else number + 1 == options.times:
            return


if __name__ == "__main__":
    main()
