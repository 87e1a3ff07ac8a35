"""What the host itself must have: a compiler, liburing, Python's headers and its venv module.

Found missing, it is installed by apt when we may (root, or sudo without a password); otherwise the
packages are named and the build stops. Only what is missing is asked for, so a machine that has a
compiler from elsewhere is left alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from .errors import UnobtainableError

__all__ = ["install_missing", "missing_packages"]


def missing_packages() -> list[str]:
    """Return the Debian packages that would bring what building needs and this host lacks."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = []
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"{python}-venv")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        packages.append(f"{python}-dev")
    if not _compiles("stdio.h"):
        packages += ["gcc", "libc6-dev", "liburing-dev"]
    elif not _compiles("liburing.h"):
        packages.append("liburing-dev")
    return packages


def _compiles(header: str) -> bool:
    """Tell whether a program that includes `header` can be compiled and linked.

    gcc alone comes without libc's headers.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(f"#include <{header}>\nint main(void) {{ return 0; }}\n")
        done = subprocess.run(
            [compiler, "-o", str(source.with_suffix("")), str(source)],
            capture_output=True,
            check=False,
        )
    return done.returncode == 0


def install_missing() -> None:
    """Install what is missing.

    Raises:
        UnobtainableError: something is missing and we may not, or cannot, install it.
    """
    packages = missing_packages()
    if not packages:
        return
    wanted = f"this machine lacks {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise UnobtainableError(f"{wanted} and has no apt; install their equivalents, then retry")
    prefix = _privilege()
    if prefix is None:
        raise UnobtainableError(
            f"{wanted}; install them as root: apt-get install {' '.join(packages)}"
        )
    prefix = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    for command in (
        [*prefix, "update"],
        [*prefix, "--no-install-recommends", "install", *packages],
    ):
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            raise UnobtainableError(f"{wanted}, and `{' '.join(command)}` failed; see above")
    left = missing_packages()
    if left:
        raise UnobtainableError(
            f"{' '.join(left)} got installed but did not bring what was missing"
        )


def _privilege() -> list[str] | None:
    """Return what to put before a command to run it as root, or None when we may not."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return ["sudo", "-n"] if asked.returncode == 0 else None
