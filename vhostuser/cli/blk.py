"""`vhostuser blk`: serve disks. Specification: "Backend program conventions", vhost-user-blk.

What can be set is `vhostuser.disks.config`; here it is collected from the command line or the file,
and the set of disks is run until somebody ends it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.cli.command import Command
from vhostuser.cli.ending import SIGNALS, End, end_on_signal
from vhostuser.disks import (
    DiskConfig,
    DiskSet,
    Finding,
    Problem,
    ProgramConfig,
    Source,
    add_arguments,
    check_disks,
    given,
    missing_socket,
    read,
    read_config,
)
from vhostuser.errors import UsageError
from vhostuser.monitor import Monitor
from vhostuser.server import systemd_notify, systemd_sockets

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMAND"]

_log = logging.getLogger(__name__)
_NOTHING = "there is nothing to serve: give a [[disk]], or a control socket"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="print what this back-end can do as JSON, and end",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="serve the disks of this TOML file: one [[disk]] table each, with the options below",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="serve nothing: tell everything that is wrong with the options or the file",
    )
    add_arguments(parser, DiskConfig)
    add_arguments(parser, ProgramConfig)


def _run(namespace: argparse.Namespace) -> int:
    if namespace.print_capabilities:
        json.dump({"type": "block", "features": ["read-only", "blk-file"]}, sys.stdout)
        print()
        return 0
    program, disks, findings = _collect(namespace)
    if namespace.check:
        findings = [*findings, *check_disks(program, disks, str(namespace.config or ""))]
        if namespace.config is None and not systemd_sockets():
            findings += [Finding("", where) for disk, _ in disks for where in missing_socket(disk)]
        if not disks and program.control is None and not findings:
            findings = [Finding(str(namespace.config), Problem("", _NOTHING))]
        for finding in findings:
            print(finding, file=sys.stderr)
        return 1 if findings else 0
    if findings:
        raise UsageError("\n".join(map(str, findings)))
    level = "debug" if namespace.verbose else program.log_level
    namespace.sink.configure(log_format=program.log_format, level=level)
    _allow_open_files()
    for number in SIGNALS:
        # In force before `_serve` listens for signals, and again once it has cleaned up.
        signal.signal(number, lambda _number, _frame: os._exit(0))
    trio.run(_serve, program, [disk for disk, _ in disks])
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the interpreter's own end would undo a handler
    return 0


def _collect(
    namespace: argparse.Namespace,
) -> tuple[ProgramConfig, list[tuple[DiskConfig, str]], list[Finding]]:
    """Return the program's options, the disks with the place of each, and what is wrong."""
    of_disk = given(namespace, DiskConfig)
    of_program = given(namespace, ProgramConfig)
    if namespace.config is None:
        disk, problems = read(DiskConfig, of_disk, Source.COMMAND_LINE)
        program, more = read(ProgramConfig, of_program, Source.COMMAND_LINE)
        assert program is not None, more  # nothing in it excludes anything
        findings = [Finding("", each) for each in problems]
        return program, [] if disk is None else [(disk, "")], findings
    if of_disk:
        raise UsageError(
            f"--{next(iter(of_disk))} is of a disk: with --config it belongs into a [[disk]] table "
            f"of {namespace.config}"
        )
    file = read_config(namespace.config, overridden=of_program)
    disks = list(zip(file.disks, file.places, strict=True))
    if namespace.check:
        disks += file.partly_right
    return file.program, disks, list(file.findings)


def _allow_open_files() -> None:
    """Take what the system allows: each ring has three fds, and 256 rings pass the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(program: ProgramConfig, configs: list[DiskConfig]) -> None:
    """Serve until SIGTERM, SIGINT, `quit` or the last front-end.

    From before the first socket is there until after the last one is removed, signals are obeyed
    here: no moment is left at which one would leave a socket's path behind.
    """
    if not configs and program.control is None:
        raise UsageError(_NOTHING)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            end = End(nursery.cancel_scope)
            nursery.start_soon(end_on_signal, signals, end)
            async with DiskSet.open() as disks:
                end.disks = disks
                await _serve_disks(disks, program, configs, end)
            nursery.cancel_scope.cancel()


async def _serve_disks(
    disks: DiskSet, program: ProgramConfig, configs: list[DiskConfig], end: End
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


COMMAND = Command(
    summary="serve a disk image, a block device or memory as a virtio disk",
    configure=_configure,
    run=_run,
    obeys_signals=True,
)
