"""The lab guest: a machine with an IOMMU and virtio devices behind it, which user space drives.

Scripts from tests/vfio_lab/guest run in it: the functions of a module whose names begin with
`check_`, one process each (see guest/lab.py there). What came of each is written to the second
serial port as a line of JSON, so that no message of the kernel gets between. The test knows the
names from the module's source: a guest that hangs, dies or skips one cannot pass.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostuser.testing.guest import GuestTimeoutError, run_qemu

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SCRIPTS",
    "SECTOR_COUNT",
    "LabDevice",
    "LabMachine",
    "LabRun",
    "UserDevice",
    "checks_of",
    "sector",
]

SCRIPTS = Path(__file__).parent.parent / "vfio_lab" / "guest"
SECTOR_COUNT = 8192
_DEADLINE = 240.0
_MEMORY = "512M"
_KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=4 nokaslr mitigations=off tsc=reliable no_timer_check "
    "random.trust_cpu=on panic=-1"
)


def sector(number: int) -> bytes:
    """Return what a disk of the lab holds in a sector that nobody wrote."""
    return f"sector {number:08} of the lab ".encode().ljust(512, b".")


def checks_of(script: str) -> list[str]:
    """Return the names of the checks in a script, in their order, without running it."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in tree.body if isinstance(node, functions)]
    return [name for name in names if name.startswith("check_")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabDevice:
    """A device behind a root port of its own: the first is 0000:01:00.0, the second 0000:02:00.0.

    Args:
        kind: "blk" or "net".
        page_per_vq: whether each queue's doorbell has a page to itself.
        options: more of QEMU's options for it.
    """

    kind: str
    page_per_vq: bool = True
    options: str = ""

    def arguments(self, number: int, folder: Path) -> list[str]:
        """Return the QEMU arguments of the device with this number, from 1 on."""
        on_off = "on" if self.page_per_vq else "off"
        common = f"bus=port{number},disable-legacy=on,iommu_platform=on,packed=on,"
        common += f"page-per-vq={on_off}" + (f",{self.options}" if self.options else "")
        if self.kind == "net":
            # The network answers pings; nothing leaves this machine.
            back = ["-netdev", f"user,id=back{number},restrict=on"]
            front = f"virtio-net-pci,netdev=back{number},romfile=,{common}"
        else:
            image = self.image(number, folder)
            image.write_bytes(b"".join(map(sector, range(SECTOR_COUNT))))
            back = ["-drive", f"file={image},if=none,id=back{number},format=raw"]
            front = f"virtio-blk-pci,drive=back{number},num-queues=2,{common}"
        return [*_port(number), *back, "-device", front]

    @staticmethod
    def image(number: int, folder: Path) -> Path:
        """Where the disk with this number is on the host."""
        return folder / f"disk{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDevice:
    """A device that another process serves over vfio-user, behind a root port of its own.

    Args:
        socket: where that process listens.
    """

    socket: Path

    def arguments(self, number: int, folder: Path) -> list[str]:
        """Return the QEMU arguments of the device with this number, from 1 on."""
        del folder
        address = {"type": "unix", "path": str(self.socket)}
        words = {"driver": "vfio-user-pci", "bus": f"port{number}", "socket": address}
        return [*_port(number), "-device", json.dumps(words)]


def _port(number: int) -> list[str]:
    return ["-device", f"pcie-root-port,id=port{number},chassis={number},slot={number}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRun:
    """How the checks of some scripts went.

    Args:
        results: what each check reported, by its name.
        console: what the guest printed.
        seconds: from the start of QEMU to its end.
        folder: where the images of its disks are.
    """

    results: dict[str, dict[str, Any]]
    console: str
    seconds: float
    folder: Path

    def notes(self, name: str) -> Any:
        """Return what a check returned, once it went well; fail with what it says otherwise."""
        result = self.results.get(name)
        assert result is not None, f"the guest did not report {name}:\n{self.console}"
        assert result["ok"], f"{result['error']}\nin {self.seconds:.0f} s:\n{self.console}"
        return result["notes"]

    def image(self, number: int) -> bytes:
        """Return what the disk with this number holds now."""
        return LabDevice.image(number, self.folder).read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabMachine:
    """A machine to run scripts in.

    Args:
        qemu: the program.
        kernel: the kernel's image.
        initramfs: see `lab_image.build_lab_image`.
        folder: for images and results; one run's own.
        devices: what it has.
        iommu: whether there is one.
        cpus: virtual processors.
    """

    qemu: Path
    kernel: Path
    initramfs: Path
    folder: Path
    devices: Sequence[LabDevice | UserDevice]
    iommu: bool = True
    cpus: int = 1

    def run(self, *scripts: str) -> LabRun:
        """Run scripts to their end. Blocks.

        Raises:
            AssertionError: the guest did not come to its end; with what it printed.
        """
        reports = self.folder / "reports"
        try:
            run = run_qemu(self._command(scripts, reports), seconds=_DEADLINE)
        except GuestTimeoutError as error:
            raise AssertionError(f"{error}\n{error.console}\n{reports.read_text()}") from None
        text = f"{run.console}\n{run.complaints}"
        lines = [json.loads(line) for line in reports.read_text().splitlines()]
        assert run.exit_status == 0, text
        assert lines, f"the guest reported nothing:\n{text}"
        assert lines[-1] == {"end": len(lines) - 1}, f"the guest ended early:\n{lines}\n{text}"
        results = {line["check"]: line for line in lines[:-1]}
        assert len(results) == len(lines) - 1, f"a check was reported twice:\n{lines}"
        return LabRun(results=results, console=text, seconds=run.seconds, folder=self.folder)

    def _command(self, scripts: Sequence[str], reports: Path) -> list[str]:
        words = f"{_KERNEL_WORDS} lab=/lab/lab.py,{','.join(scripts)}"
        unit = []
        if self.iommu:
            unit = ["-device", "intel-iommu,intremap=on,caching-mode=on"]
            words = f"intel_iommu=on,sm_off {words}"
        numbered = enumerate(self.devices, 1)
        return [
            *(str(self.qemu), "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max"),
            # Devices in other processes can reach memory that is a file.
            *("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
            *("-machine", "memory-backend=memory", "-m", _MEMORY, "-smp", str(self.cpus)),
            *("-no-reboot", "-net", "none"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-serial", "stdio", "-serial", f"file:{reports}"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", words),
            *unit,
            *(word for number, each in numbered for word in each.arguments(number, self.folder)),
        ]
