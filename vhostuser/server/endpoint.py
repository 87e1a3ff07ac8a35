"""Where front-ends come from: a listening socket, a connection that we make, or an inherited fd.

Specification: "Backend program conventions" (--socket-path, --fd). What systemd passes is taken
from the environment in `vhostuser.server.systemd`.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Protocol

import trio

from vhostuser.errors import UsageError
from vhostuser.stream import connect_unix

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ConnectedEndpoint",
    "ConnectingEndpoint",
    "Endpoint",
    "ListeningEndpoint",
    "OwnPath",
    "bind_unix",
    "endpoint_from_fd",
    "group_number",
    "is_live",
    "require_socket_path",
]

_log = logging.getLogger(__name__)
_BACKLOG = 1024
_LONGEST_PATH = 107
"""Bytes of a socket's path that fit into the kernel's address, with the zero at its end."""
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
        self._path = None if path is None else OwnPath(path)

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
            self._path.remove()


class OwnPath:
    """The path of a socket that was made here, to be removed in the end.

    Args:
        path: where it is now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        """Tell one file from another of the same name; None when there is none."""
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the socket, unless somebody has put another one in its place: that is live."""
        if self._identity() == self._made:
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
            try:
                return await connect_unix(self._path)
            except OSError as error:
                if error.errno is None:  # not the host's refusal, but Python's
                    raise UsageError(f"cannot connect to {self._path}: {error}") from error
                if delay == _SHORTEST_RETRY:
                    why = error.strerror
                    _log.info("waiting for a front-end at %s: %s", self._path, why)
                await trio.sleep(delay)
                delay = min(delay * 2, _LONGEST_RETRY)

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


def bind_unix(path: Path, *, mode: int | None = None, group: str | None = None) -> socket.socket:
    """Listen on a UNIX socket path, removing a stale socket but never a live one.

    Args:
        path: where; its folder exists.
        mode: permissions of the socket; None: what the umask leaves.
        group: to whom it belongs besides its owner, a name or a number; None: as any new file.

    Raises:
        UsageError: the path cannot be used; the text says why and what to do.
    """
    require_socket_path(path)
    number = -1 if group is None else group_number(group)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        try:
            # Before listen: nobody can have connected.
            if number != -1:
                os.chown(path, -1, number, follow_symlinks=False)
            if mode is not None:
                path.chmod(mode)
            sock.listen(_BACKLOG)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        sock.close()
        raise UsageError(_cannot_listen(path, error, group)) from error
    return sock


def require_socket_path(path: Path) -> None:
    """Check that a path fits into a socket's address.

    Raises:
        UsageError: it is too long.
    """
    length = len(os.fsencode(path))
    if length > _LONGEST_PATH:
        raise UsageError(
            f"cannot use {path} as a socket: it has {length} bytes, and the kernel takes "
            f"{_LONGEST_PATH}; use a shorter path, or a relative one"
        )


def group_number(group: str) -> int:
    """Return the number of a group, given by name or number.

    Raises:
        UsageError: there is no such group.
    """
    if group.isascii() and group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(
            f"there is no group '{group}': `getent group` lists all; a number would do, too"
        ) from None


def _cannot_listen(path: Path, error: OSError, group: str | None) -> str:
    folder = path.parent
    hint = ""
    if error.errno == errno.ENOENT and not folder.is_dir():
        hint = f": make the folder {folder} first"
    elif error.errno == errno.ENOTDIR:
        hint = f": {folder} is no folder"
    elif error.errno == errno.EPERM and group is not None:
        hint = f": only a member of group {group}, or root, can give it a socket"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        hint = f": it takes write permission on {folder}"
    elif error.errno == errno.EADDRINUSE:
        hint = ": another process made it just now"
    return f"cannot listen on {path}: {error.strerror or error}{hint}"


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(_cannot_listen(path, error, None)) from error
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is no socket: remove it or choose another path")
    if is_live(path):
        raise UsageError(f"{path} is in use: another process listens on it")
    path.unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """Tell whether somebody listens on a UNIX socket path.

    Raises:
        UsageError: one cannot tell.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # its backlog is full
        except OSError as error:
            raise UsageError(f"{path} is in use: {error.strerror}") from error
    return True


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
