"""The system calls that VFIO takes, in one place: tests put a kernel of their own there.

All of them may be slow, or wait for another process; none is for the trio thread, but for those
that a caller knows to be quick.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from protocol.kernel import vfio
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Kernel", "ask"]

_LARGEST_ANSWER = 64 * 1024


class Kernel:
    """This host's kernel."""

    def open(self, path: Path) -> OwnedFd:
        """Open a device node for reading and writing. Raises OSError."""
        return OwnedFd(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def ioctl(
        self, fd: OwnedFd, request: vfio.Request, argument: bytearray | OwnedFd | int = 0
    ) -> int:
        """Make a request of an open file.

        Args:
            fd: the file.
            request: what is asked for.
            argument: a structure, which the kernel may change, or a number.

        Returns:
            What the kernel returned: 0, or what the request says.

        Raises:
            OSError: the kernel refused.
        """
        value = argument.fileno() if isinstance(argument, OwnedFd) else argument
        return fcntl.ioctl(fd.fileno(), request, value)

    def pread(self, fd: OwnedFd, size: int, offset: int) -> bytes:
        """Read from a device's file. Raises OSError."""
        return os.pread(fd.fileno(), size, offset)

    def pwrite(self, fd: OwnedFd, data: bytes, offset: int) -> int:
        """Write to a device's file; return how many bytes were. Raises OSError."""
        return os.pwrite(fd.fileno(), data, offset)


class _Answer(Protocol):
    SIZE: int

    @classmethod
    def parse(cls, answer: bytes) -> Self: ...


_AnswerT = TypeVar("_AnswerT", bound=_Answer)


def ask(
    kernel: Kernel, fd: OwnedFd, request: vfio.Request, kind: type[_AnswerT], index: int = 0
) -> _AnswerT:
    """Make a request that is answered with a structure of a size that only the kernel knows.

    Args:
        kernel: whom to ask.
        fd: the file.
        request: what is asked for.
        kind: what the answer is.
        index: which region or kind of interrupt is meant.

    Raises:
        OSError: the kernel refused, or its answer makes no sense.
    """
    size = kind.SIZE
    while True:
        answer = vfio.request_buffer(size, index)
        kernel.ioctl(fd, request, answer)
        needed = vfio.answer_size(answer)
        if not size < needed <= _LARGEST_ANSWER:
            break
        size = needed  # it only grows, so this ends
    try:
        return kind.parse(bytes(answer))
    except ValueError as error:
        raise AcceleratorError(f"{request.name}: {error}") from error
