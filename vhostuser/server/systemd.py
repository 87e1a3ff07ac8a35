"""What a service manager says and wants to hear: sockets that it passed, and how we are.

The environment is all there is to it: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES name the sockets
from fd 3 on (sd_listen_fds), NOTIFY_SOCKET is where news go (sd_notify).
"""

from __future__ import annotations

import logging
import os
import socket

from vhostuser.errors import UsageError

__all__ = ["systemd_notify", "systemd_sockets"]

_log = logging.getLogger(__name__)
_FIRST_FD = 3
_MOST = 4096


def systemd_sockets() -> dict[str, int]:
    """Return the sockets that were passed to this process, by name; they are the caller's.

    A socket without a name, or with the name of an earlier one, gets its number as its name.

    Raises:
        UsageError: the environment makes no sense.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    text = os.environ.get("LISTEN_FDS", "")
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(_MOST)) + 1):
        raise UsageError(f"LISTEN_FDS is no number: {text!a}; does systemd start this?")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    sockets: dict[str, int] = {}
    for index in range(min(int(text), _MOST)):
        number = _FIRST_FD + index
        name = names[index] if index < len(names) else ""
        sockets[name if name and name not in sockets else str(number)] = number
    return sockets


def systemd_notify(state: str) -> None:
    """Tell the service manager, if one wants to know; nothing waits for it.

    Args:
        state: for example "READY=1".
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract name space
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # noqa: FBT003 - no keyword
            sock.sendto(state.encode(), address)
    except (OSError, ValueError) as error:
        _log.warning("cannot tell the service manager %s: %s", state, error)
