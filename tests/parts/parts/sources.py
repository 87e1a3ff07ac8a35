"""Which Debian archive this machine uses, read from its own apt sources.

Only the suite's name is ours: where packages come from is the machine's business, so that a local
mirror keeps being used and no host name is written down here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UnobtainableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Archive", "archives"]

_DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One place packages come from, and the keys that sign it.

    Args:
        uri: base address, as the machine's own sources write it.
        signed_by: keyring file or embedded key block; empty for apt's trusted set.
        security: the archive of security updates (its suites end in `-security`).
    """

    uri: str
    signed_by: str
    security: bool

    def stanza(self, suites: list[str]) -> str:
        """Return a deb822 stanza for the main component of `suites` in this archive."""
        lines = [
            "Types: deb",
            f"URIs: {self.uri}",
            f"Suites: {' '.join(suites)}",
            "Components: main",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def archives(etc_apt: Path = Path("/etc/apt")) -> tuple[Archive, Archive]:
    """Return the main Debian archive and the security archive that this machine uses.

    Args:
        etc_apt: folder with `sources.list` and `sources.list.d`.

    Returns:
        The main archive, then the one for security updates. Where the machine names no security
        archive, the main one stands in for it with `security` unset.

    Raises:
        UnobtainableError: the machine names no Debian archive.
    """
    found = list(_entries(etc_apt))
    codename = _os_release().get("VERSION_CODENAME", "")
    plain = [(uri, key) for uri, suite, key in found if suite == codename]
    if _os_release().get("ID") != "debian" or not plain:
        raise UnobtainableError(
            "the apt sources of this machine name no Debian archive; the tests' parts are Debian "
            "packages (Debian 12 is what they are made for)"
        )
    secure = [(uri, key) for uri, suite, key in found if suite == f"{codename}-security"]
    main = Archive(uri=plain[0][0], signed_by=plain[0][1], security=False)
    if not secure:
        return main, main
    return main, Archive(uri=secure[0][0], signed_by=secure[0][1], security=True)


def _os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    if not path.exists():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def _entries(etc_apt: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (uri, suite, signed-by) of every binary entry with the main component."""
    folder = etc_apt / "sources.list.d"
    lists = [etc_apt / "sources.list", *sorted(folder.glob("*.list"))]
    for path in filter(_readable, lists):
        for line in path.read_text().splitlines():
            yield from _one_line(line)
    for path in filter(_readable, sorted(folder.glob("*.sources"))):
        for block in path.read_text().split("\n\n"):
            yield from _deb822(block)


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _one_line(line: str) -> Iterator[tuple[str, str, str]]:
    words = line.split("#", 1)[0].split()
    if not words or words[0] != "deb":
        return
    key = _DEFAULT_KEYRING if Path(_DEFAULT_KEYRING).exists() else ""
    words = words[1:]
    if words and words[0].startswith("["):
        end = next((i for i, word in enumerate(words) if word.endswith("]")), len(words) - 1)
        for option in " ".join(words[: end + 1]).strip("[] ").split():
            if option.lower().startswith("signed-by="):
                key = option.split("=", 1)[1]
        words = words[end + 1 :]
    if len(words) > 2 and "main" in words[2:]:
        yield words[0].rstrip("/"), words[1], key


def _deb822(block: str) -> Iterator[tuple[str, str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.lower()
            fields[name] = value.strip()
    if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
        return
    if "main" not in fields.get("components", "").split():
        return
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            yield uri.rstrip("/"), suite, fields.get("signed-by", "")
