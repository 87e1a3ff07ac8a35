"""`vhostuser blk`: serve disks. Specification: "Backend program conventions", vhost-user-blk.

What can be set is `vhostuser.disks.config`; here it is collected from the command line or the file,
and the set of disks is run until somebody ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.cli.command import Command
from vhostuser.cli.serving import NOTHING, run_disks
from vhostuser.disks import (
    DiskConfig,
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
from vhostuser.server import systemd_sockets

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMAND"]


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
            findings = [Finding(str(namespace.config), Problem("", NOTHING))]
        for finding in findings:
            print(finding, file=sys.stderr)
        return 1 if findings else 0
    if findings:
        raise UsageError("\n".join(map(str, findings)))
    run_disks(namespace, program, [disk for disk, _ in disks])
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


COMMAND = Command(
    summary="serve a disk image, a block device or memory as a virtio disk",
    configure=_configure,
    run=_run,
    obeys_signals=True,
)
