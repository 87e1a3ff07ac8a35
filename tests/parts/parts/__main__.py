"""The command: `python3 -m parts host | get [NAME …] | list`."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys

from .catalogue import CATALOGUE, obtain, parts_folder, reason_missing
from .errors import PartFailedError, UnobtainableError
from .host import install_missing

__all__: list[str] = []


def _say(text: str) -> None:
    sys.stdout.write(f"parts: {text}\n")
    sys.stdout.flush()


def _host() -> int:
    try:
        install_missing()
    except UnobtainableError as error:
        _say(str(error))
        return 1
    return 0


def _get(names: list[str]) -> int:
    """Fetch parts; one that cannot be had is reported, and the tests then say what they skip."""
    parts_folder().mkdir(parents=True, exist_ok=True)
    failed = 0
    with (parts_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of make at once take turns
        wanted = names or [name for name, part in CATALOGUE.items() if part.for_tests]
        for part in (CATALOGUE[name] for name in wanted):
            if part.is_there():
                continue
            _say(f"fetching {part.name}: {part.what}")
            try:
                obtain(part)
            except PartFailedError as error:
                failed += 1
                _say(f"{part.name} cannot be had: {error}")
        shutil.rmtree(parts_folder() / "apt", ignore_errors=True)  # lists and packages have served
    return 1 if failed else 0


def _list() -> int:
    for part in CATALOGUE.values():
        state = str(part.folder) if part.is_there() else f"missing: {reason_missing(part)}"
        _say(f"{part.name:10} {part.what}: {state}")
    return 0


def main() -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="parts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("host", help="install what building needs and the host lacks")
    get = commands.add_parser("get", help="fetch parts (those for tests when none is named)")
    get.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CATALOGUE))
    commands.add_parser("list", help="show the parts and where they are")
    arguments = parser.parse_args()
    unknown = [name for name in getattr(arguments, "names", ()) if name not in CATALOGUE]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(CATALOGUE)}")
    if arguments.command == "host":
        return _host()
    return _get(arguments.names) if arguments.command == "get" else _list()


if __name__ == "__main__":
    sys.exit(main())
