"""Guest memory that changes while it is read."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.fds import OwnedFd

__all__ = ["flipping"]

_FLIPPER = """
import mmap, sys
fd, offset, one, other = int(sys.argv[1]), int(sys.argv[2]), *map(bytes.fromhex, sys.argv[3:])
memory, end = mmap.mmap(fd, 0), offset + len(one)
print(flush=True)
while True:
    memory[offset:end] = one
    memory[offset:end] = other
"""


@contextlib.asynccontextmanager
async def flipping(fd: OwnedFd, offset: int, one: bytes, other: bytes) -> AsyncIterator[None]:
    """Another process writes `one` and `other` there in turn, as fast as it can."""
    arguments = [str(fd.fileno()), str(offset), one.hex(), other.hex()]
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _FLIPPER, *arguments],
        pass_fds=[fd.fileno()],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        await trio.to_thread.run_sync(process.stdout.readline)
        yield
    finally:
        process.kill()
        process.communicate()
