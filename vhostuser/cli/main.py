"""The `vhostuser` program: finds the command that was asked for and runs it.

Commands come from the entry-point group `vhostuser.commands`, so that other packages can bring
theirs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
from typing import TYPE_CHECKING

from vhostuser import __version__
from vhostuser.cli.command import leaves
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.cli.command import Command

__all__ = ["main"]

_GROUP = "vhostuser.commands"
_INTERRUPTED = 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the command that is named is imported in full."""
    parser = argparse.ArgumentParser(
        prog="vhostuser", description="A vhost-user back-end: serves a guest's virtqueues."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    points = {point.name: point for point in importlib.metadata.entry_points(group=_GROUP)}
    named = [name for name in points if name in arguments[:1]] or sorted(points)
    for name in named:
        command: Command = points[name].load()
        sub = commands.add_parser(name, help=command.summary, description=command.summary)
        sub.add_argument("--verbose", "-v", action="store_true", help="log every message, too")
        command.configure(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit status: 0, or 1 after an error that was printed, or 2 for a wrong command line, or
        130 (as a shell would say) when the keyboard interrupted a command that does not expect it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    status = 1
    try:
        options = _parser(arguments).parse_args(arguments)
        logging.basicConfig(
            level=logging.DEBUG if options.verbose else logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        status = options.run(options)
    except* KeyboardInterrupt:
        print("vhostuser: interrupted", file=sys.stderr)
        status = _INTERRUPTED
    except* (UsageError, OSError) as group:
        for error in leaves(group):
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            print(f"vhostuser: {text}", file=sys.stderr)
    return status
