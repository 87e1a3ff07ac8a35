"""What must be true of a wheel, read from the wheel itself.

It holds the modules that run, the compiled engine, the units for systemd and the licences; nothing
that compiles, nothing that happened to lie about. The engine needs libc alone, no newer one than
its tag says, and brings liburing with it. Tags: PEP 425 and PEP 600.
"""

from __future__ import annotations

import configparser
import platform
import re
import subprocess
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENGINE", "OLDEST_GLIBC", "ROOT", "findings", "needed_glibc"]

ROOT = Path(__file__).resolve().parents[3]
ENGINE = "vhostuser/native/_engine.abi3.so"
OLDEST_GLIBC = 36  # of Debian 12, the oldest system that we promise to run on
_PACKAGES = ("accel", "protocol", "vhostuser")
_RUNS = (".py", ".pyi", ".service", ".socket", ".typed")
_COMPILES = {"vhostuser/native/build.py"}
_METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
_LICENCES = ("LICENSE", "LICENSES/liburing.txt")


def findings(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel that was built from this tree; nothing if it is right."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
        found = list(_files(set(names), info))
        found += [
            f"{name} differs from the tree's"
            for name in _LICENCES
            if (inside := f"{info}/licenses/{name}") in names
            and archive.read(inside) != (ROOT / name).read_bytes()
        ]
        if f"{info}/entry_points.txt" in names:
            found += _entry_points(archive.read(f"{info}/entry_points.txt").decode())
        glibc = OLDEST_GLIBC + 1
        if ENGINE in names:
            engine = Path(archive.extract(ENGINE, folder))
            found += _engine(engine)
            glibc = needed_glibc(engine)
        tag = f"cp311-abi3-manylinux_2_{glibc}_{platform.machine()}"
        if f"Tag: {tag}\n" not in archive.read(f"{info}/WHEEL").decode():
            found.append(f"WHEEL does not have the tag {tag}")
        if not wheel.stem.endswith(f"-{tag}"):
            found.append(f"{wheel.name} is not named by the tag {tag}")
        if glibc > OLDEST_GLIBC:
            found.append(f"the engine needs glibc 2.{glibc}, Debian 12 has 2.{OLDEST_GLIBC}")
    return found


def _files(names: set[str], info: str) -> Iterator[str]:
    wanted = {ENGINE, *(f"{info}/{name}" for name in _METADATA)}
    wanted |= {f"{info}/licenses/{name}" for name in _LICENCES}
    for package in _PACKAGES:
        files = (path for path in (ROOT / package).rglob("*") if path.suffix in _RUNS)
        wanted |= {path.relative_to(ROOT).as_posix() for path in files} - _COMPILES
    yield from (f"{name} is missing" for name in sorted(wanted - names))
    yield from (f"{name} does not belong there" for name in sorted(names - wanted))


def _entry_points(text: str) -> Iterator[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = {"console_scripts": project["scripts"], **project.get("entry-points", {})}
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(text)
    if {name: dict(parser[name]) for name in parser.sections()} != wanted:
        yield "entry_points.txt differs from pyproject.toml"


def _readelf(option: str, engine: Path) -> str:
    command = ["readelf", "--wide", option, str(engine)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed_glibc(engine: Path) -> int:
    """Return N of the newest glibc, 2.N, that a shared object has symbols of."""
    versions = re.findall(r"Name: GLIBC_2\.(\d+)", _readelf("--version-info", engine))
    return max(map(int, versions))


def _engine(engine: Path) -> Iterator[str]:
    dynamic = _readelf("--dynamic", engine)
    for library in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        if not re.fullmatch(r"libc\.so\.6|ld-linux.*\.so\.\d", library):
            yield f"the engine needs {library}"
    for path in re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic):
        yield f"the engine looks for libraries in {path}"
    if ".debug_info" in _readelf("--sections", engine):
        yield "the engine was not stripped"
    symbols = [line.split() for line in _readelf("--symbols", engine).splitlines()]
    defined = {line[7]: line[4] for line in symbols if len(line) == 8 and line[6] != "UND"}
    if "io_uring_queue_init_params" not in defined:
        yield "the engine has no io_uring: it was built without liburing"
    exported = {
        line[7].partition("@")[0]
        for line in map(str.split, _readelf("--dyn-syms", engine).splitlines())
        if len(line) == 8 and line[6] != "UND" and line[4] == "GLOBAL"
    }
    if exported != {"PyInit__engine"}:
        yield f"the engine exports {', '.join(sorted(exported)[:3])} and more, not its module alone"
