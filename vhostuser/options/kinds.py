"""What the value of an option may be: one class a kind, for every way in which it is given.

Values come as text (command line) or as what TOML and JSON have: text, whole numbers, true and
false. Nothing is looked up on the host here. Each error says what is expected, in words that follow
"NAME: ".
"""

from __future__ import annotations

import abc
import os
import re
from pathlib import Path

__all__ = [
    "Choice",
    "FileName",
    "Flag",
    "Group",
    "Kind",
    "Mode",
    "Name",
    "Number",
    "NumberChoice",
    "Serial",
    "Size",
    "shown",
]

_SECTOR = 512
_LARGEST = (1 << 63) - 1  # what the host counts file sizes with
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,19})([KMGT]?)(?:I?B)?")
_MODE = re.compile(r"0?o?([0-7]{1,3})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}")
_LONGEST_SHOWN = 60
_LONGEST_PATH = 4095


def shown(value: object) -> str:
    """Return a value as an error text shows it: short, and without control characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = ascii(value) if not isinstance(value, str) else ascii(value[:_LONGEST_SHOWN])
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


class Kind(abc.ABC):
    """One kind of value.

    Attributes:
        wanted: what is expected, in words.
        metavar: what stands for the value in a usage line.
    """

    wanted: str
    metavar: str

    @abc.abstractmethod
    def read(self, value: object) -> object | None:
        """Return what is kept of a value, or None for a value that is not of this kind."""

    def parse(self, value: object) -> object:
        """Return what is kept of a value.

        Raises:
            ValueError: it is not of this kind; the text says what is expected.
        """
        kept = self.read(value)
        if kept is None:
            raise ValueError(f"{self.wanted} is expected, not {shown(value)}")
        return kept

    def parse_text(self, text: str) -> object:
        """Return what is kept of a value on the command line. Raises as `parse`."""
        return self.parse(text)

    def plain(self, kept: object) -> object:
        """Return what JSON and TOML can say of a kept value; `parse` takes it back."""
        return kept


class Flag(Kind):
    """True or false; on the command line it is just named."""

    wanted = "true or false"
    metavar = ""

    def read(self, value: object) -> object | None:
        """Take truth values only."""
        return value if isinstance(value, bool) else None


class Number(Kind):
    """A whole number.

    Args:
        least: the smallest.
        most: the largest.
    """

    metavar = "N"

    def __init__(self, least: int, most: int) -> None:
        self.wanted = f"a number from {least} to {most}"
        self._range = range(least, most + 1)

    def read(self, value: object) -> object | None:
        """Take numbers in range; true is no number."""
        fits = isinstance(value, int) and not isinstance(value, bool) and value in self._range
        return value if fits else None

    def parse_text(self, text: str) -> object:
        """Read digits."""
        plain = text.isascii() and text.isdecimal() and len(text) < len(str(_LARGEST))
        return self.parse(int(text) if plain else text)


class Size(Kind):
    """Bytes: a number, or text with a unit K, M, G or T of 1024."""

    wanted = f"a size of {_SECTOR} bytes or more (for example 64M)"
    metavar = "SIZE"

    def read(self, value: object) -> object | None:
        """Take at least a sector, and no more than a file can have."""
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            found = _SIZE.fullmatch(value.strip().upper())
            value = int(found[1]) * _UNITS[found[2]] if found else None
        return value if isinstance(value, int) and _SECTOR <= value <= _LARGEST else None


class Choice(Kind):
    """One of a few words.

    Args:
        words: what there is to choose from.
    """

    def __init__(self, *words: str) -> None:
        self.words = words
        self.wanted = f"one of {', '.join(words)}"
        self.metavar = "|".join(words)

    def read(self, value: object) -> object | None:
        """Take one of the words."""
        return value if isinstance(value, str) and value in self.words else None


class NumberChoice(Kind):
    """One of a few numbers.

    Args:
        numbers: what there is to choose from.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.wanted = " or ".join(map(str, numbers))
        self.metavar = "|".join(map(str, numbers))

    def read(self, value: object) -> object | None:
        """Take one of the numbers."""
        fits = isinstance(value, int) and not isinstance(value, bool) and value in self.numbers
        return value if fits else None

    def parse_text(self, text: str) -> object:
        """Read digits."""
        return next((each for each in self.numbers if str(each) == text), None) or self.parse(text)


class FileName(Kind):
    """A path; nothing needs to be there."""

    wanted = "a path"
    metavar = "PATH"

    def read(self, value: object) -> object | None:
        """Take text that a path can be."""
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_PATH or "\0" in value:
            return None
        try:
            os.fsencode(value)
        except UnicodeEncodeError:  # half a character, as JSON can have it: no host knows that
            return None
        return Path(value)

    def plain(self, kept: object) -> object:
        """Return the path as text, absolute: who reads it may be in another folder."""
        assert isinstance(kept, Path)
        return str(kept.absolute())


class Name(Kind):
    """What something is called: by people, in logs and in commands.

    Args:
        wanted: what is called so.
        metavar: what stands for it in a usage line.
    """

    def __init__(self, wanted: str, metavar: str) -> None:
        self.wanted = f"{wanted} of letters, digits and _ . : @ - (at most 64)"
        self.metavar = metavar

    def read(self, value: object) -> object | None:
        """Take text that a log line can hold."""
        return value if isinstance(value, str) and _NAME.fullmatch(value) else None


class Group(Kind):
    """A group of users, by name or number; whether it exists is not asked here."""

    wanted = "a group's name or number"
    metavar = "GROUP"

    def read(self, value: object) -> object | None:
        """Take text, or a number that a group can have."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if 0 <= value < (1 << 32) - 1 else None
        return value if isinstance(value, str) and _NAME.fullmatch(value) else None


class Serial(Kind):
    """A serial number.

    Args:
        most: its longest length.
    """

    metavar = "TEXT"

    def __init__(self, most: int) -> None:
        self.wanted = f"up to {most} printable ASCII characters"
        self.most = most

    def read(self, value: object) -> object | None:
        """Take plain text that fits."""
        fits = isinstance(value, str) and value.isascii() and value.isprintable()
        return value if fits and isinstance(value, str) and len(value) <= self.most else None


class Mode(Kind):
    """Permissions in octal digits, as text: JSON knows no octal numbers."""

    wanted = 'octal permissions as text, for example "0660",'
    metavar = "MODE"

    def read(self, value: object) -> object | None:
        """Take octal digits for user, group and others."""
        found = _MODE.fullmatch(value) if isinstance(value, str) else None
        return None if found is None else int(found[1], 8)

    def plain(self, kept: object) -> object:
        """Return octal digits."""
        return f"{kept:04o}"
