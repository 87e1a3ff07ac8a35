"""SIGBUS in a Python process: lost guest memory costs nothing, any other fault is seen."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import faulthandler, mmap, os, sys
from protocol.vhost_user import Gpa, MemRegion, Uva
from vhostuser.fds import OwnedFd
from vhostuser.memory import MemoryTable
from vhostuser.native import ffi, lib

def lose(table):
    fd = OwnedFd(os.memfd_create("guest"))
    os.truncate(fd.fileno(), 8192)
    region = MemRegion(gpa=Gpa(0), size=8192, uva=Uva(1 << 20))
    change = table.prepare_replace([(region, fd)])
    change.commit()
    os.truncate(fd.fileno(), 0)
    hva = table.snapshot.uva_to_hva(Uva(1 << 20), 8192)
    assert bytes(ffi.buffer(ffi.cast("char *", hva), 8192)) == bytes(8192)
    assert lib.vhu_mem_faulted(table.snapshot.native, ffi.new("uint64_t *"))
    change.release()

def fault_elsewhere():
    fd = os.memfd_create("own")
    os.truncate(fd, 4096)
    own = mmap.mmap(fd, 4096)
    os.truncate(fd, 0)
    return own[0]

table = MemoryTable()
for step in sys.argv[1:]:
    {"enable": faulthandler.enable, "disable": faulthandler.disable, "crash": fault_elsewhere,
     "lose": lambda: lose(table)}[step]()
table.close()
print("alive")
"""
ORDERS = [
    ["lose"],
    ["enable", "lose", "lose"],
    ["lose", "enable", "lose", "lose"],
    ["enable", "lose", "disable", "lose", "enable", "lose"],
]


def run(*steps: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *steps]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("steps", ORDERS, ids="-".join)
def test_lost_guest_memory_costs_a_process_nothing_and_no_word(steps: list[str]) -> None:
    done = run(*steps)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("steps", ORDERS, ids="-".join)
def test_a_fault_elsewhere_ends_the_process_as_it_would_without_us(steps: list[str]) -> None:
    done = run(*steps, "crash")
    assert done.returncode == -signal.SIGBUS
    assert done.stdout == ""
    assert done.stderr.count("Fatal Python error: Bus error") == ("enable" in steps)
    assert ("in fault_elsewhere" in done.stderr) == ("enable" in steps)
