"""A host from which machines boot by network: it gives an address by DHCP, and files by HTTP.

As much of DHCP as firmware needs: whoever asks gets the one address that there is (RFC 2131).
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from namespaces import Namespace

__all__ = ["netboot"]

_COOKIE = bytes.fromhex("63825363")
_REQUEST, _REPLY = 1, 2
_DISCOVER, _OFFER, _WANT, _ACK = 1, 2, 3, 5
_MASK, _ROUTER, _LEASE, _KIND, _SERVER, _FILE, _END = 1, 3, 51, 53, 54, 67, 255
_SERVER_PORT, _CLIENT_PORT = 67, 68
_OPTIONS_AT = 240
_LARGEST = 1500


@contextlib.contextmanager
def netboot(
    host: Namespace, device: str, folder: Path, *, address: str, guest: str
) -> Iterator[list[str]]:
    """Serve machines that boot by the script boot.ipxe of a folder, for the length of the block.

    Args:
        host: where the server is.
        device: by which it reaches them.
        folder: whose files they may have.
        address: of the server.
        guest: the address that they get.

    Returns:
        The paths of files that were fetched, as they come.
    """
    fetched: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_words: Any) -> None:
            fetched.append(self.path)

    make = functools.partial(Handler, directory=str(folder))
    web = host.call(lambda: http.server.ThreadingHTTPServer((address, 0), make))
    script = f"http://{address}:{web.server_port}/boot.ipxe"
    asked = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    asked.bind(("0.0.0.0", _SERVER_PORT))  # noqa: S104 - in a name space of the test's own
    answering = threading.Thread(target=_answer, args=(asked, address, guest, script))
    serving = threading.Thread(target=web.serve_forever)
    with web, asked:
        answering.start()
        serving.start()
        try:
            yield fetched
        finally:
            web.shutdown()
            with contextlib.suppress(OSError):  # nobody is at the other end of a datagram socket
                asked.shutdown(socket.SHUT_RDWR)
            answering.join()
            serving.join()


def _answer(asked: socket.socket, address: str, guest: str, script: str) -> None:
    """Answer DHCP until the socket is shut down."""
    while message := asked.recv(_LARGEST):
        kind = _kind_of(message)
        if kind in {_DISCOVER, _WANT}:
            reply = _reply(message, _OFFER if kind == _DISCOVER else _ACK, address, guest, script)
            asked.sendto(reply, ("255.255.255.255", _CLIENT_PORT))


def _kind_of(message: bytes) -> int | None:
    if message[0] != _REQUEST or message[_OPTIONS_AT - 4 : _OPTIONS_AT] != _COOKIE:
        return None
    at = _OPTIONS_AT
    while at + 2 < len(message) and message[at] != _END:
        if message[at] == _KIND:
            return message[at + 2]
        at += 1 if message[at] == 0 else 2 + message[at + 1]
    return None


def _reply(message: bytes, kind: int, address: str, guest: str, script: str) -> bytes:
    """Build what answers a message: hardware, transaction and flags are the asker's."""
    server = ipaddress.IPv4Address(address).packed
    head = bytes([_REPLY]) + message[1:4] + message[4:8] + bytes(2) + message[10:12]
    addresses = bytes(4) + ipaddress.IPv4Address(guest).packed + server + bytes(4)
    hardware = message[28:44]
    options = b"".join(
        bytes([number, len(value)]) + value
        for number, value in (
            (_KIND, bytes([kind])),
            (_SERVER, server),
            (_LEASE, (3600).to_bytes(4, "big")),
            (_MASK, bytes([255, 255, 255, 0])),
            (_ROUTER, server),
            (_FILE, script.encode()),
        )
    )
    return head + addresses + hardware + bytes(64 + 128) + _COOKIE + options + bytes([_END])
