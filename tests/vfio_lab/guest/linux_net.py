"""What Linux's own driver makes of a network card that sends every frame back."""

from __future__ import annotations

import fcntl
import random
import socket
import struct
from pathlib import Path

_NAME = "eth0"
_KIND = 0x88B5  # for experiments
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_ROUNDS = 300


def _card():
    """Bring the card up; return a socket for frames of our kind, and its address."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_KIND))
    fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh14x", _NAME.encode(), _IFF_UP))
    link.bind((_NAME, _KIND))
    link.settimeout(30)
    return link, bytes.fromhex((_net() / "address").read_text().strip().replace(":", ""))


def _net():
    return Path("/sys/class/net") / _NAME


def _receive(link):
    while True:
        frame, where = link.recvfrom(65536)
        if where[2] != socket.PACKET_OUTGOING:  # our own, on its way out
            return frame


def check_every_frame_comes_back_as_it_was():
    source = random.Random(11)  # noqa: S311 - no secret
    link, address = _card()
    with link:
        for number in range(_ROUNDS):
            payload = source.randbytes(source.randrange(46, 1501))
            frame = address + address + struct.pack(">H", _KIND) + payload
            link.send(frame)
            assert _receive(link) == frame, number
    statistics = _net() / "statistics"
    counts = {name: int((statistics / name).read_text()) for name in ("rx_packets", "tx_packets")}
    assert min(counts.values()) >= _ROUNDS, counts
    driver = (_net() / "device" / "driver").resolve().name
    features = (_net() / "device" / "features").read_text().strip()
    return {"driver": driver, "packed": features[34], "address": address.hex(":")}


def check_a_driver_that_comes_back_finds_the_card_working():
    name = (_net() / "device").resolve().name
    driver = Path("/sys/bus/virtio/drivers/virtio_net")
    (driver / "unbind").write_text(name)
    assert not _net().exists()
    (driver / "bind").write_text(name)
    check_every_frame_comes_back_as_it_was()
