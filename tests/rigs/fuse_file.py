"""One file whose file system is a process: what a peer can make without our help.

    with fuse_file(tmp_path, size=4096) as fd: ...

The process mounts it in a mount namespace of its own and passes a descriptor on, so that nothing is
left when it ends. Specification: Linux, include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["fuse_file"]

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_LARGEST_REQUEST = 1 << 20
_FORGET, _GETATTR, _OPEN, _STATFS, _INIT, _INTERRUPT, _BATCH_FORGET = 2, 3, 14, 17, 26, 36, 42
_UNANSWERED = {_FORGET, _INTERRUPT, _BATCH_FORGET}


def _answers(size: int) -> dict[int, bytes]:
    seconds, mode = 60, stat.S_IFREG | 0o600
    numbers = (1, size, size >> 9, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)
    return {
        _INIT: struct.pack("=IIIIHHII", 7, 31, 0, 0, 1, 1, 4096, 1).ljust(64, b"\0"),
        _GETATTR: struct.pack("=QII", seconds, 0, 0) + struct.pack("=6Q10I", *numbers),
        _OPEN: bytes(16),
        _STATFS: bytes(80),
    }


def _answer(device: int, size: int) -> None:
    answers = _answers(size)
    with contextlib.suppress(OSError):  # it was unmounted
        while True:
            _, request, unique, *_ = _IN.unpack_from(os.read(device, _LARGEST_REQUEST))
            if request not in _UNANSWERED:
                body = answers.get(request, b"")
                os.write(device, _OUT.pack(_OUT.size + len(body), 0, unique) + body)


def _serve(path: str, size: int) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=100000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"fuse", path.encode(), b"fuse", 0, options.encode()) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    threading.Thread(target=_answer, args=(device, size), daemon=True).start()
    with socket.socket(fileno=0) as peer:
        fd = os.open(path, os.O_RDWR)
        socket.send_fds(peer, [b"\0"], [fd])
        os.close(fd)
        peer.recv(1)


@contextlib.contextmanager
def fuse_file(folder: Path, size: int) -> Iterator[int]:
    """Have a descriptor of a file of FUSE for the length of the block.

    Args:
        folder: where it is mounted.
        size: in bytes.
    """
    path = folder / "fuse"
    path.touch()
    ours, theirs = socket.socketpair()
    command = ["unshare", "--mount", sys.executable, str(Path(__file__)), str(path), str(size)]
    with ours, subprocess.Popen(command, stdin=theirs) as process:
        theirs.close()
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        try:
            yield fd
        finally:
            os.close(fd)
            ours.close()
            process.wait()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
