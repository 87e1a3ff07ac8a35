"""What a command of the `vhostuser` program is.

The program's own are listed in `vhostuser.cli.program`; those of other packages register in the
entry-point group `vhostuser.commands`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["Command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        summary: one line for the list of commands.
        configure: adds the command's options to a parser.
        run: does it; returns the exit status. May raise UsageError or OSError, which are printed.
            Its argument has the log's `sink` besides the options.
        obeys_signals: it ends in order at SIGTERM, and takes the handler over as it finds it.
    """

    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    obeys_signals: bool = False
