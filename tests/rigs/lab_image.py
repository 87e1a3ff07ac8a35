"""The initramfs of the lab guest: busybox, drivers, this Python, and this project with its needs.

Everything comes from the interpreter that runs the tests, so that the guest runs what they run:
its program, its standard library, the shared libraries that they link to, the installed project
and the distributions it requires. Only the kernel and busybox are fetched.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import marshal
import os
import re
import stat
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vhostuser.testing.guest import GuestFiles

__all__ = ["Archive", "build_lab_image"]

_PREFIX = "py"
_LIBRARY = f"{_PREFIX}/lib/python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = f"{_PREFIX}/packages"
_PROJECT = ("protocol", "vhostuser", "accel")
# Of the standard library: what no program of ours imports.
_LEFT_OUT = {
    *(
        "test",
        "idlelib",
        "ensurepip",
        "lib2to3",
        "tkinter",
        "turtledemo",
        "pydoc_data",
        "distutils",
    ),
    *("site-packages", "dist-packages", "unittest", "sqlite3", "curses", "dbm", "venv", "wsgiref"),
    *("xmlrpc", "xml", "__pycache__", "lib-dynload", "__phello__"),
}
_LEFT_OUT_MODULES = re.compile(
    "_codecs_|_ctypes_test|_sqlite3|_curses|_tkinter|_dbm|_gdbm|_crypt|readline|_test|_xx|xx"
    "|audioop|nis|ossaudiodev|_lsprof"
)
_INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
for driver in /modules/*.ko; do insmod "$driver" || echo "LAB no driver $driver"; done
ip link set lo up
stty -F /dev/ttyS1 raw
export PATH=/bin HOME=/tmp PYTHONHOME=/{_PREFIX} PYTHONPATH=/{_PACKAGES} PYTHONUNBUFFERED=1
export LD_LIBRARY_PATH=$(cat /libraries)
python3 -X faulthandler -W error $(cat /proc/cmdline | sed 's/.* lab=//;s/,/ /g') </dev/null
echo "LAB power-off"
poweroff -f
"""


class Archive:
    """Writes a cpio archive in the "newc" form to a file, with the times of files kept.

    Args:
        out: where it goes.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._names: set[str] = set()

    def _add(
        self, name: str, mode: int, data: bytes, modified: int = 0, node: tuple[int, int] = (0, 0)
    ) -> None:
        if name in self._names:
            return
        self._names.add(name)
        if "/" in name:
            self.folder(name.rpartition("/")[0])
        encoded = name.encode() + b"\0"
        fields = (
            len(self._names),
            mode,
            0,
            0,
            1,
            modified,
            len(data),
            0,
            0,
            *node,
            len(encoded),
            0,
        )
        head = b"070701" + "".join(f"{value:08x}" for value in fields).encode() + encoded
        self._out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    def folder(self, name: str) -> None:
        """Add a folder and those above it, unless it is there."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o666, b"", node=(major, minor))

    def data(self, name: str, data: bytes, modified: int = 0) -> None:
        """Add a file that everybody may read and run."""
        self._add(name, stat.S_IFREG | 0o755, data, modified)

    def file(self, name: str, path: Path) -> None:
        """Add a file of this machine under a name; a Python module with its bytecode."""
        if path.suffix != ".py":
            self.data(name, path.read_bytes())
            return
        source = path.read_bytes()
        modified = int(path.stat().st_mtime)
        self.data(name, source, modified)
        self.data(importlib.util.cache_from_source(name), _bytecode(path, source, modified))

    def finish(self) -> None:
        """Write the end; the file stays open."""
        self._add("TRAILER!!!", 0, b"")


def _bytecode(path: Path, source: bytes, modified: int) -> bytes:
    """Return what a cache file of a module holds; compiling inside the guest is slow."""
    head = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, modified, len(source))
    cached = Path(importlib.util.cache_from_source(str(path)))
    if cached.is_file() and (found := cached.read_bytes()).startswith(head):
        return found
    return head + marshal.dumps(compile(source, str(path), "exec", dont_inherit=True))


def build_lab_image(path: Path, files: GuestFiles, scripts: Iterable[Path]) -> None:
    """Build the initramfs.

    Its first process loads the drivers and runs the Python script that the word `lab=` of the
    kernel's command line names, with commas before its arguments.

    Args:
        path: the file to write.
        files: busybox and drivers.
        scripts: Python modules for the guest's folder /lab.
    """
    with path.open("wb") as out:
        archive = Archive(out)
        for name in ("bin", "dev", "proc", "sys", "tmp", "modules"):
            archive.folder(name)
        archive.device("dev/console", 5, 1)
        archive.device("dev/null", 1, 3)
        archive.data("init", _INIT.encode())
        archive.file("bin/busybox", files.busybox)
        for module in files.modules:
            archive.file(f"modules/{module.name}", module)
        binaries = [*_add_python(archive), *_add_packages(archive)]
        libraries = _libraries(binaries)
        for library in libraries:
            archive.file(str(library).lstrip("/"), library)
        folders = {str(library.parent) for library in libraries}
        archive.data("libraries", ":".join(sorted(folders)).encode())
        for script in scripts:
            archive.file(f"lab/{script.name}", script)
        archive.finish()


def _add_python(archive: Archive) -> list[Path]:
    """Add the interpreter and its standard library; return the programs that link to others."""
    program = Path(sys.executable).resolve()
    archive.file("bin/python3", program)
    library = Path(sysconfig.get_path("stdlib"))
    for folder, below, names in os.walk(library):
        below[:] = [each for each in below if each not in _LEFT_OUT and "config-" not in each]
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            archive.file(f"{_LIBRARY}/{path.relative_to(library)}", path)
    modules = [
        path
        for path in (library / "lib-dynload").glob("*.so")
        if not _LEFT_OUT_MODULES.match(path.name)
    ]
    for path in modules:
        archive.file(f"{_LIBRARY}/lib-dynload/{path.name}", path)
    return [program, *modules]


def _add_packages(archive: Archive) -> list[Path]:
    """Add the project and what it requires; return the extension modules among them."""
    found = dict(_project_files())
    for name in _required("vhostuser") - {"vhostuser"}:
        found |= dict(_distribution_files(name))
    # An editable installation lists no files; what matters is which commands and drivers it has.
    project = importlib.metadata.distribution("vhostuser")
    described = f"{_PACKAGES}/vhostuser-{project.version}.dist-info"
    archive.data(f"{described}/METADATA", str(project.metadata).encode())
    archive.data(f"{described}/entry_points.txt", _entry_points(project).encode())
    for place, path in sorted(found.items()):
        archive.file(f"{_PACKAGES}/{place}", path)
    return [path for path in found.values() if ".so" in path.suffixes]


def _project_files() -> Iterator[tuple[str, Path]]:
    """Yield place and path of the project's modules, wherever they are imported from."""
    for name in _PROJECT:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0])
        for path in root.rglob("*"):
            # What compiles the engine reads sources that are not part of the package.
            if path.suffix in {".py", ".so"} and path != root / "native" / "build.py":
                yield f"{name}/{path.relative_to(root)}", path


def _entry_points(project: importlib.metadata.Distribution) -> str:
    text = project.read_text("entry_points.txt")
    assert text is not None
    return text


def _distribution_files(name: str) -> Iterator[tuple[str, Path]]:
    for file in importlib.metadata.files(name) or ():
        path = Path(str(file.locate()))
        if {"..", "_tests"} & {*file.parts} or path.suffix in {".pyc", ".pth"}:
            continue
        if path.is_file():
            yield str(file), path


def _required(name: str) -> set[str]:
    """Return the names of a distribution and of all that it requires to run."""
    done: set[str] = set()
    left = [name]
    while left:
        one = left.pop()
        if one in done:
            continue
        done.add(one)
        for text in importlib.metadata.requires(one) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return done


def _libraries(binaries: list[Path]) -> set[Path]:
    """Return the shared libraries that binaries are linked to, the loader among them."""
    printed = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False
    ).stdout
    return {Path(found) for found in re.findall(r"(?:=>|^)\s+(/\S+) \(0x", printed, re.MULTILINE)}
