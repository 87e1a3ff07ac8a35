"""Network namespaces of a test's own, which end with the test, however it ends.

A process holds each one and waits for its standard input to close: so nothing is left even of a
test that was killed. Interfaces in them vanish with them. All of it takes root, and the program
`ip`: ask for the part `namespaces` first.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Namespace", "namespace"]

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_SECONDS = 30
_SIOCETHTOOL = 0x8946
_SET_OFFLOADS = {"checksum": 0x17, "scatter": 0x19, "tso": 0x1F, "gso": 0x24}
"""Commands of ethtool, in the order in which one allows the next."""
_HOLD = ["unshare", "--net", "--", "sh", "-c", "echo ready; exec cat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A network namespace.

    Attributes:
        pid: of the process that holds it.
    """

    pid: int

    @property
    def enter(self) -> list[str]:
        """The words before a command that is to run in it."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def run(self, *words: object) -> str:
        """Run a command in it; return what it printed."""
        command = [*self.enter, *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ip(self, words: str) -> None:
        """Run `ip` with these words in it."""
        self.run("ip", *words.split())

    def link(self, name: str) -> dict[str, Any]:
        """Return what `ip` says of an interface in it."""
        found: dict[str, Any] = json.loads(self.run("ip", "-j", "-d", "link", "show", "dev", name))[
            0
        ]
        return found

    def take(self, name: str, other: Namespace, address: str) -> None:
        """Bring an interface over from another one, up, with an address ("10.0.0.1/24")."""
        other.ip(f"link set dev {name} netns {self.pid}")
        self.set_up(name, address)

    def set_up(self, name: str, address: str) -> None:
        """Bring an interface up, with an address, at which it can be reached at once."""
        flag = " nodad" if ":" in address else ""
        self.ip(f"addr add {address} dev {name}{flag}")
        self.ip(f"link set dev {name} up")

    def set_offloads(self, name: str, *, on: bool) -> None:
        """Let the kernel leave checksums and segments to an interface, or not (`ethtool -K`)."""
        order = list(_SET_OFFLOADS.values())
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            for command in order if on else reversed(order):
                value = ctypes.create_string_buffer(struct.pack("=II", command, on))
                request = struct.pack("=16sQ16x", name.encode(), ctypes.addressof(value))
                fcntl.ioctl(asking.fileno(), _SIOCETHTOOL, request)

    def socket(self, *arguments: Any) -> socket.socket:
        """Make a socket in it, to be used from anywhere. Arguments as of `socket.socket`."""
        return self.call(lambda: socket.socket(*arguments))

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in it, in a thread of its own."""
        result: list[_T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                _enter(self.pid)
                result.append(function())
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def start(self, words: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start a program in it, which is the caller's to end."""
        command = [*self.enter, *map(str, words)]
        return subprocess.Popen(command, text=True, **options)


def _enter(pid: int) -> None:
    """Move this thread into the namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Have a network namespace for the length of the block, with its loopback up."""
    holder = subprocess.Popen(_HOLD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:  # at its end the pipe closes, and the process ends
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        made = Namespace(pid=holder.pid)
        made.ip("link set dev lo up")
        yield made
