"""The parts by name: how each is made and where its files lie.

A part is a folder `.parts/NAME`. It is built beside its place and moved there when it is whole,
with a stamp of its recipe: what is there is complete and current, and a second run does nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .clang import make_clang
from .dpdk import make_dpdk
from .errors import PartFailedError, UnobtainableError
from .huge_pages import huge_pages
from .kernels import make_guest_files, write_modules
from .private_apt import PrivateApt

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CATALOGUE", "Part", "is_excused", "obtain", "parts_folder", "reason_missing"]

_EXCUSED = "not on this machine: "
_SUITE = "bookworm"
_NEWER_SUITE = "trixie"
_NEWEST_SUITE = "forky"
_RUNNER = """\
#!/bin/sh
# Runs the unpacked QEMU with its own loader, libraries, modules and firmware.
here=$(dirname "$(readlink -f "$0")")/root
lib=$here/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$here/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$here/lib/x86_64-linux-gnu:$lib:$lib/pulseaudio" \\
    "$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
"""

_PROGRAM = """\
#!/bin/sh
# Runs an unpacked program with its own loader and libraries.
here=$(dirname "$(readlink -f "$0")")/root
lib=$here/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$here/usr/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$here/lib/x86_64-linux-gnu:$lib:$lib/ceph" "$here/usr/bin/{program}" "$@"
"""


def parts_folder() -> Path:
    """Return the folder of all parts: VHOSTUSER_PARTS, else `.parts` in the project's root."""
    named = os.environ.get("VHOSTUSER_PARTS")
    return Path(named).absolute() if named else Path(__file__).resolve().parents[3] / ".parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that tests need and that is fetched.

    Args:
        name: name of its folder and what tests ask for.
        what: one line for people.
        recipe: fills the folder it is given.
        fetched: whether it comes from an archive; else the machine itself has it or has it not.
        for_tests: whether the tests want it; the others are fetched by name only.
    """

    name: str
    what: str
    recipe: Callable[[Path], None]
    fetched: bool = True
    for_tests: bool = True

    @property
    def folder(self) -> Path:
        """Where the part lies, whether it is there or not."""
        return parts_folder() / self.name

    @property
    def stamp(self) -> str:
        """What identifies the recipe; a part made by another recipe is made anew."""
        text = inspect.getsource(self.recipe) + _RUNNER + _SUITE + _NEWER_SUITE
        return hashlib.sha256(text.encode()).hexdigest()

    def is_there(self) -> bool:
        """Tell whether the whole part, made by this recipe, is in its place."""
        path = self.folder / ".recipe"
        return path.is_file() and path.read_text() == self.stamp


def _apt() -> PrivateApt:
    suites = [_SUITE, f"{_SUITE}-updates", f"{_SUITE}-backports"]
    return PrivateApt(
        parts_folder() / "apt" / _SUITE,
        suites,
        security_suites=[f"{_SUITE}-security"],
        prefer=_SUITE,
    )


def _newer_apt() -> PrivateApt:
    return PrivateApt(parts_folder() / "apt" / _NEWER_SUITE, [_NEWER_SUITE], prefer=_NEWER_SUITE)


def _newest_apt() -> PrivateApt:
    return PrivateApt(parts_folder() / "apt" / _NEWEST_SUITE, [_NEWEST_SUITE], prefer=_NEWEST_SUITE)


def _qemu(folder: Path, suite: str) -> None:
    root = folder / "root"
    apt = _newest_apt() if suite == _NEWEST_SUITE else _apt()
    apt.unpack_closure("qemu-system-x86", root, suite=suite)
    share = root / "usr" / "share"
    for path in share.iterdir():
        if path.name not in {"qemu", "seabios"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not (root / "lib64").exists():  # newer suites have it below /usr only
        (root / "lib64").symlink_to("usr/lib64")
    runner = folder / "qemu-system-x86_64"
    runner.write_text(_RUNNER)
    runner.chmod(0o755)


def _qemu_of_the_suite(folder: Path) -> None:
    _qemu(folder, _SUITE)


def _qemu_of_backports(folder: Path) -> None:
    _qemu(folder, f"{_SUITE}-backports")


def _qemu_of_testing(folder: Path) -> None:
    _qemu(folder, _NEWEST_SUITE)


def _guest(folder: Path) -> None:
    """Fetch a kernel for clouds and a static busybox; keep the image and the drivers needed."""
    make_guest_files(folder, _apt(), "linux-image-cloud-amd64", ("virtio_pci", "virtio_blk"))


def _vfio_kernel(folder: Path) -> None:
    """Fetch a kernel that hands devices to user space, with those drivers and the usual ones."""
    usual = ("virtio_pci", "virtio_blk", "virtio_net", "8021q")
    drivers = (*usual, "vfio_pci", "vfio_iommu_type1")
    make_guest_files(folder, _apt(), "linux-image-6.12-cloud-amd64", drivers)


def _uml(folder: Path) -> None:
    """Fetch user-mode Linux; keep the program and its drivers for disks and networks."""
    root = folder / "root"
    _apt().unpack(["user-mode-linux"], root)
    shutil.copy(next(root.glob("**/bin/linux.uml")), folder / "linux.uml")
    write_modules(folder, root, ("virtio_blk", "virtio_net"))
    shutil.rmtree(root)


def _libblkio(folder: Path) -> None:
    _newer_apt().unpack(["libblkio1", "libblkio-dev"], folder / "root")
    library = next((folder / "root").glob("**/libblkio.so.1"))
    (folder / "lib").symlink_to(library.parent.relative_to(folder))
    (folder / "include").symlink_to(Path("root/usr/include"))


def _program(folder: Path, package: str, program: str) -> None:
    """Unpack a program of the newer suite with all that it needs, and a script that runs it."""
    _newer_apt().unpack_closure(package, folder / "root", suite=_NEWER_SUITE)
    runner = folder / program
    runner.write_text(_PROGRAM.format(program=program))
    runner.chmod(0o755)


def _qemu_storage_daemon(folder: Path) -> None:
    _program(folder, "qemu-utils", "qemu-storage-daemon")


def _fio(folder: Path) -> None:
    _program(folder, "fio", "fio")


def _iperf3(folder: Path) -> None:
    _program(folder, "iperf3", "iperf3")


def _clang(folder: Path) -> None:
    make_clang(folder, _apt(), _SUITE)


def _dpdk(folder: Path) -> None:
    make_dpdk(folder, _apt(), _SUITE)


def _systemd_analyze(folder: Path) -> None:
    found = shutil.which("systemd-analyze")
    if found is None:
        raise UnobtainableError("it takes systemd-analyze, of the package systemd")
    unit = folder / "try.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    command = [found, "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # some containers
        raise UnobtainableError(f"systemd-analyze does not work here: {done.stderr}")
    (folder / "systemd-analyze").symlink_to(found)


def _loop_devices(folder: Path) -> None:
    """Try one: containers and users other than root have none."""
    # Only root has these folders on the path.
    losetup = shutil.which("losetup", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if losetup is None:
        raise UnobtainableError("it takes losetup, which is not installed")
    image = folder / "image"
    image.write_bytes(bytes(1 << 20))
    command = [losetup, "--find", "--show", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnobtainableError(f"it takes root and a kernel with loop devices: {done.stderr}")
    subprocess.run([losetup, "--detach", done.stdout.strip()], check=True)


def _namespaces(_folder: Path) -> None:
    """Make a TAP device in a network namespace: containers and users other than root cannot."""
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(program) is None:
            raise UnobtainableError(f"it takes {program}, of the packages util-linux and iproute2")
    command = ["unshare", "--net", "ip", "tuntap", "add", "dev", "try", "mode", "tap", "vnet_hdr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnobtainableError(f"it takes root and /dev/net/tun: {done.stderr}")


def _fuse(folder: Path) -> None:
    """Mount one: containers and users other than root cannot."""
    for program in ("unshare", "mount"):
        if shutil.which(program) is None:
            raise UnobtainableError(f"it takes {program}, of the packages util-linux and mount")
    (folder / "file").touch()
    text = (
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=100000,user_id=0,group_id=0 fuse $0"
    )
    command = ["unshare", "--mount", "sh", "-c", text, str(folder / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnobtainableError(f"it takes root and /dev/fuse: {done.stderr}")


def _huge_pages(_folder: Path) -> None:
    """Try some: containers and users other than root cannot reserve any."""
    with huge_pages(mib=64):
        pass


CATALOGUE: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            name="guest",
            what="a Debian kernel for clouds, its virtio drivers and a static busybox",
            recipe=_guest,
        ),
        Part(name="qemu-7", what="QEMU 7.2, with all its libraries", recipe=_qemu_of_the_suite),
        Part(name="qemu-10", what="QEMU 10.0, with all its libraries", recipe=_qemu_of_backports),
        Part(
            name="qemu-11",
            what="QEMU 11, which has vfio-user-pci, with all its libraries",
            recipe=_qemu_of_testing,
            for_tests=False,
        ),
        Part(
            name="vfio-kernel",
            what="a Debian kernel with VFIO, its drivers and a static busybox",
            recipe=_vfio_kernel,
        ),
        Part(name="uml", what="user-mode Linux, its disk and network drivers", recipe=_uml),
        Part(name="libblkio", what="libblkio, library and headers", recipe=_libblkio),
        Part(name="dpdk", what="DPDK 22.11: testpmd, libraries and headers", recipe=_dpdk),
        Part(name="clang", what="clang with libFuzzer, for the fuzz targets", recipe=_clang),
        Part(
            name="qemu-storage-daemon",
            what="QEMU's storage daemon 10.0, the peer of the benchmarks",
            recipe=_qemu_storage_daemon,
            for_tests=False,
        ),
        Part(
            name="fio",
            what="fio, which a guest verifies by and the benchmarks compare with",
            recipe=_fio,
        ),
        Part(
            name="iperf3",
            what="iperf3, which fills a network and counts what gets through",
            recipe=_iperf3,
        ),
        Part(
            name="systemd-analyze",
            what="what finds faults in systemd units",
            recipe=_systemd_analyze,
            fetched=False,
        ),
        Part(
            name="loop-devices",
            what="block devices made of files",
            recipe=_loop_devices,
            fetched=False,
        ),
        Part(
            name="namespaces",
            what="network namespaces with TAP devices in them",
            recipe=_namespaces,
            fetched=False,
        ),
        Part(
            name="fuse",
            what="file systems that a process serves",
            recipe=_fuse,
            fetched=False,
        ),
        Part(
            name="huge-pages",
            what="huge pages that can be reserved for a while",
            recipe=_huge_pages,
            fetched=False,
        ),
    )
}


def _reason_file(part: Part) -> Path:
    return parts_folder() / f"{part.name}.missing"


def reason_missing(part: Part) -> str:
    """Return why a part is not there, as far as the last attempt to get it has told."""
    path = _reason_file(part)
    text = path.read_text() if path.is_file() else "nobody fetched it yet; run `make parts`"
    return text.removeprefix(_EXCUSED)


def is_excused(part: Part) -> bool:
    """Tell whether a missing part cannot be had on this machine, by the last attempt to get it."""
    path = _reason_file(part)
    return path.is_file() and path.read_text().startswith(_EXCUSED)


def obtain(part: Part) -> None:
    """Make sure that a part is in its place.

    Raises:
        PartFailedError: it is not to be had; the reason is also kept for `reason_missing`.
    """
    if part.is_there():
        return
    reason = _reason_file(part)
    making = parts_folder() / f"{part.name}.making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    reason.unlink(missing_ok=True)
    try:
        if os.uname().machine != "x86_64":
            raise UnobtainableError("the parts are made of amd64 packages, this machine is another")
        part.recipe(making)
        (making / ".recipe").write_text(part.stamp)
        shutil.rmtree(part.folder, ignore_errors=True)
        making.rename(part.folder)
    except PartFailedError as error:
        excuse = _EXCUSED if isinstance(error, UnobtainableError) else ""
        reason.write_text(f"{excuse}{error}")
        raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
