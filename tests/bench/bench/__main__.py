"""The command of the benchmarks: `python -m bench run | look | profile | report`.

run      measures everything, or a part, and writes docs/benchmarks.md (`make bench`)
look     measures some rows quickly and prints them, to tune by
profile  says where our time goes in a row
report   writes docs/benchmarks.md anew from docs/benchmarks.json
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BenchError, RunFailedError
from .full import full, publish, saved
from .look import look
from .profile import profile
from .programs import build
from .setting import DISK_FOLDER, say

if TYPE_CHECKING:
    from .programs import Programs

__all__: list[str] = []


def _report(_arguments: argparse.Namespace, _programs: Programs) -> int:
    publish(saved())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--disk",
        type=Path,
        default=DISK_FOLDER,
        help="folder for images on a real disk (default: %(default)s)",
    )
    run = commands.add_parser("run", parents=[common], help="measure and publish")
    run.add_argument("--only", default="", help="rows, groups or checks, with commas")
    run.add_argument("--quick", action="store_true", help="one short run of each; publish nothing")
    run.add_argument(
        "--update", action="store_true", help="with --only: renew that part of what is published"
    )
    run.set_defaults(carry_out=full)
    _add_look(commands.add_parser("look", parents=[common], help="measure quickly and print"))
    perf = commands.add_parser("profile", parents=[common], help="say where the time goes")
    perf.add_argument("row", help="a row or group")
    perf.add_argument("--also", default="", help="contestants other than ours, with commas")
    perf.add_argument("--fifo", action="store_true", help="run the client before all else")
    perf.set_defaults(carry_out=profile)
    report = commands.add_parser("report", help="write the page anew")
    report.set_defaults(carry_out=_report)
    return parser


def _add_look(parser: argparse.ArgumentParser) -> None:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("rows", type=names, help="rows or groups, with commas; see rows.py")
    parser.add_argument("--only", default="", help="contestants or back-ends: ours,peer,ideal,raw")
    parser.add_argument("--tree", action="append", help="a built checkout; several: in turns")
    parser.add_argument("--backend", action="append", help="a vhostuser command, the same way")
    parser.add_argument("--options", default="", help="appended to `vhostuser blk …`")
    parser.add_argument("--keep", type=int, default=3, help="runs that count (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring (default: 0.3)")
    parser.add_argument("--no-gate", action="store_true", help="take every run")
    parser.add_argument("--fifo", action="store_true", help="run both sides before all else")
    parser.add_argument("--verbose", action="store_true", help="print every run")
    parser.set_defaults(carry_out=look)


def main() -> int:
    """Do what the command line asks; return the exit status."""
    # So that images and back-ends are cleared away, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = _parser().parse_args()
    try:
        status: int = arguments.carry_out(arguments, build())
    except (BenchError, RunFailedError) as error:
        say(f"bench: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        say(f"bench: a command failed: {error}\n{error.stderr or ''}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
