"""How `vhostuser blk` ends: status 0 and nothing left, whenever and however often it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

SECONDS = 60
PROGRAM = """
import os, signal, sys, threading
from vhostuser.cli import main
from vhostuser.disks import diskset
from vhostuser.serving import places
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
    "when the socket is there": "then(places, 'bind_unix', kill)",
    "when the device is there": "then(diskset, 'Server', kill)",
    "twice": "then(diskset, 'Server', kill); then(ListeningEndpoint, 'close', kill)",
    "while a worker hangs": "then(diskset, 'Server', kill); SoftwareDatapath._destroy = hang",
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


REPLACING = """
def replace():
    for path in ("s", "c"):
        os.unlink(path)
        open(path, "x").close()
    kill()

then(diskset, 'Server', replace)
SoftwareDatapath._destroy = hang
"""


def test_what_took_the_place_of_our_sockets_is_left_alone(tmp_path):
    done = subprocess.run(
        [
            *[sys.executable, "-c", PROGRAM.format(signal="SIGTERM", sabotage=REPLACING)],
            *["--socket-path", "s", "--control", "c", "--null", "1M"],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "s"]


IMPORTING = """
import os, signal, sys

class Kills:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Kills())
from vhostuser.cli.main import main
sys.exit(main(["blk", "--null", "1M", "--socket-path", "s"]))
"""


@pytest.mark.parametrize(
    "module", ["argparse", "vhostuser.cli.program", "trio", "vhostuser.native._engine"]
)
def test_a_signal_in_the_middle_of_the_imports_ends_it_with_status_0(tmp_path, module):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, module],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_does_not_serve_is_ended_by_a_signal_as_usual():
    program = (
        "import os, signal; from vhostuser.cli import doctor, main;"
        "doctor.examine = lambda _: os.kill(os.getpid(), signal.SIGTERM);"
        "main.main(['doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=SECONDS, check=False)
    assert done.returncode == -15
