"""Guests with network cards, which do what a test tells them, one line of shell at a time."""

from __future__ import annotations

import contextlib
import shlex
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from guest_rig import LiveMachine, control, script
from parts.require import require

from vhostuser.testing.guest import (
    GuestFiles,
    boot_arguments,
    build_initramfs,
    machine_arguments,
    memory_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "IN_LARGE_PIECES",
    "Card",
    "NetMachine",
    "Station",
    "Talker",
    "UmlMachine",
    "boot_files",
    "guest_files",
    "send_file",
]

_SECONDS = 240
_MEMORY_MIB = 192
_SMALL = 1000
_FEW = 10
_PATIENCE = 60
_VIRTIO_NET = 1
_DRIVERS = ("failover", "net_failover", "virtio_net", "llc", "stp", "garp", "mrp", "8021q")
IN_LARGE_PIECES = "-e dd if=/tmp/data bs=64k 2>/dev/null"
"""Has nc send the data: by itself it writes 1 KiB at a time, which may become as many frames."""
# With a thread for each processor QEMU 10.0 aborts now and then, see handover_rig.
_ACCEL = ("-accel", "tcg,thread=single")


def guest_files() -> GuestFiles:
    """Return a kernel with drivers for network cards and VLANs."""
    files = GuestFiles.in_folder(require("vfio-kernel"))
    modules = tuple(path for path in files.modules if path.stem.partition("-")[2] in _DRIVERS)
    return GuestFiles(kernel=files.kernel, busybox=files.busybox, modules=modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A network card of a QEMU guest.

    Args:
        socket: where the switch listens for it.
        mac: its address.
        pairs: of queues; more than one makes it a card with several.
        options: QEMU's options for the device, as on its command line.
        again: QEMU's option of the socket that has it connect again, if it shall.
    """

    socket: Path
    mac: str
    pairs: int = 1
    options: str = ""
    again: str = ""

    def arguments(self, number: int) -> list[str]:
        """Return the QEMU arguments of the card with this number; `net<number>` is its name."""
        words = ["virtio-net-pci", f"id=card{number}", f"netdev=net{number}", f"mac={self.mac}"]
        if self.pairs > 1:
            words += ["mq=on", f"vectors={2 * self.pairs + 2}"]
        words += [self.options] if self.options else []
        if "bootindex" not in self.options:  # it does not boot by it
            words.append("romfile=")
        return [
            *("-chardev", f"socket,id=switch{number},path={self.socket}{self.again}"),
            *("-netdev", f"vhost-user,id=net{number},chardev=switch{number},queues={self.pairs}"),
            *("-device", ",".join(words)),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetMachine:
    """A QEMU guest with cards.

    Args:
        part: whose QEMU runs it.
        cards: what it has.
        boot: more arguments in place of kernel and initramfs, for one that boots otherwise.
        cpus: virtual processors; the driver uses no more pairs of queues than these.
    """

    part: str
    cards: Sequence[Card]
    boot: tuple[str, ...] = ()
    cpus: int = 2

    def command(self, folder: Path) -> list[str]:
        """Return the whole command line; what it boots and its monitor are in `folder`."""
        boot = list(self.boot) or boot_arguments(guest_files().kernel, _initramfs(folder))
        return [
            *(str(require(self.part) / "qemu-system-x86_64"), *_ACCEL),
            *(*machine_arguments(cpus=self.cpus), *memory_arguments(_MEMORY_MIB), *boot),
            *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
            *(word for number, card in enumerate(self.cards) for word in card.arguments(number)),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UmlMachine:
    """A user-mode Linux with one card.

    Args:
        socket: where the switch listens for it.
    """

    socket: Path

    def command(self, folder: Path) -> list[str]:
        """Return the whole command line; what it boots is in `folder`."""
        part = require("uml")
        modules = tuple(sorted((part / "modules").glob("*.ko")))
        files = GuestFiles(
            kernel=part / "linux.uml", busybox=require("guest") / "busybox", modules=modules
        )
        return [
            *(str(files.kernel), "mem=96M", f"initrd={_initramfs(folder, files)}"),
            *("quiet", "loglevel=4"),
            # First all consoles, then the one that is used.
            *("con=null", "con0=fd:0,fd:1", "ssl=null"),
            f"virtio_uml.device={self.socket}:{_VIRTIO_NET}",
            f"uml_dir={folder}",
        ]


def _initramfs(folder: Path, files: GuestFiles | None = None) -> Path:
    path = folder / "initramfs"
    path.write_bytes(build_initramfs(files or guest_files(), script("guest_switch.sh")))
    return path


def boot_files(folder: Path) -> tuple[Path, Path, str]:
    """Return what a machine needs to boot otherwise than by QEMU.

    Args:
        folder: for the initramfs.

    Returns:
        Kernel, initramfs, and the words of the kernel's command line.
    """
    files = guest_files()
    initramfs = _initramfs(folder)
    *_, words = boot_arguments(files.kernel, initramfs)
    return files.kernel, initramfs, words


class Talker:
    """A guest that does what it is told, from the moment at which it has booted.

    Args:
        machine: what runs it.
        monitor: where QEMU takes commands, if it is QEMU.

    Attributes:
        digest: of its /tmp/data.
    """

    def __init__(self, machine: LiveMachine, monitor: Path) -> None:
        self._machine = machine
        self._monitor = monitor
        self._ready = False
        self.digest = ""

    @classmethod
    @contextlib.contextmanager
    def boot(cls, machine: NetMachine | UmlMachine, folder: Path) -> Iterator[Self]:
        """Have a guest for the length of the block; start others before it has booted.

        Args:
            machine: what it is.
            folder: a new one, for its files.
        """
        folder.mkdir()
        with LiveMachine(command=machine.command(folder), seconds=_SECONDS) as live:
            yield cls(live, folder / "qmp")

    def wait_for_boot(self) -> None:
        """Wait until it can be told something; also for its second boot."""
        self._machine.wait_for("AGENT ready")
        self._ready = True

    def run(self, words: str) -> str:
        """Have words executed by its shell, to their end, which must be a good one.

        Returns:
            What they printed.
        """
        if not self._ready:
            self.wait_for_boot()
        before = len(self._machine.lines)
        self._machine.write(words)
        self._machine.wait_for("STATUS ")
        *printed, status = self._machine.lines[before:]
        text = "".join(printed).strip()
        assert status.strip() == "STATUS 0", f"{words}: {status}{text}\n{self._machine.console}"
        return text

    def make_data(self, kib: int) -> str:
        """Have it make /tmp/data, of random bytes; return the digest."""
        self.run(f"dd if=/dev/urandom of=/tmp/data bs=1k count={kib} 2>/dev/null")
        self.digest = self.run("sha256sum </tmp/data").split()[0]
        return self.digest

    def leave(self, words: str) -> None:
        """Have words executed after which it boots anew."""
        self._machine.write(words)
        self._ready = False

    def monitor(self, command: str, **arguments: object) -> object:
        """Execute a command of QEMU's monitor."""
        return control(self._monitor, command, **arguments)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have nothing of it run for the length of the block, and nobody told of that."""
        self._machine.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._machine.signal(signal.SIGCONT)

    def finish(self) -> str:
        """Power it off, which must go well; return all that it printed."""
        self._machine.write("power-off")
        return self._machine.finish()


@dataclass(frozen=True, kw_only=True)
class Station:
    """One card of a guest, with addresses of its own, in a name space of its own.

    Args:
        guest: whose it is.
        place: its number there.
        number: the end of its addresses, on the whole switch.
        pairs: of queues that its driver has.
        features: what its driver has accepted, by their numbers.
    """

    guest: Talker
    place: int
    number: int
    pairs: int
    features: frozenset[int]

    @classmethod
    def settle(cls, guest: Talker, place: int, mac: str, number: int) -> Self:
        """Give a card of a guest a place, its addresses, and a link that is up."""
        printed = guest.run(f"settle {place} {mac} {number}").splitlines()
        found = dict(line.split(" ") for line in printed)
        return cls(
            guest=guest,
            place=place,
            number=number,
            pairs=int(found["PAIRS"]),
            features=frozenset(i for i, bit in enumerate(found["FEATURES"]) if bit == "1"),
        )

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return f"10.9.0.{self.number}"

    @property
    def ip6(self) -> str:
        """Its IPv6 address."""
        return f"fd09::{self.number}"

    def run(self, words: str) -> str:
        """Have words executed where only this card is seen."""
        return self.guest.run(f"at {self.place} sh -c {shlex.quote(words)}")

    def ping(self, address: str, *, count: int = 20, size: int = 1000) -> None:
        """Have `count` echoes come back, byte by byte as they were sent.

        All of their frames must fit into a receive ring: a busy machine may let a guest wait.
        One comes first: a kernel that does not know its neighbour's address yet drops most of what
        it wants to send there.
        """
        if size > _SMALL:
            self.ping(address, count=1, size=_SMALL)
        words = f"ping -q -c {count} -i 0.01 -W 5 -s {size} -p a5 {address}"
        printed = self.run(words)
        assert " 0% packet loss" in printed, printed

    def reach(self, address: str) -> None:
        """Wait until an echo comes back: a cable may be in before QEMU has started the rings."""
        self.run(f"until ping -q -c 1 -W 1 {address}; do :; done >/dev/null")

    def start_echoes(self, address: str, *, patience: int = _PATIENCE) -> None:
        """Have echoes go and come back, one after the other, until `end_echoes`.

        Args:
            address: who echoes.
            patience: how long each is waited for, in seconds.
        """
        self.guest.run(f"steady {self.place} {address} {patience}")

    def end_echoes(self) -> None:
        """All must have come back."""
        sent, back = map(int, self.guest.run("steadily").split())
        assert sent > _FEW
        assert sent == back, f"of {sent} echoes {back} came back"


def send_file(source: Station, target: Station, *, address: str = "") -> None:
    """Send /tmp/data of the one's guest to the other by TCP, where its digest must be the same.

    Args:
        source: who connects.
        target: who listens.
        address: of the target; its IPv4 address if not given.
    """
    port = 7000 + target.number
    target.guest.run(f"receive {target.place} {port}")
    source.guest.run(f"at {source.place} nc {address or target.ip} {port} {IN_LARGE_PIECES}")
    found = target.guest.run(f"received {port}")
    assert found == source.guest.digest, f"from {source.number} to {target.number}"
