"""`vhostuser blk`: serve disks. Specification: "Backend program conventions", vhost-user-blk.

What can be set is `vhostuser.disks.config`; here it is collected from the command line or the file,
and the set of disks is run until somebody ends it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from vhostuser.cli.collecting import Collected, add_file_arguments, from_file, of_program, report
from vhostuser.cli.command import Command
from vhostuser.cli.serving import Serving, run_served
from vhostuser.disks import DiskConfig, DiskSet, check_disks
from vhostuser.monitor.disks import DISK_COMMANDS
from vhostuser.options import Source, add_arguments, given, read
from vhostuser.server import systemd_sockets
from vhostuser.serving import Finding, ProgramConfig, missing_place

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMAND", "DISKS"]

DISKS = Serving(
    table=DiskConfig,
    open_set=DiskSet.open,
    commands=DISK_COMMANDS,
    nothing="there is nothing to serve: give a [[disk]], or a control socket",
)
"""Disks in software."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="print what this back-end can do as JSON, and end",
    )
    add_file_arguments(parser, DiskConfig)
    add_arguments(parser, DiskConfig)
    add_arguments(parser, ProgramConfig)


def _run(namespace: argparse.Namespace) -> int:
    if namespace.print_capabilities:
        json.dump({"type": "block", "features": ["read-only", "blk-file"]}, sys.stdout)
        print()
        return 0
    told = _collect(namespace)
    if namespace.check:
        told = told.with_findings(check_disks(told.program, told.served, told.place))
        if namespace.config is None and not systemd_sockets():
            told = told.with_findings(
                [Finding("", where) for disk, _ in told.served for where in missing_place(disk)]
            )
        return report(told, DISKS.nothing)
    run_served(namespace, DISKS, told.program, told.require_right())
    return 0


def _collect(namespace: argparse.Namespace) -> Collected[ProgramConfig, DiskConfig]:
    of_disk = given(namespace, DiskConfig)
    if namespace.config is not None:
        return from_file(namespace, ProgramConfig, DiskConfig, list(of_disk))
    disk, problems = read(DiskConfig, of_disk, Source.COMMAND_LINE)
    return Collected(
        program=of_program(namespace, ProgramConfig),
        served=[] if disk is None else [(disk, "")],
        findings=[Finding("", each) for each in problems],
    )


COMMAND = Command(
    summary="serve a disk image, a block device or memory as a virtio disk",
    configure=_configure,
    run=_run,
    obeys_signals=True,
)
