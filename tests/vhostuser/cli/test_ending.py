"""How `vhostuser blk` ends: status 0 and nothing left, whenever and however often it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

SECONDS = 20
PROGRAM = """
import os, signal, sys, threading
from vhostuser.cli import blk, main
from vhostuser.datapath import SoftwareDatapath
from vhostuser.server import ListeningEndpoint

def then(owner, name, act):
    real = getattr(owner, name)
    def both(*arguments, **options):
        result = real(*arguments, **options)
        act()
        return result
    setattr(owner, name, both)

def kill():
    os.kill(os.getpid(), signal.{signal})

def hang(*_):
    threading.Event().wait()

{sabotage}
sys.exit(main.main(["blk", *sys.argv[1:]]))
"""
SABOTAGE = {
    "when the socket is there": "then(blk, 'bind_unix', kill)",
    "when the device is there": "then(blk, 'Server', kill)",
    "twice": "then(blk, 'Server', kill); then(ListeningEndpoint, 'close', kill)",
    "while a worker hangs": "then(blk, 'Server', kill); SoftwareDatapath._destroy = hang",
}


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", SABOTAGE)
def test_a_signal_ends_it_with_nothing_left_behind(tmp_path, moment, signal):
    done = subprocess.run(
        [
            *[sys.executable, "-c", PROGRAM.format(signal=signal, sabotage=SABOTAGE[moment])],
            *["--socket-path", "s", "--control", "c", "--null", "1M"],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
