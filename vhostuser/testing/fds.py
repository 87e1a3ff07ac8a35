"""Looking for leaks: a fake descriptor that counts its closes, and what this process holds open.

Works on Linux's /proc; nothing here changes anything.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CountingFd", "Held", "held", "open_fds"]


class CountingFd:
    """Stands for a file descriptor where only its ownership matters.

    Args:
        name: shown by `repr`, to tell several apart.

    Attributes:
        closes: how often it was closed; 1 is right for an fd that nobody kept.
    """

    def __init__(self, name: str = "fd") -> None:
        self.name = name
        self.closes = 0

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.closes > 0

    def close(self) -> None:
        """Count."""
        self.closes += 1

    def __repr__(self) -> str:
        return f"CountingFd({self.name!r}, closes={self.closes})"


def open_fds() -> dict[int, str]:
    """Return every open descriptor of this process and what it refers to."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at one moment.

    Attributes:
        fds: open descriptors by what they refer to.
        mappings: mappings of files that have no name any more or never had one (memfds among them).
    """

    fds: Counter[str]
    mappings: Counter[str]

    def more_than(self, before: Held) -> str:
        """Say what is held now and was not `before`; empty when nothing is."""
        new = (self.fds - before.fds) + (self.mappings - before.mappings)
        return ", ".join(f"{count} x {what}" for what, count in sorted(new.items()))


def held() -> Held:
    """Count the descriptors and the guest-memory mappings of this process."""
    fds: Counter[str] = Counter(_kind(target) for target in open_fds().values())
    mappings: Counter[str] = Counter()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.partition("/")[2]
        if path.startswith("memfd:") or path.endswith(" (deleted)"):
            mappings[f"mapping of {path}"] += 1
    return Held(fds, mappings)


def _kind(target: str) -> str:
    """Leave out what differs between two descriptors of the same kind."""
    kind = target.partition("[")[0]
    return kind if kind in {"socket:", "pipe:"} else target
