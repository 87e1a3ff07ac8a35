"""Finds the command that was asked for and runs it; prints an error instead of a traceback.

Other packages bring theirs by the entry-point group `vhostuser.commands`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import signal
import sys
from typing import TYPE_CHECKING

from vhostuser import __version__, log
from vhostuser.errors import UsageError, leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from vhostuser.cli.command import Command

    Loader = Callable[[], Command]
    Handler = Callable[[int, FrameType | None], object] | int | None

__all__ = ["make_parser", "run"]

_GROUP = "vhostuser.commands"
_INTERRUPTED = 130


def _own(module: str, attribute: str = "COMMAND") -> Loader:
    def load() -> Command:
        command: Command = getattr(importlib.import_module(f"vhostuser.cli.{module}"), attribute)
        return command

    return load


_OWN: dict[str, Loader] = {
    "blk": _own("blk"),
    "demo": _own("demo"),
    "doctor": _own("doctor"),
    "net": _own("net"),
    "install-discovery": _own("install", "INSTALL_DISCOVERY"),
    "install-systemd": _own("install", "INSTALL_SYSTEMD"),
}


def _of_others() -> dict[str, Loader]:
    """Return the commands that other packages bring; only looked for when they may be needed."""
    import importlib.metadata  # noqa: PLC0415 - takes as long as a tenth of the start

    return {point.name: point.load for point in importlib.metadata.entry_points(group=_GROUP)}


def make_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the parser; only the command that is named is imported in full, or all without one."""
    parser = argparse.ArgumentParser(
        prog="vhostuser", description="A vhost-user back-end: serves a guest's virtqueues."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    first = arguments[0] if arguments else ""
    found = {first: _OWN[first]} if first in _OWN else _OWN | _of_others()
    for name in [first] if first in found else sorted(found):
        command = found[name]()
        sub = commands.add_parser(name, help=command.summary, description=command.summary)
        sub.add_argument("--verbose", "-v", action="store_true", help="log every message, too")
        command.configure(sub)
        sub.set_defaults(run=command.run, obeys_signals=command.obeys_signals)
    return parser


def run(arguments: Sequence[str], on_sigterm: Handler) -> int:
    """Find the command and run it.

    Args:
        arguments: without the program's name.
        on_sigterm: what SIGTERM does to a command that has no end of its own for it.

    Returns:
        The exit status, see `vhostuser.cli.main`.
    """
    status = 1
    with log.written() as sink:
        try:
            options = make_parser(arguments).parse_args(arguments)
            gc.enable()
            if options.verbose:
                sink.configure(level="debug")
            options.sink = sink
            if not options.obeys_signals:
                signal.signal(signal.SIGTERM, on_sigterm)
            status = options.run(options)
        except* KeyboardInterrupt:
            sink.flush()
            print("vhostuser: interrupted", file=sys.stderr)
            status = _INTERRUPTED
        except* (UsageError, OSError) as group:
            sink.flush()
            for error in leaves(group):
                text = error.strerror if isinstance(error, OSError) and error.strerror else error
                print(f"vhostuser: {text}", file=sys.stderr)
    return status
