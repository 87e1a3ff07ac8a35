"""The command: `python -m wheels make [FOLDER] | check WHEEL | try WHEEL [FOR PYTEST …]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .building import BuildError, build
from .inspection import ROOT, findings
from .trying import attempt

__all__: list[str] = []


def _say(text: str) -> None:
    sys.stdout.write(f"wheel: {text}\n")
    sys.stdout.flush()


def _make(folder: Path) -> int:
    try:
        wheel = build(folder)
    except BuildError as error:
        _say(str(error))
        return 1
    return _check(wheel)


def _check(wheel: Path) -> int:
    found = findings(wheel)
    for each in found:
        _say(each)
    _say(f"{wheel}: {wheel.stat().st_size >> 10} KiB, {'wrong' if found else 'as it must be'}")
    return 1 if found else 0


def main() -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="wheels")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="build the wheel and the source distribution")
    make.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where to (dist)")
    for name, text in (
        ("check", "look into a wheel that was built from this tree"),
        ("try", "install a wheel for this Python, run demo and tests"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("wheel", type=Path)
    options, rest = parser.parse_known_args()
    if rest and options.command != "try":
        parser.error(f"unknown argument {rest[0]}")
    if options.command == "make":
        return _make(options.folder)
    if options.command == "check":
        return _check(options.wheel)
    _say(f"{options.wheel.name} with Python {sys.version}")
    with tempfile.TemporaryDirectory(prefix="vhostuser-wheel-") as folder:
        return attempt(options.wheel, Path(folder), rest)


if __name__ == "__main__":
    sys.exit(main())
