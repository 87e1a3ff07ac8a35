"""DPDK: testpmd with the drivers for virtio-user and vhost, and what C programs on top of it need.

The part holds two programs. `dpdk-testpmd` runs the unpacked one; it has no network driver but
net_virtio_user and net_vhost. `dpdk-cc` compiles with this machine's gcc and links against the
unpacked libraries, which the result finds where they lie.

    .parts/dpdk/dpdk-cc -O2 -o front-end front-end.c
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .private_apt import PrivateApt

__all__ = ["make_dpdk"]

_PACKAGE = "dpdk-dev"  # testpmd is in it, and it depends on the headers and all libraries
# Drivers by their bare names: DPDK refuses a path through a folder that everybody may write to.
_TESTPMD = """\
#!/bin/sh
# Runs the unpacked testpmd with its own loader, libraries and drivers.
here=$(dirname "$(readlink -f "$0")")/root
lib=$here/usr/lib/x86_64-linux-gnu
exec "$here/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$here/lib/x86_64-linux-gnu:$lib:$(echo "$lib"/dpdk/pmds-*)" \\
    "$here/usr/bin/dpdk-testpmd" -d librte_bus_vdev.so -d librte_mempool_ring.so \\
    -d librte_net_virtio.so -d librte_net_vhost.so "$@"
"""
# The rpath is an old one (DT_RPATH), which holds for what the libraries need, too.
_COMPILER = """\
#!/bin/sh
# Compiles and links against the unpacked DPDK; the program registers the drivers by itself.
here=$(dirname "$(readlink -f "$0")")
unpacked=$here/root
include=$unpacked/usr/include
exec gcc -march=corei7 -isystem "$include/dpdk" \\
    -isystem "$include/x86_64-linux-gnu/dpdk" -isystem "$include" \\
    -include rte_config.h "$@" -L"$here/lib" -Wl,--disable-new-dtags,-rpath,"$here/lib" \\
    -Wl,--no-as-needed -lrte_bus_vdev -lrte_mempool_ring -lrte_net_virtio \\
    -Wl,--as-needed -lrte_ethdev -lrte_net -lrte_mbuf -lrte_mempool -lrte_ring -lrte_eal
"""
# What those libraries need beside themselves. The C library stays this machine's.
_NEEDED = ("librte_*.so*", "libbsd.so.0", "libfdt.so.1", "libmd.so.0", "libnuma.so.1")
# What stays of each folder. The headers of the C library, above all, are this machine's.
_KEPT = {
    ".": {"lib", "lib64", "usr"},
    "usr": {"bin", "include", "lib"},
    "usr/bin": {"dpdk-testpmd"},
    "usr/include": {"bsd", "dpdk", "x86_64-linux-gnu"},
    "usr/include/x86_64-linux-gnu": {"dpdk"},
    "usr/lib": {"x86_64-linux-gnu"},
}


def make_dpdk(folder: Path, apt: PrivateApt, suite: str) -> None:
    """Fill the folder of the part.

    Args:
        folder: where the programs go.
        apt: where packages come from.
        suite: of those packages.

    Raises:
        PartFailedError: the dependencies cannot be met or the archive cannot be reached.
    """
    root = folder / "root"
    apt.unpack_closure(_PACKAGE, root, suite=suite)
    for place, kept in _KEPT.items():
        for path in (root / place).iterdir():
            if path.name not in kept:
                _remove(path)
    for path in root.glob("usr/lib/x86_64-linux-gnu/*"):
        if ".so" not in path.name and path.name != "dpdk":
            _remove(path)
    _link_libraries(folder, root)
    for name, text in (("dpdk-testpmd", _TESTPMD), ("dpdk-cc", _COMPILER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _link_libraries(folder: Path, root: Path) -> None:
    """Put links into `lib` to DPDK's libraries and drivers and to what they need."""
    (folder / "lib").mkdir()
    for pattern in _NEEDED:
        for path in root.glob(f"**/x86_64-linux-gnu/{pattern}"):
            (folder / "lib" / path.name).symlink_to(f"../{path.relative_to(folder)}")
