"""apt with a configuration of its own: own sources, lists, package database and cache.

Packages of other suites are resolved, fetched and unpacked here without the system noticing: its
sources, lists and database stay as they are, nothing is installed and no root is needed. What is
kept from the system is how it reaches the network (proxy settings in apt.conf) and its archive
keys: signatures are checked as always.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from .errors import PartFailedError, UnobtainableError
from .sources import archives

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PrivateApt"]

_UPDATE_SECONDS = 600
_FETCH_SECONDS = 1800
_INSTALLED_LINE = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)


class PrivateApt:
    """A private apt state in one folder.

    Args:
        folder: where lists and fetched packages are kept; made when missing.
        suites: names of suites of the main archive, e.g. `bookworm`.
        security_suites: names of suites of the security archive.
        prefer: suite that wins where several have a package.
    """

    def __init__(
        self,
        folder: Path,
        suites: list[str],
        *,
        security_suites: list[str] | None = None,
        prefer: str,
    ) -> None:
        self.folder = folder
        self._suites = suites
        self._security_suites = security_suites or []
        self._prefer = prefer
        self._updated = False

    def _configuration(self) -> Path:
        """Write sources and configuration; return the configuration file."""
        for name in ("lists/partial", "cache/archives/partial", "empty"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        status = self.folder / "status"
        status.touch()
        main, security = archives()
        stanzas = [main.stanza(self._suites)]
        if security.security and self._security_suites:
            stanzas.append(security.stanza(self._security_suites))
        sources = self.folder / "sources.d" / "parts.sources"
        sources.parent.mkdir(exist_ok=True)
        sources.write_text("\n".join(stanzas))
        options = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": sources.parent,
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": self.folder / "empty",
            "Dir::State": self.folder,
            "Dir::State::Lists": self.folder / "lists",
            # An empty database: what is fetched then does not depend on what is installed.
            "Dir::State::Status": status,
            "Dir::Cache": self.folder / "cache",
            "Dir::Cache::Archives": self.folder / "cache" / "archives",
            # apt's own user cannot enter a clone under somebody's home folder.
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "APT::Default-Release": self._prefer,
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Keep-Downloaded-Packages": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "60",
        }
        path = self.folder / "apt.conf"
        lines = ["#clear APT::Architectures;"]
        lines += [f'{name} "{value}";' for name, value in options.items()]
        path.write_text("\n".join(lines) + "\n")
        return path

    def _run(self, *words: str, cwd: Path | None = None, limit: int) -> str:
        """Run an apt program with this configuration and return what it printed."""
        if shutil.which(words[0]) is None or shutil.which("dpkg-deb") is None:
            raise UnobtainableError(f"{words[0]} or dpkg-deb is not on this machine")
        environment = dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive")
        # The command line wins over every file of the system, a file named by APT_CONFIG does not.
        command = [words[0], "-q", "-c", str(self._configuration()), *words[1:]]
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                text=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PartFailedError(
                f"`{' '.join(words)}` took longer than {limit} seconds"
            ) from error
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise PartFailedError(
                f"`{' '.join(words)}` failed with status {done.returncode}: "
                f"{' '.join(last) or done.stderr.strip() or 'it gave no reason'}"
            )
        return done.stdout

    def update(self) -> None:
        """Fetch the lists of packages, once per object.

        Raises:
            UnobtainableError: the archive cannot be reached or is not signed as it should be.
        """
        if not self._updated:
            try:
                self._run("apt-get", "update", "--error-on=any", limit=_UPDATE_SECONDS)
            except PartFailedError as error:
                raise UnobtainableError(f"no answer from the Debian archive: {error}") from error
            self._updated = True

    def dependency(self, package: str, prefix: str) -> str:
        """Return the first dependency of `package` whose name begins with `prefix`.

        Raises:
            PartFailedError: there is no such package or dependency.
        """
        self.update()
        printed = self._run("apt-cache", "depends", package, limit=_UPDATE_SECONDS)
        for line in printed.splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith(prefix):
                return name
        raise PartFailedError(f"package {package} does not depend on any {prefix}…")

    def unpack(self, packages: list[str], root: Path) -> None:
        """Fetch `packages` alone and unpack them under `root`.

        Raises:
            PartFailedError: a package is unknown or the archive cannot be reached.
        """
        self.update()
        fetched = self.folder / "cache" / "alone" / "-".join(packages).replace("/", "_")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        self._run("apt-get", "download", *packages, cwd=fetched, limit=_FETCH_SECONDS)
        for package in sorted(fetched.glob("*.deb")):
            _unpack(package, root)
        shutil.rmtree(fetched)

    def unpack_closure(self, package: str, root: Path, *, suite: str) -> None:
        """Fetch `package` of `suite` with all that it depends on and unpack it all under `root`.

        The result runs with its own loader and libraries whatever the system is.

        Raises:
            PartFailedError: the dependencies cannot be met or the archive cannot be reached.
        """
        self.update()
        arguments = ["-y", "-t", suite, "install", package]
        printed = self._run("apt-get", "--simulate", *arguments, limit=_UPDATE_SECONDS)
        self._run("apt-get", "--download-only", *arguments, limit=_FETCH_SECONDS)
        for found in _INSTALLED_LINE.finditer(printed):
            # apt keeps a package under its name, with the colon of an epoch escaped.
            name, version, architecture = found.groups()
            file = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
            _unpack(self.folder / "cache" / "archives" / file, root)


def _unpack(package: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
