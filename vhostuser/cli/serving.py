"""Serves a set of disks until somebody ends the program: what every serving command does."""

from __future__ import annotations

import logging
import os
import resource
import signal
from typing import TYPE_CHECKING

import trio

from vhostuser.cli.ending import SIGNALS, End, end_on_signal
from vhostuser.disks import DiskSet
from vhostuser.errors import UsageError
from vhostuser.monitor import Monitor
from vhostuser.server import systemd_notify, systemd_sockets

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from vhostuser.disks import DiskConfig, ProgramConfig

    OpenSet = Callable[[], AbstractAsyncContextManager[DiskSet]]

__all__ = ["NOTHING", "run_disks"]

_log = logging.getLogger(__name__)
NOTHING = "there is nothing to serve: give a [[disk]], or a control socket"


def run_disks(
    namespace: argparse.Namespace,
    program: ProgramConfig,
    configs: Sequence[DiskConfig],
    open_set: OpenSet = DiskSet.open,
) -> None:
    """Serve until SIGTERM, SIGINT, `quit` or the last front-end.

    Args:
        namespace: with `verbose` and the log's `sink`.
        program: options of the program.
        configs: what to serve.
        open_set: makes the set that serves them.

    Raises:
        UsageError, OSError: something cannot be served.
    """
    level = "debug" if namespace.verbose else program.log_level
    namespace.sink.configure(log_format=program.log_format, level=level)
    _allow_open_files()
    for number in SIGNALS:
        # In force before `_serve` listens for signals, and again once it has cleaned up.
        signal.signal(number, lambda _number, _frame: os._exit(0))
    trio.run(_serve, program, configs, open_set)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the interpreter's own end would undo a handler


def _allow_open_files() -> None:
    """Take what the system allows: each ring has three fds, and 256 rings pass the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(program: ProgramConfig, configs: Sequence[DiskConfig], open_set: OpenSet) -> None:
    """Serve, and obey signals.

    From before the first socket is there until after the last one is removed, signals are obeyed
    here: no moment is left at which one would leave a socket's path behind.
    """
    if not configs and program.control is None:
        raise UsageError(NOTHING)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            end = End(nursery.cancel_scope)
            nursery.start_soon(end_on_signal, signals, end)
            async with open_set() as disks:
                end.disks = disks
                await _serve_disks(disks, program, configs, end)
            nursery.cancel_scope.cancel()


async def _serve_disks(
    disks: DiskSet, program: ProgramConfig, configs: Sequence[DiskConfig], end: End
) -> None:
    disks.inherited = systemd_sockets()
    if len(configs) == len(disks.inherited) == 1:
        # One disk and one socket: they belong together, whatever the socket is called.
        disks.inherited = dict.fromkeys([configs[0].id], *disks.inherited.values())
    async with trio.open_nursery() as nursery:
        if program.control is not None:
            monitor = Monitor(program.control, disks, end)
            end.control = monitor.made
            disks.notify = monitor.emit
            nursery.start_soon(monitor.run)
        for config in configs:
            await disks.add(config)
        if not configs:
            _log.info("no disk yet: waiting for disk-add on %s", program.control)
        if disks.inherited:
            names = ", ".join(disks.inherited)
            raise UsageError(f"systemd passed sockets that no disk has for its id: {names}")
        systemd_notify("READY=1")
        await disks.finished()
        nursery.cancel_scope.cancel()
