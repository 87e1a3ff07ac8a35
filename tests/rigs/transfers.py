"""Bytes that cross a network between two namespaces, checked at their end."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from namespaces import Namespace

__all__ = ["exchange_datagrams", "transfer"]

_SECONDS = 30
_CHUNK = 1 << 20
_DATAGRAM_BYTES, _DATAGRAMS = 1200, 40
UDP_SEGMENT = 103
"""The option of a socket by which one call sends many datagrams of this size; see udp(7)."""


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - no secret


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def transfer(sender: Namespace, receiver: Namespace, address: str, size: int) -> None:
    """Send bytes by TCP, and check that they are the same at their end.

    Args:
        sender: who connects, and sends.
        receiver: who listens.
        address: of the receiver.
        size: how many bytes.
    """
    data = _noise(size)
    with (
        receiver.socket(_family(address), socket.SOCK_STREAM) as listening,
        sender.socket(_family(address), socket.SOCK_STREAM) as sending,
    ):
        listening.bind((address, 0))
        listening.listen()
        listening.settimeout(_SECONDS)
        sending.settimeout(_SECONDS)
        sending.connect(listening.getsockname()[:2])
        thread = threading.Thread(target=_send, args=(sending, data))
        thread.start()
        try:
            received = _receive(listening)
        finally:
            thread.join()
    assert received == hashlib.sha256(data).hexdigest()


def _send(sending: socket.socket, data: bytes) -> None:
    sending.sendall(data)
    sending.shutdown(socket.SHUT_WR)


def _receive(listening: socket.socket) -> str:
    """Return the checksum of all that the one who connects sends."""
    received = hashlib.sha256()
    with listening.accept()[0] as connection:
        connection.settimeout(_SECONDS)
        while chunk := connection.recv(_CHUNK):
            received.update(chunk)
    return received.hexdigest()


def exchange_datagrams(
    sender: Namespace, receiver: Namespace, address: str, *, at_once: bool
) -> None:
    """Send datagrams, and check that each comes, as it was.

    Args:
        sender: who sends.
        receiver: who receives.
        address: of the receiver.
        at_once: by one call, which leaves it to others to cut them (UDP_SEGMENT).
    """
    size = _DATAGRAM_BYTES
    data = _noise(size * _DATAGRAMS)
    with (
        receiver.socket(_family(address), socket.SOCK_DGRAM) as receiving,
        sender.socket(_family(address), socket.SOCK_DGRAM) as sending,
    ):
        receiving.bind((address, 0))
        receiving.settimeout(_SECONDS)
        sending.connect(receiving.getsockname()[:2])
        if at_once:
            sending.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
            sending.send(data)
        for place in range(0, len(data), size):
            if not at_once:
                sending.send(data[place : place + size])
            assert receiving.recv(1 << 16) == data[place : place + size]
