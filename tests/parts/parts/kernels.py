"""Guest kernels: Debian's images for clouds, cut down to what a guest loads."""

from __future__ import annotations

import lzma
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .private_apt import PrivateApt

__all__ = ["make_guest_files", "write_modules"]


def make_guest_files(folder: Path, apt: PrivateApt, image: str, wanted: tuple[str, ...]) -> None:
    """Fill a folder with vmlinuz, busybox and modules/NN-name.ko, numbered in the order of loading.

    Args:
        folder: where the files go.
        apt: where packages come from.
        image: the package that depends on the newest kernel of its line.
        wanted: modules, with underscores; what they depend on comes along.

    Raises:
        PartFailedError: a package is unknown or the archive cannot be reached.
    """
    kernel = apt.dependency(image, "linux-image-")
    root = folder / "root"
    apt.unpack([kernel, "busybox-static"], root)
    shutil.copy(next(root.glob("boot/vmlinuz-*")), folder / "vmlinuz")
    shutil.copy(next(p for p in root.glob("**/bin/busybox") if p.is_file()), folder / "busybox")
    write_modules(folder, root, wanted)
    shutil.rmtree(root)


def write_modules(folder: Path, root: Path, wanted: tuple[str, ...]) -> None:
    """Fill modules/ of a folder with drivers, numbered in the order of loading.

    Args:
        folder: where modules/ is made.
        root: where the kernel's package is unpacked.
        wanted: modules, with underscores; what they depend on comes along.
    """
    modules = folder / "modules"
    modules.mkdir()
    for number, (name, image) in enumerate(_with_dependencies(root, wanted)):
        (modules / f"{number:02}-{name}.ko").write_bytes(image)


def _with_dependencies(root: Path, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return name and image of the modules and what they depend on, in the order of loading."""
    files = {p.name.split(".ko")[0].replace("-", "_"): p for p in root.glob("**/*.ko*")}
    done: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in done or name not in files:  # not there: it is built into the kernel
            return
        image = files[name].read_bytes()
        if files[name].suffix == ".xz":
            image = lzma.decompress(image)
        found = re.search(rb"\0depends=([^\0]*)\0", image)
        for other in found[1].decode().split(",") if found and found[1] else ():
            add(other.replace("-", "_"))
        done[name] = image

    for name in wanted:
        add(name)
    return list(done.items())
