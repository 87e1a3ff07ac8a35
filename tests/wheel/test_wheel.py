"""The wheel: what is in it, and that it runs where there is nothing else but what it asks for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import zipfile

import pytest
import trio
from wheels import ENGINE, Environment, build, findings

from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory

SECONDS = 60
INFO = "vhostuser-0.1.0.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as `make wheel` builds it, but compiled in a hurry."""
    return build(tmp_path_factory.mktemp("dist"), flags="-O0")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel, what it asks for, and no compiler on its PATH."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(wheel)
    environment.copy_requirements("vhostuser")
    assert shutil.which("cc", path=str(environment.programs)) is None
    return environment


def run(environment, *command):
    return subprocess.run(
        [environment.programs / command[0], *command[1:]],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        **environment.settings(),
    )


def test_the_wheel_holds_what_runs_and_nothing_else(wheel):
    assert findings(wheel) == []


@pytest.mark.parametrize(
    ("leave_out", "add", "said"),
    [
        (ENGINE, {}, f"{ENGINE} is missing"),
        ("vhostuser/cli/blk.py", {}, "vhostuser/cli/blk.py is missing"),
        (f"{INFO}/licenses/LICENSE", {}, "licenses/LICENSE is missing"),
        (f"{INFO}/licenses/LICENSES/liburing.txt", {}, "LICENSES/liburing.txt is missing"),
        ("", {"vhostuser/native/src/blk.c": b""}, "src/blk.c does not belong there"),
        ("", {"vhostuser/native/build.py": b""}, "build.py does not belong there"),
        ("", {"tests/conftest.py": b""}, "tests/conftest.py does not belong there"),
        (f"{INFO}/licenses/LICENSE", {f"{INFO}/licenses/LICENSE": b"?"}, "LICENSE differs from"),
        (f"{INFO}/WHEEL", {f"{INFO}/WHEEL": b"Tag: py3-none-any\n"}, "WHEEL does not have the tag"),
        (
            f"{INFO}/entry_points.txt",
            {f"{INFO}/entry_points.txt": b"[console_scripts]\nvhostuser = vhostuser:main\n"},
            "entry_points.txt differs",
        ),
        (ENGINE, {ENGINE: "/proc/self/exe"}, "the engine exports"),
    ],
)
def test_the_check_finds_what_is_wrong_with_a_wheel(wheel, tmp_path, leave_out, add, said):
    other = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(other, "w") as target:
        for name in set(source.namelist()) - {leave_out}:
            target.writestr(name, source.read(name))
        for name, data in add.items():
            if isinstance(data, str):
                target.write(data, name)
            else:
                target.writestr(name, data)
    assert [line for line in findings(other) if said in line], findings(other)


def test_a_wheel_under_another_name_is_found_out(wheel, tmp_path):
    other = tmp_path / wheel.name.replace("manylinux", "musllinux")
    shutil.copy(wheel, other)
    assert [line for line in findings(other) if "is not named by the tag" in line]


def test_the_installed_demo_verifies_every_byte(installed):
    done = run(installed, "vhostuser", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("every byte as it must be") == 2
    assert done.stderr == ""


def test_all_packages_come_from_the_wheel(installed):
    code = "import accel, protocol, vhostuser.native as n; print(accel, protocol, n, sep='\\n')"
    done = run(installed, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if str(installed.programs.parent) not in line] == []


async def test_the_installed_program_serves_a_disk(installed, tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    path = tmp_path / "disk.sock"
    with started(installed, f"--socket-path={path}", f"--blk-file={image}") as process:
        with GuestMemory() as memory, trio.fail_after(SECONDS):
            async with FrontendClient.connect(path, memory) as client:
                await client.negotiate()
                disk = BlockDriver([client.setup_queue(0)])
                await client.start()
                got = await disk.read(0, 1 << 20)
                assert hashlib.sha256(got).hexdigest() == before
                await disk.write(8, b"w" * 4096)
                await disk.flush()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    assert image.read_bytes()[4096:8192] == b"w" * 4096


def test_the_installed_program_looks_at_the_host_s_interfaces(installed):
    done = run(installed, "vhostuser", "net", "--tap=t", "--bridge=no-such-bridge", "--check")
    assert done.returncode == 1
    # The bridge, or the right to a TAP.
    assert re.fullmatch(r"tap: [^\n]+\n", done.stderr), done.stderr


@contextlib.contextmanager
def started(environment, *arguments):
    """Run `vhostuser blk`; the block begins when it serves."""
    command = [environment.programs / "vhostuser", "blk", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, **environment.settings()) as process:
        try:
            assert any("serving a" in line for line in process.stderr), "it did not start"
            yield process
        finally:
            process.kill()
