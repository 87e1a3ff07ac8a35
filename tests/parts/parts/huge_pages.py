"""Huge pages for as long as somebody needs them: a few of this machine's, given back at the end.

DPDK takes its memory of them without any file system when it is started with `--in-memory`, and
then its memory grows while it runs. Without huge pages (`--no-huge`) it has one piece for good.
"""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UnobtainableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HUGE_PAGE_MIB", "huge_pages"]

HUGE_PAGE_MIB = 2
_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@contextlib.contextmanager
def huge_pages(mib: int) -> Iterator[None]:
    """Have the kernel keep so many MiB of huge pages more; one process at a time does.

    Args:
        mib: how much of them.

    Raises:
        UnobtainableError: it takes root, or the memory is too fragmented.
    """
    try:
        pool = _POOL.open("r+")
    except OSError as error:
        raise UnobtainableError(f"it takes root and 2 MiB huge pages: {error}") from error
    with pool:
        fcntl.flock(pool, fcntl.LOCK_EX)  # two test runs at once take turns
        before = int(pool.read())
        wanted = before + mib // HUGE_PAGE_MIB
        try:
            if _resize(wanted) < wanted:
                raise UnobtainableError(f"this machine has no {mib} MiB in huge pages to spare")
            yield
        finally:
            _resize(before)


def _resize(pages: int) -> int:
    """Ask for so many pages in all; return how many there are."""
    try:
        _POOL.write_text(str(pages))
    except OSError as error:
        raise UnobtainableError(f"this machine's huge pages are fixed: {error}") from error
    return int(_POOL.read_text())
