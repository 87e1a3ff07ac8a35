"""Runs in the lab guest: the checks of modules, one after the other, each in its own process.

A check is a function whose name begins with `check_`, async or not. It raises, or what it returns
goes to the test as JSON. It begins in an empty folder. A process of its own gives back whatever it
leaves open, and its end can be waited for; what all need is imported once, before.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import trio

_CHECK_SECONDS = 60
_REPORTS = Path("/dev/ttyS1")
_RESULT = Path("/lab/result")


def _run(check):
    """Run a check in this process; return what to report."""
    try:
        notes = trio.run(check) if inspect.iscoroutinefunction(check) else check()
        json.dumps(notes)
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        return _failure(traceback.format_exc())
    return {"ok": True, "notes": notes, "error": ""}


def _run_apart(check):
    """Run a check in a process of its own, with a deadline; return what to report."""
    _RESULT.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(tempfile.mkdtemp())
        faulthandler.dump_traceback_later(_CHECK_SECONDS, exit=True)
        _RESULT.write_text(json.dumps(_run(check)))
        os._exit(0)  # whatever the check left in the interpreter is no business of its end
    os.waitpid(child, 0)
    if not _RESULT.exists():
        return _failure(f"it died, or hung for {_CHECK_SECONDS} s: see the console")
    result = json.loads(_RESULT.read_text())
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return result
    return _failure(f"it left processes behind; {result['error']}")


def _failure(error):
    return {"ok": False, "notes": None, "error": error}


def main():
    """Run the checks of the modules named on the command line and report them."""
    modules = [importlib.import_module(name) for name in sys.argv[1:]]
    checks = [
        (name, check)
        for module in modules
        for name, check in vars(module).items()
        if name.startswith("check_")
    ]
    with _REPORTS.open("w") as reports:
        for name, check in checks:
            started = time.monotonic()
            result = _run_apart(check)
            line = {"check": name, **result, "seconds": round(time.monotonic() - started, 2)}
            reports.write(json.dumps(line) + "\n")
            reports.flush()
            sys.stdout.write(f"LAB {name} {line['ok']} after {line['seconds']} s\n")
        reports.write(json.dumps({"end": len(checks)}) + "\n")


main()
