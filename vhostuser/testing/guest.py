"""A small guest under QEMU, with a disk that a vhost-user back-end serves.

A kernel, a busybox and the virtio drivers become an initramfs here; a shell script runs in it and
talks through the serial console. Standard library only, and nothing of this project but the path of
a socket: the guest does not care who serves it. The demo boots one, the tests boot many.

QEMU always runs with `-accel tcg`: the kvm accelerator hangs on some machines, and a guest this
small boots in seconds without it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Guest",
    "GuestFiles",
    "GuestRun",
    "GuestTimeoutError",
    "boot_arguments",
    "build_initramfs",
    "disk_arguments",
    "machine_arguments",
    "memory_arguments",
    "network_arguments",
    "run_qemu",
]

_NOTHING_MORE: Mapping[str, Path] = MappingProxyType({})
_KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=4 nokaslr mitigations=off tsc=reliable no_timer_check "
    "random.trust_cpu=on"
)
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for driver in /modules/*.ko; do insmod "$driver" || echo "GUEST no driver $driver"; done
. /script
echo "GUEST power-off"
poweroff -f
"""


class GuestTimeoutError(TimeoutError):
    """The guest did not end in time; `console` is what it had printed."""

    def __init__(self, seconds: float, console: str) -> None:
        last = "\n".join(console.splitlines()[-15:])
        super().__init__(
            f"the guest did not end within {seconds:g} seconds; it printed last:\n{last}"
        )
        self.console = console


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFiles:
    """What a guest is made of.

    Args:
        kernel: bootable x86 kernel image.
        busybox: statically linked busybox.
        modules: uncompressed drivers, in the order of loading.
    """

    kernel: Path
    busybox: Path
    modules: tuple[Path, ...]

    @classmethod
    def in_folder(cls, folder: Path) -> GuestFiles:
        """Take the files from a folder that holds vmlinuz, busybox and modules/NN-name.ko.

        Raises:
            FileNotFoundError: the folder does not hold them; `make parts` fetches them.
        """
        kernel, busybox = folder / "vmlinuz", folder / "busybox"
        for path in (kernel, busybox):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is not there; `make parts` fetches it")
        modules = tuple(sorted((folder / "modules").glob("*.ko")))
        return cls(kernel=kernel, busybox=busybox, modules=modules)

    @classmethod
    def find(cls) -> GuestFiles | None:
        """Look in the folder of parts (VHOSTUSER_PARTS, else ./.parts); None if not there."""
        folder = Path(os.environ.get("VHOSTUSER_PARTS", ".parts")) / "guest"
        try:
            return cls.in_folder(folder)
        except FileNotFoundError:
            return None


class _Archive:
    """Writes a cpio archive in the "newc" form, which is what the kernel unpacks."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._entries = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """Add one entry; `device` is the major and minor number of a device node."""
        self._entries += 1
        encoded = name.encode() + b"\0"
        owner, group, links, modified, checksum = 0, 0, 1, 0, 0
        major, minor = 0, 0  # of the device that the file came from
        fields = (
            *(self._entries, mode, owner, group, links, modified, len(data), major, minor),
            *(*device, len(encoded), checksum),
        )
        self._out += b"070701" + "".join(f"{value:08x}" for value in fields).encode() + encoded
        self._pad(4)
        self._out += data
        self._pad(4)

    def _pad(self, unit: int) -> None:
        self._out += bytes(-len(self._out) % unit)

    def finish(self) -> bytes:
        """Close the archive and return it."""
        self.add("TRAILER!!!", 0)
        self._pad(512)
        return bytes(self._out)


def build_initramfs(
    files: GuestFiles, script: str, more: Mapping[str, Path] = _NOTHING_MORE
) -> bytes:
    """Build an initramfs that loads the drivers, runs a script and powers off.

    Args:
        files: busybox and drivers.
        script: shell commands for busybox; run by the first process, with /proc, /sys and /dev
            mounted. What they print goes to the serial console.
        more: further files for the guest's folder /more by their names there, each executable.

    Returns:
        An uncompressed cpio archive.
    """
    archive = _Archive()
    for name in ("bin", "dev", "proc", "sys", "tmp", "modules", "more"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, files.busybox.read_bytes())
    for module in files.modules:
        archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    for name, path in more.items():
        archive.add(f"more/{name}", stat.S_IFREG | 0o755, path.read_bytes())
    archive.add("script", stat.S_IFREG | 0o755, script.encode())
    archive.add("init", stat.S_IFREG | 0o755, _INIT.encode())
    return archive.finish()


def machine_arguments(*, cpus: int = 1) -> list[str]:
    """Return the QEMU arguments of a bare machine with its serial console on standard output.

    Args:
        cpus: virtual processors.
    """
    return [
        *("-accel", "tcg", "-cpu", "max", "-smp", str(cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
    ]


def boot_arguments(kernel: Path, initramfs: Path) -> list[str]:
    """Return the QEMU arguments that boot a kernel.

    Args:
        kernel: bootable x86 kernel image.
        initramfs: what `build_initramfs` made.
    """
    return ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", _KERNEL_WORDS]


def memory_arguments(mib: int) -> list[str]:
    """Return the QEMU arguments of a machine whose memory is shared with back-ends.

    Args:
        mib: its size in MiB.
    """
    return [
        *("-m", f"{mib}M"),
        *("-object", f"memory-backend-memfd,id=mem,size={mib}M,share=on"),
        *("-machine", "q35,memory-backend=mem"),
    ]


def network_arguments(socket: Path, *, number: int = 0, page_per_vq: bool = False) -> list[str]:
    """Return the QEMU arguments that attach a network device served on a vhost-user socket.

    The machine needs `memory_arguments`, once.

    Args:
        socket: where the back-end listens.
        number: of the device, 0 to 255; it is the end of its address, 02:00:00:00:00:NUMBER.
        page_per_vq: give each queue's doorbell a page of its own, which can be handed over.
    """
    own_page = ",disable-legacy=on,page-per-vq=on" if page_per_vq else ""
    device = f"virtio-net-pci,netdev=net{number},mac=02:00:00:00:00:{number:02x},romfile="
    return [
        *("-chardev", f"socket,id=vhost-net{number},path={socket}"),
        *("-netdev", f"vhost-user,id=net{number},chardev=vhost-net{number}"),
        *("-device", device + own_page),
    ]


def disk_arguments(  # noqa: PLR0913 - keyword-only settings of a disk
    socket: Path,
    *,
    memory_mib: int = 256,
    num_queues: int = 1,
    packed: bool = False,
    legacy: bool = False,
    page_per_vq: bool = False,
) -> list[str]:
    """Return the QEMU arguments that attach a disk served on a vhost-user socket.

    Args:
        socket: where the back-end listens.
        memory_mib: memory of the guest, in MiB; all of it is shared with the back-end.
        num_queues: request queues of the disk.
        packed: offer packed rings to the driver.
        legacy: offer the device as it was before VIRTIO 1.0, and only so.
        page_per_vq: give each queue's doorbell a page of its own, which can be handed over.
    """
    disk = {
        "chardev": "vhost",
        "bootindex": 1,
        "num-queues": num_queues,
        "packed": "on" if packed else "off",
    }
    if legacy:
        disk |= {"disable-legacy": "off", "disable-modern": "on"}
    if page_per_vq:
        disk |= {"disable-legacy": "on", "page-per-vq": "on"}
    return [
        *memory_arguments(memory_mib),
        *("-chardev", f"socket,id=vhost,path={socket}"),
        *("-device", ",".join(["vhost-user-blk-pci", *(f"{k}={v}" for k, v in disk.items())])),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRun:
    """How a guest's life went.

    Args:
        console: all that it printed on its serial console.
        exit_status: of QEMU.
        seconds: from start to end.
        complaints: what QEMU itself wrote to standard error.
    """

    console: str
    exit_status: int
    seconds: float
    complaints: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest that is about to be started.

    Args:
        socket: where the back-end listens.
        files: kernel, busybox and drivers.
        script: what the guest does (see `build_initramfs`).
        qemu: the QEMU program.
        cpus: virtual processors; also the number of the disk's queues.
        packed: offer packed rings to the driver.
        legacy: offer the disk as it was before VIRTIO 1.0, and only so.
        page_per_vq: give each queue's doorbell a page of its own, which can be handed over.
        memory_mib: the guest's memory in MiB.
        more: further files for the guest (see `build_initramfs`).
    """

    socket: Path
    files: GuestFiles
    script: str
    qemu: str = "qemu-system-x86_64"
    cpus: int = 2
    packed: bool = False
    legacy: bool = False
    page_per_vq: bool = False
    memory_mib: int = 256
    more: Mapping[str, Path] = field(default_factory=dict)

    def command(self, initramfs: Path) -> list[str]:
        """Return the whole command line; the serial console is its standard output."""
        return [
            *(self.qemu, *machine_arguments(cpus=self.cpus)),
            *boot_arguments(self.files.kernel, initramfs),
            *disk_arguments(
                self.socket,
                memory_mib=self.memory_mib,
                num_queues=self.cpus,
                packed=self.packed,
                legacy=self.legacy,
                page_per_vq=self.page_per_vq,
            ),
        ]

    def run(self, *, seconds: float = 90) -> GuestRun:
        """Boot the guest and wait for its end. Blocks: call it in a thread from async code.

        Args:
            seconds: how long it may take before it is killed.

        Returns:
            What it printed and how it ended.

        Raises:
            GuestTimeoutError: it did not end in time.
            FileNotFoundError: there is no such QEMU program.
        """
        with tempfile.TemporaryDirectory(prefix="vhostuser-guest-") as folder:
            initramfs = Path(folder) / "initramfs"
            initramfs.write_bytes(build_initramfs(self.files, self.script, self.more))
            return run_qemu(self.command(initramfs), seconds=seconds)


def run_qemu(command: Sequence[str], *, seconds: float) -> GuestRun:
    """Run a QEMU whose serial console is its standard output, to its end. Blocks.

    Args:
        command: program and arguments.
        seconds: how long it may take before it is killed.

    Returns:
        What it printed and how it ended.

    Raises:
        GuestTimeoutError: it did not end in time.
        FileNotFoundError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not on this machine; install qemu-system-x86")
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            console, complaints = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            console, _ = process.communicate()
            raise GuestTimeoutError(seconds, _text(console)) from None
        except BaseException:
            process.kill()
            raise
    return GuestRun(
        console=_text(console),
        exit_status=process.returncode,
        seconds=time.monotonic() - started,
        complaints=_text(complaints),
    )


def _text(console: bytes) -> str:
    return console.decode(errors="replace").replace("\r\n", "\n")
