"""Where front-ends come from: a listening socket, a connection that we make, or an inherited fd.

Specification: "Backend program conventions" (--socket-path, --fd), with systemd's LISTEN_FDS beside
them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Protocol

import trio

from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ConnectedEndpoint",
    "ConnectingEndpoint",
    "Endpoint",
    "ListeningEndpoint",
    "bind_unix",
    "endpoint_from_fd",
    "systemd_fd",
]

_log = logging.getLogger(__name__)
_BACKLOG = 16
_FIRST_SYSTEMD_FD = 3
_SHORTEST_RETRY = 0.1
_LONGEST_RETRY = 2.0


class Endpoint(Protocol):
    """A source of connections, one front-end at a time."""

    async def accept(self) -> trio.socket.SocketType | None:
        """Return the next front-end's socket, or None when there will be no more."""

    async def another_waits(self) -> None:
        """Return when a further front-end waits in the backlog; it is left there."""

    def close(self) -> None:
        """Accept no more. A socket path that we made is removed."""


class ListeningEndpoint:
    """A listening UNIX socket.

    Args:
        sock: taken over.
        path: removed on close; None when somebody else made it.
    """

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._path = path

    async def accept(self) -> trio.socket.SocketType | None:
        """Wait for a front-end. See `Endpoint.accept`."""
        while True:
            try:
                connected, _ = await self._socket.accept()
            except OSError as error:
                if error.errno not in {
                    errno.EMFILE,
                    errno.ENFILE,
                    errno.ENOMEM,
                    errno.ECONNABORTED,
                }:
                    raise
                _log.warning("cannot accept a front-end now, trying again: %s", error)
                await trio.sleep(_LONGEST_RETRY)
            else:
                return connected

    async def another_waits(self) -> None:
        """Wait until somebody is in the backlog. See `Endpoint.another_waits`."""
        await trio.lowlevel.wait_readable(self._socket)

    def close(self) -> None:
        """Stop listening. See `Endpoint.close`."""
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class ConnectingEndpoint:
    """Connects to a front-end that listens, again and again.

    Args:
        path: the front-end's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def accept(self) -> trio.socket.SocketType | None:
        """Connect, retrying until the front-end is there. See `Endpoint.accept`.

        Raises:
            UsageError: no front-end can ever be there: the path is too long for a socket.
        """
        delay = _SHORTEST_RETRY
        while True:
            sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                await sock.connect(str(self._path))
            except OSError as error:
                sock.close()
                if error.errno is None:  # not the host's refusal, but Python's
                    raise UsageError(f"cannot connect to {self._path}: {error}") from error
                if delay == _SHORTEST_RETRY:
                    _log.info("waiting for a front-end at %s: %s", self._path, error)
                await trio.sleep(delay)
                delay = min(delay * 2, _LONGEST_RETRY)
            except BaseException:
                sock.close()
                raise
            else:
                return sock

    async def another_waits(self) -> None:
        """Never return: whoever listens has only us."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Nothing is held between connections."""


class ConnectedEndpoint:
    """One socket that is connected already; there is no other after it.

    Args:
        sock: taken over.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket: socket.socket | None = sock

    async def accept(self) -> trio.socket.SocketType | None:
        """Return the socket, once. See `Endpoint.accept`."""
        await trio.lowlevel.checkpoint()
        sock, self._socket = self._socket, None
        return None if sock is None else trio.socket.from_stdlib_socket(sock)

    async def another_waits(self) -> None:
        """Never return: there is only one."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Close the socket if it was never used."""
        if self._socket is not None:
            self._socket.close()


def bind_unix(path: Path, *, mode: int | None = None) -> socket.socket:
    """Listen on a UNIX socket path, removing a stale socket but never a live one.

    Args:
        path: where; its folder exists.
        mode: permissions of the socket; None: what the umask leaves.

    Raises:
        UsageError: the path cannot be used; the text says why and what to do.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        if mode is not None:
            path.chmod(mode)  # before listen: nobody can have connected
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is no socket: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise UsageError(f"{path} is in use: {error.strerror}") from error
    raise UsageError(f"{path} is in use: another process listens on it")


def endpoint_from_fd(number: int) -> Endpoint:
    """Make an endpoint of an inherited descriptor, listening or connected.

    Args:
        number: the descriptor; taken over.

    Raises:
        UsageError: it is not a UNIX stream socket.
    """
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise UsageError(f"fd {number} is no open socket: {error.strerror}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise UsageError(f"fd {number} is no UNIX stream socket")
    with contextlib.suppress(OSError):
        os.set_inheritable(number, False)  # noqa: FBT003 - no keyword
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return ListeningEndpoint(sock)
    return ConnectedEndpoint(sock)


def systemd_fd() -> int | None:
    """Return the socket that systemd passed to this process (sd_listen_fds), if any.

    Raises:
        UsageError: more than one was passed.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    if count != "1":
        raise UsageError(f"systemd passed {count or 'no'} sockets: one disk takes exactly one")
    return _FIRST_SYSTEMD_FD
