"""clang with libFuzzer and the sanitizers: the machine's own where it has them, else Debian's.

Either way the part is a program `clang` that compiles or links (one of the two at a time) for this
machine, whose gcc brings libc's headers and the linker.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from .errors import PartFailedError

if TYPE_CHECKING:
    from pathlib import Path

    from .private_apt import PrivateApt

__all__ = ["make_clang"]

_VERSIONS = ("", *(f"-{version}" for version in range(21, 13, -1)))
_PACKAGE = "clang-14"
_RUNTIME = "libclang-rt-14-dev"
_FLAGS = ("-fsanitize=fuzzer,address,undefined",)
_PROBE = """\
#include <stddef.h>
#include <stdint.h>
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) { return bytes && size > 1 << 20; }
"""
_OWN = """\
#!/bin/sh
# The machine's own clang.
exec {clang} "$@"
"""
_UNPACKED = """\
#!/bin/sh
# Runs the unpacked clang with its own libraries; what it starts (the linker) has the machine's.
here=$(dirname "$(readlink -f "$0")")/root
lib=$here/usr/lib/x86_64-linux-gnu
llvm=$here/usr/lib/llvm-14
exec "$here/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$llvm/lib:$here/lib/x86_64-linux-gnu:$lib" \\
    "$llvm/bin/clang" -Qunused-arguments -resource-dir "$llvm/lib/clang/14.0.6" \\
    -L"$here/usr/lib/gcc/x86_64-linux-gnu/12" "$@"
"""


def make_clang(folder: Path, apt: PrivateApt, suite: str) -> None:
    """Fill the folder of the part.

    Args:
        folder: where the program goes.
        apt: where packages come from, if they are needed.
        suite: of those packages.

    Raises:
        PartFailedError: neither the machine nor the archive has one that works here.
    """
    clang = folder / "clang"
    for version in _VERSIONS:
        own = shutil.which(f"clang{version}")
        if own is not None:
            _write(clang, _OWN.format(clang=own))
            if _fuzzes(clang, folder) is None:
                return
    apt.unpack_closure(_PACKAGE, folder / "root", suite=suite)
    apt.unpack([_RUNTIME], folder / "root")
    _write(clang, _UNPACKED)
    reason = _fuzzes(clang, folder)
    if reason is not None:
        raise PartFailedError(f"the clang that was unpacked does not work here: {reason}")


def _write(program: Path, text: str) -> None:
    program.write_text(text)
    program.chmod(0o755)


def _fuzzes(clang: Path, folder: Path) -> str | None:
    """Build and run a fuzz target; return what went wrong."""
    source, built = folder / "probe.c", folder / "probe"
    compiled = built.with_suffix(".o")
    source.write_text(_PROBE)
    try:
        for command in (
            [str(clang), *_FLAGS, "-c", "-o", str(compiled), str(source)],
            [str(clang), *_FLAGS, "-o", str(built), str(compiled)],
            [str(built), "-runs=16"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return done.stderr.strip()
    finally:
        for path in (source, compiled, built):
            path.unlink(missing_ok=True)
    return None
