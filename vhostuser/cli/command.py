"""What a command of the `vhostuser` program is.

Commands register in the entry-point group `vhostuser.commands`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

__all__ = ["Command", "leaves", "parse_size"]

_SECTOR = 512
_LARGEST = (1 << 63) - 1  # what the host counts file sizes with
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        summary: one line for the list of commands.
        configure: adds the command's options to a parser.
        run: does it; returns the exit status. May raise UsageError or OSError, which are printed.
    """

    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def parse_size(text: str) -> int:
    """Read a size in bytes, with an optional unit K, M, G or T of 1024.

    Raises:
        ValueError: it is not a size from one sector (512 bytes) to what a file can have.
    """
    number = text.rstrip("KMGTkmgtiB")
    unit = text[len(number) :].upper().removesuffix("B").removesuffix("I")
    size = int(number) * _UNITS[unit] if unit in _UNITS else 0
    if not _SECTOR <= size <= _LARGEST:
        raise ValueError(text)
    return size


parse_size.__name__ = "size (for example 64M)"  # argparse shows it: "invalid size ... value"


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the errors of a group and of the groups in it: trio nests them at every nursery."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
