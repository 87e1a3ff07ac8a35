"""The programs that take part: compiled from ../src, fetched as parts, or the product itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from parts.catalogue import CATALOGUE, reason_missing

from .errors import BenchError

__all__ = [
    "PARTS",
    "ROOT",
    "Programs",
    "build",
    "build_net_ring_load",
    "engine_library",
    "version_of",
]

ROOT = Path(__file__).resolve().parents[3]
"""The project's root."""

PARTS = ("libblkio", "qemu-storage-daemon", "fio", "dpdk")
"""What `make bench` fetches."""

_SOURCES = Path(__file__).resolve().parents[1] / "src"
_OUT = ROOT / "build" / "bench"
_BACK_END = ("back_end.c", "back_end_rings.c", "wire.c", "load.c")
_FRONT_END = ("front_end.c", "wire.c", "load.c")
_FLAGS = ("-std=gnu17", "-O2", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Where each program lies."""

    pingpong: Path
    blk_load: Path
    ring_load: Path
    ideal: Path
    drive: Path
    relay_load: Path
    echo: Path
    echo_load: Path
    peer: Path
    fio: Path
    testpmd: Path
    net_load: Path
    net_ring_load: Path
    ideal_net: Path


def _part(name: str) -> Path:
    part = CATALOGUE[name]
    if not part.is_there():
        raise BenchError(f"the part {name} is missing ({reason_missing(part)}); run `make bench`")
    return part.folder


def _compile(
    name: str, sources: tuple[str, ...], *options: str, compiler: Path | None = None
) -> Path:
    """Compile one program unless it is newer than all that it is made of."""
    program = _OUT / name
    libraries = [Path(option) for option in options if option.endswith(".a")]
    inputs = [*_SOURCES.iterdir(), *libraries]
    if program.exists() and program.stat().st_mtime > max(p.stat().st_mtime for p in inputs):
        return program
    found = compiler or shutil.which("gcc")
    if found is None:
        raise BenchError("gcc is not on this machine; `make build` installs it")
    files = [str(_SOURCES / source) for source in sources]
    subprocess.run([found, *_FLAGS, "-o", str(program), *files, *options], check=True)
    return program


def engine_library() -> Path:
    """Make the engine as a static library, of which a shared one can be made, too.

    Raises:
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    out = _OUT / "engine"
    library = out / "shared" / "libvhu.a"
    folder = ROOT / "vhostuser" / "native"
    command = ["make", "--silent", "-C", str(folder), f"BUILD={out}", "VARIANT=shared"]
    command += ["CFLAGS=-O2 -g -fPIC", str(library)]
    subprocess.run(command, check=True)
    return library


def build_net_ring_load(library: Path) -> Path:
    """Compile the client that drives a switch from rings of its own; it needs no part.

    Args:
        library: the engine's.

    Raises:
        BenchError: there is no compiler.
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    _OUT.mkdir(parents=True, exist_ok=True)
    sources = ("net_ring_load.c", "net_port.c", "frames.c", *_FRONT_END)
    include = f"-I{ROOT / 'vhostuser' / 'native' / 'include'}"
    return _compile("net_ring_load", sources, include, str(library))


def build() -> Programs:
    """Compile what is ours and find what is fetched.

    Raises:
        BenchError: a part or the compiler is missing.
        subprocess.CalledProcessError: something does not compile; the compiler has said why.
    """
    _OUT.mkdir(parents=True, exist_ok=True)
    libblkio = _part("libblkio")
    dpdk = _part("dpdk")
    library = engine_library()
    native = ROOT / "vhostuser" / "native"
    return Programs(
        pingpong=_compile("pingpong", ("pingpong.c", "load.c")),
        blk_load=_compile(
            "blk_load",
            ("blk_load.c", "load.c"),
            f"-I{libblkio}/include",
            f"-L{libblkio}/lib",
            "-lblkio",
            f"-Wl,-rpath,{libblkio}/lib",
        ),
        ring_load=_compile(
            "ring_load",
            ("ring_load.c", *_FRONT_END),
            f"-I{native}/include",
            str(library),
        ),
        net_ring_load=build_net_ring_load(library),
        ideal=_compile("ideal", ("ideal.c", *_BACK_END)),
        ideal_net=_compile("ideal_net", ("ideal_net.c", *_BACK_END)),
        echo=_compile("echo", ("echo.c", "load.c")),
        echo_load=_compile("echo_load", ("echo_load.c", "load.c")),
        relay_load=_compile(
            "relay_load", ("relay_load.c", "load.c"), f"-I{native}/include", str(library)
        ),
        drive=_compile(
            "drive.so",
            ("drive.c", "load.c"),
            "-shared",
            "-fPIC",
            f"-I{native}/include",
            str(library),
        ),
        peer=_part("qemu-storage-daemon") / "qemu-storage-daemon",
        fio=_part("fio") / "fio",
        testpmd=dpdk / "dpdk-testpmd",
        net_load=_compile(
            "net_load", ("net_load.c", "frames.c", "load.c"), compiler=dpdk / "dpdk-cc"
        ),
    )


def version_of(program: Path) -> str:
    """Return the version number that a program prints."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return found[0] if found else done.stdout.strip()
