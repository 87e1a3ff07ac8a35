"""`--check`: what only a look at the host tells of a configuration, without serving anything.

Nothing is made, locked or changed: a configuration can be checked while it is being served. What a
disk or a port needs besides sockets is looked at by those who serve it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from vhostuser.errors import UsageError
from vhostuser.options import Problem
from vhostuser.server import group_number, require_socket_path
from vhostuser.serving.config import ServedConfig
from vhostuser.serving.file import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vhostuser.serving.config import ProgramConfig

__all__ = ["Placed", "check_served"]

_Config = TypeVar("_Config", bound=ServedConfig)
Placed: TypeAlias = "Sequence[tuple[_Config, str]]"
"""What is to be served, each with its place in messages."""


def check_served(
    program: ProgramConfig,
    served: Placed[_Config],
    where: str,
    look: Callable[[_Config], Iterator[Problem]],
) -> list[Finding]:
    """Look for what would keep something from being served.

    Args:
        program: the options of the program.
        served: what is to be served.
        where: the place of the program's options in messages.
        look: finds what is wrong with one of them, besides its sockets.
    """
    findings: list[Finding] = []
    for config, place in served:
        findings += [Finding(place, each) for each in (*_of_sockets(config), *look(config))]
    if program.control is not None:
        findings += [Finding(where, each) for each in _of_socket("control", program.control)]
    return findings + list(_conflicts(program, served))


def _of_sockets(config: ServedConfig) -> Iterator[Problem]:
    if config.socket_path is not None:
        yield from _of_socket("socket-path", config.socket_path)
    if config.socket_group is not None:
        yield from _of_group(config.socket_group)
    if config.connect is not None:
        try:
            require_socket_path(config.connect)
        except UsageError as error:
            yield Problem("connect", str(error))


def _of_socket(key: str, path: Path) -> Iterator[Problem]:
    try:
        require_socket_path(path)
    except UsageError as error:
        yield Problem(key, str(error))
        return
    folder = path.parent
    if not folder.is_dir():
        yield Problem(key, f"there is no folder {folder}: make it first")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Problem(key, f"no socket can be made in {folder}: it takes write permission on it")
    elif path.exists() and not path.is_socket():
        yield Problem(key, f"{path} exists and is no socket: remove it or choose another path")


def _of_group(group: str) -> Iterator[Problem]:
    try:
        number = group_number(group)
    except UsageError as error:
        yield Problem("socket-group", str(error))
        return
    if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        text = f"only a member of group {group}, or root, can give it a socket"
        yield Problem("socket-group", text)


def _conflicts(program: ProgramConfig, served: Placed[_Config]) -> Iterator[Finding]:
    names: set[str] = set()
    sockets: dict[Path, str] = {}
    if program.control is not None:
        sockets[program.control.absolute()] = "the control socket"
    for config, place in served:
        if config.id in names:
            text = f"another {config.WORD} is called {config.id}: choose another"
            yield Finding(place, Problem("id", text))
        names.add(config.id)
        if config.socket_path is not None:
            path = config.socket_path.absolute()
            if path in sockets:
                text = f"{path} is the socket of {sockets[path]}, too: choose another"
                yield Finding(place, Problem("socket-path", text))
            sockets.setdefault(path, f"{config.WORD} {config.id}")
