"""`vhostuser install-discovery` and `install-systemd`: tell the host that this back-end is there.

The one writes the file by which management software finds vhost-user back-ends (QEMU's
docs/interop/vhost-user.json), the other units for systemd. Nothing is enabled or started.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser import __version__
from vhostuser.cli.command import Command
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

__all__ = [
    "DISCOVERY_FILE",
    "INSTALL_DISCOVERY",
    "INSTALL_SYSTEMD",
    "discovery_folders",
    "systemd_units",
]

DISCOVERY_FILE = "50-vhostuser-blk.json"
_BINARY = "vhostuser-blk"
_MODE = 0o644
_ROOT_ADVICE = re.compile(r": images in /home, for example,\s+(# )?need ProtectHome=no")
_ROOT_ONLY = re.compile(r"^(CapabilityBoundingSet|Private|Protect)\w*=.*\n", re.MULTILINE)


def _own_program(name: str) -> Path:
    """Return the absolute path of a program that was installed with this package.

    Raises:
        UsageError: it is not where this Python's programs are.
    """
    places = [Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent]
    for place in places:
        if os.access(place / name, os.X_OK):
            return place / name
    found = shutil.which(name)
    if found is None:
        raise UsageError(
            f"the program {name} is not beside {sys.executable}: install the package again (pip), "
            "which makes it"
        )
    return Path(found).absolute()


def _is_root() -> bool:
    return os.geteuid() == 0


def _user_config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def discovery_folders() -> tuple[Path, ...]:
    """Return where descriptions of back-ends lie, from the most specific to the most general."""
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    folders = [_user_config(), Path("/etc"), *map(Path, filter(None, data.split(":")))]
    return tuple(folder / "qemu" / "vhost-user" for folder in folders)


def discovery() -> Mapping[str, object]:
    """Describe this back-end to management software."""
    return {
        "description": "vhostuser block back-end",
        "type": "block",
        "binary": str(_own_program(_BINARY)),
        "tags": [f"vhostuser-{__version__}"],
    }


def systemd_units(*, user: bool) -> dict[str, str]:
    """Return the text of each unit, by file name.

    Args:
        user: they are for a user's own manager, which cannot grant or take what only root may.

    Raises:
        UsageError: systemd could not start this program from where it is.
    """
    program = str(_own_program("vhostuser"))
    if not re.fullmatch(r"[\w./+@:-]+", program):
        raise UsageError(f"systemd cannot start {program!a}: install the program in a plainer path")
    folder = importlib.resources.files("vhostuser.cli") / "systemd"
    units = {}
    for unit in sorted(folder.iterdir(), key=lambda unit: unit.name):
        if unit.name.endswith((".service", ".socket")):
            text = unit.read_text("utf-8").replace("@PROGRAM@", program)
            if user:
                text = _ROOT_ADVICE.sub("", _ROOT_ONLY.sub("", text))
                text = text.replace("multi-user.target", "default.target")
                text = text.replace("systemctl ", "systemctl --user ")
            units[unit.name] = text
    return units


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, each whole or not at all, and print their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            number, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            try:
                with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123 - has a number
                    file.write(text)
                    os.fchmod(number, _MODE)
                Path(temporary).replace(folder / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
            print(folder / name)
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error.strerror}; choose another with --directory"
        ) from error


def _directory(parser: argparse.ArgumentParser, root: str, user: str) -> None:
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help=f"where to (default: {root} for root, {user} for a user)",
    )


def _configure_discovery(parser: argparse.ArgumentParser) -> None:
    _directory(parser, "/etc/qemu/vhost-user", "~/.config/qemu/vhost-user")


def _install_discovery(options: argparse.Namespace) -> int:
    general = Path("/etc") if _is_root() else _user_config()
    folder = options.directory or general / "qemu" / "vhost-user"
    _write(folder, {DISCOVERY_FILE: json.dumps(discovery(), indent=2) + "\n"})
    return 0


def _configure_systemd(parser: argparse.ArgumentParser) -> None:
    _directory(parser, "/etc/systemd/system", "~/.config/systemd/user")
    parser.add_argument(
        "--user", action="store_true", help="units for a user's own manager (default unless root)"
    )


def _install_systemd(options: argparse.Namespace) -> int:
    user = options.user or not _is_root()
    default = _user_config() / "systemd" / "user" if user else Path("/etc/systemd/system")
    _write(options.directory or default, systemd_units(user=user))
    systemctl = "systemctl --user" if user else "systemctl"
    print(
        f"next: `{systemctl} daemon-reload`; then `{systemctl} enable --now "
        "vhostuser-blk@NAME.socket` for one disk, `vhostuser-disks.service` for a file of disks, "
        "or `vhostuser-net.service` for a switch"
    )
    return 0


INSTALL_DISCOVERY = Command(
    summary="write the file by which QEMU's management software finds this back-end",
    configure=_configure_discovery,
    run=_install_discovery,
)
INSTALL_SYSTEMD = Command(
    summary="write systemd units: a disk each with socket activation, a file of disks, a switch",
    configure=_configure_systemd,
    run=_install_systemd,
)
