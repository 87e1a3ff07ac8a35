"""The `vhostuser` program: what must happen before anything else is imported.

A service manager may end a program that has only just begun: from here on SIGTERM means an end with
status 0, also in the middle of an import. So this module imports next to nothing; the rest is in
`vhostuser.cli.program`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # as typing's, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "main_blk"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit status: 0, or 1 after an error that was printed, or 2 for a wrong command line, or
        130 (as a shell would say) when the keyboard interrupted a command that does not expect it.
    """
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    gc.disable()  # nothing imported becomes garbage: looking for it takes a tenth of the time
    try:
        from vhostuser.cli.program import run  # noqa: PLC0415 - see above

        return run(sys.argv[1:] if arguments is None else arguments, before)
    finally:
        gc.enable()
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, before)


def main_blk() -> int:
    """Run `vhostuser blk` as a program of its own, which takes the conventions' options."""
    return main(["blk", *sys.argv[1:]])
