"""Serves a set of things until somebody ends the program: what every serving command does."""

from __future__ import annotations

import logging
import os
import resource
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from vhostuser.cli.ending import SIGNALS, End, end_on_signal
from vhostuser.errors import UsageError
from vhostuser.monitor import Monitor
from vhostuser.server import systemd_notify, systemd_sockets
from vhostuser.serving import ProgramConfig, ServedConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from vhostuser.monitor import CommandRow
    from vhostuser.serving import ServedSet

__all__ = ["Serving", "run_served"]

_log = logging.getLogger(__name__)

_Config = TypeVar("_Config", bound=ServedConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving(Generic[_Config]):
    """What a command serves, and how.

    Attributes:
        table: the options of one thing that is served.
        open_set: makes the set that serves them.
        commands: of the control socket.
        nothing: said where there is nothing to serve: what to give.
    """

    table: type[_Config]
    open_set: Callable[[], AbstractAsyncContextManager[ServedSet[_Config, Any]]]
    commands: Mapping[str, CommandRow]
    nothing: str


def run_served(
    namespace: argparse.Namespace,
    serving: Serving[_Config],
    program: ProgramConfig,
    configs: Sequence[_Config],
) -> None:
    """Serve until SIGTERM, SIGINT, `quit` or the last front-end.

    Args:
        namespace: with `verbose` and the log's `sink`.
        serving: what the command serves.
        program: options of the program.
        configs: what to serve.

    Raises:
        UsageError, OSError: something cannot be served.
    """
    level = "debug" if namespace.verbose else program.log_level
    namespace.sink.configure(log_format=program.log_format, level=level)
    _allow_open_files()
    for number in SIGNALS:
        # In force before `_serve` listens for signals, and again once it has cleaned up.
        signal.signal(number, lambda _number, _frame: os._exit(0))
    trio.run(_serve, serving, program, configs)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the interpreter's own end would undo a handler


def _allow_open_files() -> None:
    """Take what the system allows: each ring has three fds, and 256 rings pass the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(
    serving: Serving[_Config], program: ProgramConfig, configs: Sequence[_Config]
) -> None:
    """Serve, and obey signals.

    From before the first socket is there until after the last one is removed, signals are obeyed
    here: no moment is left at which one would leave a socket's path behind.
    """
    if not configs and program.control is None:
        raise UsageError(serving.nothing)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            end = End(nursery.cancel_scope)
            nursery.start_soon(end_on_signal, signals, end)
            async with serving.open_set() as served:
                end.owner = served
                await _serve_all(serving, served, program, configs, end)
            nursery.cancel_scope.cancel()


async def _serve_all(
    serving: Serving[_Config],
    served: ServedSet[_Config, Any],
    program: ProgramConfig,
    configs: Sequence[_Config],
    end: End,
) -> None:
    word = serving.table.WORD
    served.inherited = systemd_sockets()
    if len(configs) == len(served.inherited) == 1:
        # One disk and one socket: they belong together, whatever the socket is called.
        served.inherited = dict.fromkeys([configs[0].id], *served.inherited.values())
    async with trio.open_nursery() as nursery:
        if program.control is not None:
            monitor = Monitor(program.control, served, end, serving.commands)
            end.control = monitor.made
            served.notify = monitor.emit
            nursery.start_soon(monitor.run)
        for config in configs:
            await served.add(config)
        if not configs:
            _log.info("no %s yet: waiting for %s-add on %s", word, word, program.control)
        if served.inherited:
            names = ", ".join(served.inherited)
            raise UsageError(f"systemd passed sockets that no {word} has for its id: {names}")
        systemd_notify("READY=1")
        await served.finished()
        nursery.cancel_scope.cancel()
