"""`vhostuser doctor`: what this host lets a back-end do, and what to do about the rest.

Each check looks at one thing and changes nothing that stays. "ok" is as it should be, "note"
matters only to some, "warn" makes disks slow or keeps them from being served; then the exit status
is 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.metadata
import importlib.util
import json
import mmap
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser import __version__
from vhostuser.cli.command import Command
from vhostuser.cli.doctor_tap import tap_devices
from vhostuser.cli.doctor_vfio import accelerators
from vhostuser.cli.finding import Finding
from vhostuser.cli.install import DISCOVERY_FILE, discovery_folders
from vhostuser.errors import UsageError
from vhostuser.native import lib
from vhostuser.server import bind_unix

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

__all__ = ["COMMAND", "Finding", "examine"]

_PACKAGES = ("protocol", "vhostuser", "accel", "vhostuser.native._engine")
_NEEDED = ("trio", "construct", "cffi", "pyroute2")
_IO_URING_SETUP = 425  # on every architecture
_IO_URING_PARAMS = 120
_ENOUGH_FILES = 4096
_QEMU_SECONDS = 10
_EMULATORS = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm", "/usr/libexec/qemu-kvm")


def _versions() -> Iterator[Finding]:
    yield Finding("vhostuser", "ok", __version__)
    yield Finding("python", "ok", f"{platform.python_version()} ({platform.machine()})")
    for name in _NEEDED:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "warn", "missing", f"install it: pip install {name}")


def _places() -> Iterator[Finding]:
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            advice = "install the package again: it is not whole"
            yield Finding(f"{name} from", "warn", "nowhere", advice)
        else:
            yield Finding(f"{name} from", "ok", spec.origin)


def _kernel() -> Iterator[Finding]:
    yield Finding("kernel", "ok", f"{platform.system()} {platform.release()}")


def _io_uring() -> Iterator[Finding]:
    error = _try_io_uring()
    if error == 0 and _engine_knows_io_uring():
        yield Finding("io_uring", "ok", "available")
        return
    if error == 0:
        advice = "disks are served by a pool of threads, which is slower: install liburing-dev "
        advice += "(Debian) and build the package again"
        yield Finding("io_uring", "warn", "the engine was built without it", advice)
        return
    advice = "disks are served by a pool of threads, which is slower"
    disabled = _read("/proc/sys/kernel/io_uring_disabled")
    if disabled in {"1", "2"}:
        why = f"the system forbids it (sysctl kernel.io_uring_disabled={disabled})"
        advice += "; set it to 0, or to 1 with this user in the group of kernel.io_uring_group"
    elif error == errno.ENOSYS:
        why = "the kernel has none"
        if "Seccomp:\t2" in _read("/proc/self/status"):
            why = "the kernel has none, or a seccomp filter hides it"
            advice += "; allow io_uring_setup, io_uring_enter and io_uring_register in the filter"
    elif error in {errno.EPERM, errno.EACCES}:
        why = "a seccomp filter or security module refuses it"
        advice += "; allow io_uring_setup, io_uring_enter and io_uring_register (containers: a "
        advice += "seccomp profile of your own)"
    else:
        why = os.strerror(error)
    yield Finding("io_uring", "warn", f"refused: {why}", advice)


def _try_io_uring() -> int:
    """Return the errno with which the kernel refuses a ring, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    params = ctypes.create_string_buffer(_IO_URING_PARAMS)
    ring = libc.syscall(ctypes.c_long(_IO_URING_SETUP), ctypes.c_uint(1), params)
    if ring < 0:
        return ctypes.get_errno()
    os.close(ring)
    return 0


def _engine_knows_io_uring() -> bool:
    """Tell whether the engine was built with liburing."""
    return bool(lib.vhu_io_uring_probe() != -errno.ENOSYS)


def _direct_io() -> Iterator[Finding]:
    folder = Path.cwd()
    name = f"O_DIRECT in {folder}"
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            fd = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
            try:
                with mmap.mmap(-1, mmap.PAGESIZE) as page:
                    os.preadv(fd, [page], 0)
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            value = "this file system does not know it"
            yield Finding(name, "note", value, "serve images that lie here without --direct")
        else:
            advice = "start it in the folder of the images"
            yield Finding(name, "note", f"not tried: {error.strerror}", advice)
    else:
        yield Finding(name, "ok", "works")


def _huge_pages() -> Iterator[Finding]:
    lines = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    total, free = (lines.get(f"HugePages_{which}", "0").strip() for which in ("Total", "Free"))
    if total == "0":
        advice = "guests are faster on huge pages: sysctl vm.nr_hugepages=N"
        yield Finding("huge pages", "note", "none", advice)
    else:
        size = lines.get("Hugepagesize", "?").strip()
        yield Finding("huge pages", "ok", f"{total} of {size}, {free} free")


def _limits() -> Iterator[Finding]:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= _ENOUGH_FILES
    advice = (
        f"three for each ring and one for each disk: allow {_ENOUGH_FILES} or more (ulimit -Hn)"
    )
    yield Finding("open files", "ok" if enough else "warn", _limit(files), "" if enough else advice)
    _, locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    yield Finding("locked memory", "ok", _limit(locked, " bytes"))


def _limit(value: int, unit: str = "") -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value}{unit}"


def _kvm() -> Iterator[Finding]:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield Finding("KVM", "ok", "usable")
    elif Path("/dev/kvm").exists():
        advice = "guests are emulated, slowly: add this user to the group kvm"
        yield Finding("KVM", "note", "not for this user", advice)
    else:
        advice = "guests are emulated, slowly: load kvm_intel or kvm_amd, or allow nesting"
        yield Finding("KVM", "note", "not there", advice)


def _qemu() -> Iterator[Finding]:
    found = next(filter(None, map(shutil.which, _EMULATORS)), None)
    if found is None:
        advice = "install it to run guests here (Debian: qemu-system-x86)"
        yield Finding("QEMU", "note", "not found", advice)
        return
    try:
        done = subprocess.run(  # noqa: S603 - found on the user's own path
            [found, "--version"],
            capture_output=True,
            text=True,
            timeout=_QEMU_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("QEMU", "note", f"{found} does not start", str(error))
        return
    yield Finding("QEMU", "ok", f"{found}: {done.stdout.partition(chr(10))[0] or done.stderr}")


def _discovery() -> Iterator[Finding]:
    for folder in discovery_folders():
        path = folder / DISCOVERY_FILE
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8")
            yield _described(path, text)
            return
    advice = "management software does not find this back-end: vhostuser install-discovery"
    yield Finding("discovery file", "note", "none", advice)


def _described(path: Path, text: str) -> Finding:
    if not text:
        return Finding("discovery file", "note", f"{path} is empty", "it hides this back-end")
    try:
        binary = json.loads(text)["binary"]
        usable = os.access(binary, os.X_OK)
    except (ValueError, TypeError, KeyError):
        advice = "write it anew: vhostuser install-discovery"
        return Finding("discovery file", "warn", f"{path} makes no sense", advice)
    if not usable:
        advice = "write it anew: vhostuser install-discovery"
        return Finding("discovery file", "warn", f"{path} names {binary}, not there", advice)
    return Finding("discovery file", "ok", str(path))


def _socket_folder(folder: Path) -> Iterator[Finding]:
    name = f"sockets in {folder}"
    path = folder / f".vhostuser-doctor-{os.getpid()}"
    try:
        bind_unix(path).close()
    except UsageError as error:
        yield Finding(name, "warn", "cannot be made", str(error))
    else:
        path.unlink(missing_ok=True)
        yield Finding(name, "ok", "can be made")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _places,
    _kernel,
    _io_uring,
    _direct_io,
    _huge_pages,
    _limits,
    _kvm,
    _qemu,
    accelerators,
    tap_devices,
    _discovery,
)


def examine(socket_folder: Path) -> list[Finding]:
    """Run every check.

    Args:
        socket_folder: where disks shall have their sockets.
    """
    found = [finding for check in _CHECKS for finding in check()]
    return [*found, *_socket_folder(socket_folder)]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a list of objects instead")
    parser.add_argument(
        "--socket-folder",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()),
        help="where disks shall have their sockets (default: $XDG_RUNTIME_DIR, else /tmp)",
    )


def _run(options: argparse.Namespace) -> int:
    findings = examine(options.socket_folder)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            advice = f": {finding.advice}" if finding.advice else ""
            print(f"{finding.status:4} {finding.name}: {finding.value}{advice}")
    return 1 if any(finding.status == "warn" for finding in findings) else 0


COMMAND = Command(
    summary="say what this host lets a back-end do, and what to do about the rest",
    configure=_configure,
    run=_run,
)
