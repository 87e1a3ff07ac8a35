"""From options to the place where the front-ends of what is served come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhostuser.errors import UsageError
from vhostuser.options import Problem
from vhostuser.server import ConnectingEndpoint, ListeningEndpoint, bind_unix, endpoint_from_fd

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from vhostuser.server import Endpoint
    from vhostuser.serving.config import ServedConfig

__all__ = ["missing_place", "open_endpoint"]


def missing_place(config: ServedConfig) -> Iterator[Problem]:
    """Yield that something has no place for front-ends, if only its options count."""
    if not config.placed:
        yield Problem("", config.NOWHERE)


def open_endpoint(config: ServedConfig, inherited: MutableMapping[str, int]) -> Endpoint:
    """Make the place where front-ends come from.

    Args:
        config: of what is served.
        inherited: sockets that systemd passed, by name; the one that is used is taken out.

    Raises:
        UsageError: there is none, or it cannot be used.
    """
    if config.socket_path is not None:
        sock = bind_unix(config.socket_path, mode=config.socket_mode, group=config.socket_group)
        return ListeningEndpoint(sock, config.socket_path)
    if config.connect is not None:
        return ConnectingEndpoint(config.connect)
    number = inherited.pop(config.id, None) if config.fd is None else config.fd
    if number is None:
        raise UsageError(config.NOWHERE)
    if not _was_passed(number):
        raise UsageError(f"fd {number} is no open socket that was passed to this program")
    return endpoint_from_fd(number)


def _was_passed(number: int) -> bool:
    """Whether a descriptor came from the parent: this program's own are all close-on-exec."""
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
