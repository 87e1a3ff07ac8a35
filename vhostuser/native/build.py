"""Build script of the engine's cffi module, API mode, stable ABI.

setup.py names the `ffi` object below. The declarations are those of the one public header, from its
marker line on; nothing is declared twice, and the compiler checks all of it.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import cffi

_NATIVE = Path(__file__).resolve().parent
_ROOT = _NATIVE.parents[1]
_MARKER = "/* cffi reads from here */"
_IOVEC = "struct iovec { void *iov_base; size_t iov_len; };"


def _declarations() -> str:
    """Return what cffi shall know: the public header behind its marker, without the guard's end."""
    header = (_NATIVE / "include" / "vhu.h").read_text(encoding="utf-8")
    return _IOVEC + header.partition(_MARKER)[2].rpartition("#endif")[0]


def _uring() -> list[str]:
    """Return what links liburing: its static library, so that a wheel needs nothing on its host.

    Without the library's header the engine is built without io_uring, and threads do its work.
    """
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    probe = [compiler, "-E", "-include", "liburing.h", "-x", "c", "/dev/null", "-o", "/dev/null"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:  # noqa: S603
        print("liburing.h was not found (Debian: liburing-dev): building without io_uring")  # noqa: T201
        return []
    found = subprocess.run(  # noqa: S603 - the compiler that builds everything else
        [compiler, "-print-file-name=liburing.a"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    return [found] if Path(found).is_absolute() else ["-luring"]


def _relative(path: Path) -> str:
    """Return `path` as setuptools wants it: relative to the project."""
    return str(path.relative_to(_ROOT))


ffi = cffi.FFI()
ffi.cdef(_declarations())
ffi.set_source(
    "vhostuser.native._engine",
    '#include "vhu.h"',
    sources=sorted(_relative(path) for path in (_NATIVE / "src").glob("*.c")),
    depends=sorted(_relative(path) for path in _NATIVE.rglob("*.h")),
    include_dirs=[_relative(_NATIVE / "include"), _relative(_NATIVE / "src")],
    # Nobody but Python looks for symbols here, and a liburing of another module stays its own.
    extra_compile_args=[
        *("-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-pthread"),
        "-fvisibility=hidden",
    ],
    extra_link_args=["-pthread", "-Wl,--exclude-libs,ALL", *_uring()],
    py_limited_api=True,
)
