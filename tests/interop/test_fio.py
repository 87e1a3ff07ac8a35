"""fio verifies what it writes for a minute, on four queues, with discards in between."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import LiveMachine, checks, control, empty_image, script
from parts.require import require

from vhostuser.testing.guest import Guest, build_initramfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_SECONDS = 60
_QUEUES = 4
_DISK_MIB = 192  # what verify.fio divides among its jobs


@pytest.fixture(scope="session")
def fio_files() -> dict[str, Path]:
    """fio with its loader, its libraries and its jobs, by the names they get in the guest."""
    root = require("fio") / "root" / "usr"
    libraries = root / "lib" / "x86_64-linux-gnu"
    loader, program = root / "lib64" / "ld-linux-x86-64.so.2", root / "bin" / "fio"
    command = [loader, "--library-path", f"{libraries}:{libraries / 'ceph'}", "--list", program]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"^\s+(\S+) => (\S+) ", listed, re.MULTILINE)
    return {
        **{name: Path(path) for name, path in needed},
        "loader": loader,
        "fio": program,
        "verify.fio": Path(__file__).parent / "verify.fio",
    }


def _jobs(console: str) -> dict[str, list[dict[str, Any]]]:
    """Return what fio reports of its jobs, by their names."""
    report = console.partition("\nREPORT\n")[2].partition("REPORTED\n")[0]
    jobs: dict[str, list[dict[str, Any]]] = {}
    for job in json.loads(report[report.index("{") :])["jobs"]:
        jobs.setdefault(job["jobname"], []).append(job)
    return jobs


@pytest.mark.timeout(300)
def test_fio_finds_every_block_as_it_wrote_it_for_a_minute_on_four_queues(
    guest_files: GuestFiles,
    fio_files: dict[str, Path],
    backend: Callable[..., Any],
    tmp_path: Path,
) -> None:
    image = empty_image(tmp_path / "image", _DISK_MIB)
    served = backend("--blk-file", image, "--num-queues", _QUEUES)
    text = script("guest_fio.sh", seconds=_SECONDS)
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(build_initramfs(guest_files, text, fio_files))
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=text,
        qemu=str(require("qemu-10") / "qemu-system-x86_64"),
        cpus=_QUEUES,
        memory_mib=512,
    )

    with LiveMachine(command=guest.command(initramfs), seconds=240) as machine:
        machine.wait_for("PAUSE reported")
        rings = control(served.control, "query-rings")
        machine.go_on()
        console = machine.finish()

    assert checks(console) == {"queues": str(_QUEUES), "discard": "1", "status": "0"}, console
    jobs = _jobs(console)
    assert {name: len(each) for name, each in jobs.items()} == dict.fromkeys(
        ("mixed", "verified", "discarded"), _QUEUES
    )
    for each in (job for same in jobs.values() for job in same):
        assert each["error"] == 0, each
    for done, name in (("write", "mixed"), ("read", "verified"), ("trim", "discarded")):
        for job in jobs[name]:
            assert job[done]["io_bytes"] > 0, job
    assert [ring["errors"] for ring in rings] == [0] * _QUEUES
    assert all(ring["requests"] > 100 for ring in rings), rings
    served.terminate()
