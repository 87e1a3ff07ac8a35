"""The command: `python -m fuzzing quick | run | compare | replay FILE`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from parts.catalogue import CATALOGUE

from .build import RING_TARGETS, TARGETS, BuildError, Workplace, build
from .campaign import ASAN_OPTIONS, FindingError, quick, ring_states, run, say, total
from .compare import compare, compare_file
from .figures import Figures
from .oracle import DifferenceError

__all__: list[str] = []

_ROUND_SECONDS = 240


def _place() -> Workplace:
    part = CATALOGUE["clang"]
    if not part.is_there():
        raise BuildError(f"no clang in {part.folder}: fetch it with `make parts`")
    return build(part.folder / "clang")


def _quick(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    figures = run(_place(), quick(arguments.seconds))
    say(figures)
    sys.stdout.write(
        f"fuzz: {ring_states(figures):,} ring states in {time.monotonic() - started:.0f} s, "
        f"nothing found\n"
    )
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """Go on with the campaign until its targets have seen enough ring states."""
    place = _place()
    kept = {target: place.findings / f"{target}.sum" for target in TARGETS}
    if arguments.anew:
        for path in kept.values():
            path.unlink(missing_ok=True)
    figures = {target: Figures.read(path) for target, path in kept.items() if path.is_file()}
    while ring_states(figures) < arguments.states:
        seconds = arguments.seconds
        jobs = [quick(seconds)[job % 2] for job in range(arguments.jobs)]
        figures = total([figures, run(place, jobs)])
        for target, some in figures.items():
            some.write(kept[target])
        sys.stdout.write(f"fuzz: {time.strftime('%F %T')}\n")
        say(figures)
    distinct = sum((figures[target] for target in RING_TARGETS), Figures()).distinct
    sys.stdout.write(
        f"fuzz: {ring_states(figures):,} ring states, about {distinct:,} different, nothing found\n"
    )
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    done = compare(
        _place(),
        states=arguments.states,
        jobs=arguments.jobs,
        seed=arguments.seed,
    )
    sys.stdout.write(
        f"fuzz: compared {done.states:,} ring states of {done.inputs:,} inputs with the "
        f"pure-Python ring in {time.monotonic() - started:.0f} s (and {done.refused:,} rings that "
        f"both refuse): the same\n"
    )
    return 0


def _target_of(path: Path) -> str:
    """Return the target that an input is for, by its name or its folder's."""
    for target in TARGETS:
        if path.name.startswith(f"{target}-") or path.parent.name == target:
            return target
    raise SystemExit(f"{path}: neither its name nor its folder's begins with a target")


def _replay(arguments: argparse.Namespace) -> int:
    """Run one input; if it is for the device's side, compare it as well."""
    path = arguments.input.absolute()
    target = _target_of(path)
    place = _place()
    environment = dict(os.environ, ASAN_OPTIONS=ASAN_OPTIONS)
    command = [str(place.programs / target), str(path)]
    status = subprocess.run(command, env=environment, check=False).returncode
    if status == 0 and target == "device":
        done = compare_file(place, path)
        sys.stdout.write(f"fuzz: {done.states} ring states compared: the same\n")
    return status


def main() -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("quick", help="run all targets for a while")
    command.add_argument("--seconds", type=int, default=60)
    command.set_defaults(call=_quick)
    command = commands.add_parser("run", help="run until enough ring states were seen")
    command.add_argument("--states", type=int, default=100_000_000)
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--seconds", type=int, default=_ROUND_SECONDS, help="of a round")
    command.add_argument("--anew", action="store_true", help="count from 0 again")
    command.set_defaults(call=_run)
    command = commands.add_parser("compare", help="compare with the pure-Python ring")
    command.add_argument("--states", type=int, default=1_000_000)
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(call=_compare)
    command = commands.add_parser("replay", help="run one input")
    command.add_argument("input", type=Path)
    command.set_defaults(call=_replay)
    arguments = parser.parse_args()
    try:
        status: int = arguments.call(arguments)
    except (BuildError, DifferenceError, FindingError) as error:
        sys.stderr.write(f"fuzz: {error}\n")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
