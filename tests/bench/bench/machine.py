"""What the benchmarks ran on, and which versions took part; no names of hosts or folders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from parts.catalogue import CATALOGUE

from vhostuser import __version__

from .programs import ROOT, version_of

if TYPE_CHECKING:
    from .programs import Programs

__all__ = ["commit", "machine", "versions"]


def machine(disk: Path) -> dict[str, str]:
    """Describe the machine; `disk` is the folder of the images."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    family = re.search(r"cpu family\s*: (.*)", info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"{model[1].strip()}, family {family[1]}" if model and family else platform.machine()
    return {
        "processor": name,
        "processors": f"{os.cpu_count()}{', virtual' if 'hypervisor' in info else ''}",
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "file system of the disk images": _file_system(disk),
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def _file_system(folder: Path) -> str:
    asked = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    """Return the commit of the checkout, with a mark when something was changed since."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def _dpdk_version(programs: Programs) -> str:
    asked = [str(programs.testpmd), "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    found = re.search(r"RTE Version: .*?(\d+\.\d+\.\d+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def versions(programs: Programs) -> dict[str, str]:
    """Return the versions of everything that takes part."""
    libblkio = next(CATALOGUE["libblkio"].folder.glob("root/**/libblkio.so.*.*.*"), None)
    return {
        "vhostuser": f"{__version__} ({commit()})",
        "qemu-storage-daemon": version_of(programs.peer),
        "libblkio": libblkio.name.split(".so.")[1] if libblkio else "unknown",
        "DPDK": _dpdk_version(programs),
        "fio": version_of(programs.fio),
        "Python": platform.python_version(),
    }
