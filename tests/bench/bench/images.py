"""Images for the benchmarks: fully written, so that every read reaches what it is meant to."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from .errors import BenchError
from .serve import DISK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_image", "read_through", "settle"]

_CHUNK = 1 << 20


def make_image(path: Path, *, real_disk: bool = False) -> None:
    """Write an image of DISK_BYTES.

    Args:
        path: where.
        real_disk: whether it must lie on a file system with a disk below.

    Raises:
        BenchError: the folder lies in memory.
    """
    if real_disk:
        asked = ["stat", "--file-system", "--format=%T", str(path.parent)]
        kind = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if kind in {"tmpfs", "ramfs"}:
            raise BenchError(f"{path.parent} lies in memory ({kind}); name a folder on a disk")
    chunk = os.urandom(_CHUNK)
    with path.open("wb") as image:
        for _ in range(DISK_BYTES // _CHUNK):
            image.write(chunk)
        image.flush()
        os.fsync(image.fileno())


def read_through(path: Path) -> None:
    """Bring a whole image into the page cache."""
    with path.open("rb") as image:
        while image.read(_CHUNK):
            pass


def settle(path: Path) -> None:
    """Wait until all that was written to an image is on its disk, so that nothing follows later."""
    with path.open("rb") as image:
        os.fsync(image.fileno())
