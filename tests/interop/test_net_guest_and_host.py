"""A guest and the host's network stack on a switch, by a TAP device: from the firmware on."""

from __future__ import annotations

import hashlib
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest
from namespaces import namespace
from net_guests import IN_LARGE_PIECES, Card, NetMachine, Station, Talker, boot_files
from netboot import netboot
from parts.require import require
from switch_rig import Switch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from namespaces import Namespace

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

_MAC = "02:00:00:00:0d:00"
_PAIRS = 2
_HOST = "10.9.0.1"
_HOST6 = "fd09::1"
_AT_FIRST = "10.9.0.99"
_SECONDS = 60
_FILE_KIB = 1024
_CHUNK = 1 << 16
_LARGEST_SEGMENT = 1514
_SCRIPT = """\
#!ipxe
kernel vmlinuz {words} initrd=initramfs
initrd initramfs
boot
"""


@pytest.mark.parametrize("part", ["qemu-10", "qemu-7"])
def test_a_guest_boots_from_the_host_and_talks_with_it(
    part: str, backend: Callable[..., Any], tmp_path: Path
) -> None:
    require("namespaces")
    roms = require(part) / "root" / "usr" / "lib" / "ipxe" / "qemu"
    # What the firmware does comes first, by one pair of queues and without offloads; the kernel
    # negotiates anew on the same connection. Without MSI-X: see test_net_guests.
    options = "bootindex=1" + (",vectors=0" if part == "qemu-7" else ",packed=on")

    with namespace() as host:
        switch = Switch.start(backend, "--workers", _PAIRS, before=host.enter)
        switch.add_tap("tap0", queue_pairs=_PAIRS)
        host.set_up("tap0", f"{_HOST}/24")
        host.set_up("tap0", f"{_HOST6}/64")
        card = Card(
            socket=switch.add("guest", queue_pairs=_PAIRS), mac=_MAC, pairs=_PAIRS, options=options
        )
        machine = NetMachine(part=part, cards=[card], boot=("-L", str(roms)))
        files = _boot_folder(tmp_path)
        with (
            netboot(host, "tap0", files, address=_HOST, guest=_AT_FIRST) as fetched,
            Talker.boot(machine, tmp_path / "guest") as guest,
        ):
            guest.wait_for_boot()
            assert fetched == ["/boot.ipxe", "/vmlinuz", "/initramfs"]
            by_firmware = switch.counted("guest")
            station = Station.settle(guest, 0, _MAC, 20)
            assert station.pairs == switch.port("guest")["pairs-used"] == _PAIRS
            _they_talk(host, station, switch)
            counted = switch.counted("guest")
            guest.finish()
        assert switch.addresses()[_MAC] == "guest"

    assert by_firmware.received_bytes > (files / "vmlinuz").stat().st_size
    assert by_firmware.received_bytes <= by_firmware.received * _LARGEST_SEGMENT
    assert by_firmware.segments > 0, "the host sends larger frames than the firmware takes"
    assert counted.segments == by_firmware.segments
    assert counted.drops.keys() <= {"no-buffer", "no-receiver"}, counted
    switch.served.terminate()


def _boot_folder(folder: Path) -> Path:
    files = folder / "files"
    files.mkdir()
    kernel, initramfs, words = boot_files(files)
    shutil.copy(kernel, files / "vmlinuz")
    assert initramfs == files / "initramfs"
    (files / "boot.ipxe").write_text(_SCRIPT.format(words=words))
    return files


def _they_talk(host: Namespace, station: Station, switch: Switch) -> None:
    station.ping(_HOST, count=5, size=20_000)
    station.ping(_HOST6)
    wanted = station.guest.make_data(_FILE_KIB)
    for family, address, own in (
        (socket.AF_INET, _HOST, station.ip),
        (socket.AF_INET6, _HOST6, station.ip6),
    ):
        before = switch.counted("guest")
        data = _received(host, station, family, address)
        middle = switch.counted("guest")
        assert hashlib.sha256(data).hexdigest() == wanted
        # And back, another way round: who listens is the guest.
        station.guest.run(f"receive 0 {7000 + family}")
        with host.socket(family, socket.SOCK_STREAM) as out:
            out.settimeout(_SECONDS)
            out.connect((own, 7000 + family))
            out.sendall(data[::-1])
        found = station.guest.run(f"received {7000 + family}")
        assert found == hashlib.sha256(data[::-1]).hexdigest()
        after = switch.counted("guest")
        # Either of them sends what is larger than a segment, and the other takes it as it is.
        sent, received = middle.sent - before.sent, after.received - middle.received
        assert middle.sent_bytes - before.sent_bytes > sent * _LARGEST_SEGMENT
        assert after.received_bytes - middle.received_bytes > received * _LARGEST_SEGMENT


def _received(host: Namespace, station: Station, family: socket.AddressFamily, at: str) -> bytes:
    """Return what the guest sends to a listener of the host."""
    with host.socket(family, socket.SOCK_STREAM) as listener:
        listener.settimeout(_SECONDS)
        listener.bind((at, 0))
        listener.listen()
        port = listener.getsockname()[1]
        station.guest.run(f"at 0 nc {at} {port} {IN_LARGE_PIECES} & echo $! >/tmp/sender")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_SECONDS)
            data = b"".join(iter(lambda: connection.recv(_CHUNK), b""))
        station.guest.run('wait "$(cat /tmp/sender)"')
    return data
