"""Two users of one image: what we refuse of others, and what QEMU refuses of us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest
from parts.require import require

from vhostuser.devices import BlkDevice, BlkOptions, open_store
from vhostuser.errors import StoreError
from vhostuser.fds import OwnedFd
from vhostuser.testing import held

WRITE, RESIZE = 1, 3
QEMUS = ("qemu-7", "qemu-10")


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("writer", "writer", False),
        ("writer", "reader", False),
        ("reader", "writer", False),
        ("reader", "reader", True),
    ],
)
def test_two_disks_share_an_image_only_to_read_it(image, first, second, shared):
    with contextlib.closing(open_store(image, read_only=first == "reader")):
        before = held()
        if shared:
            open_store(image, read_only=True).close()
        else:
            with pytest.raises(
                StoreError, match=r"disk\.img is in use: another disk of this"
            ) as it:
                open_store(image, read_only=second == "reader")
            assert it.value.errno == errno.EBUSY
        assert held().more_than(before) == ""


def test_an_image_is_free_again_when_its_disk_is_closed(image):
    for _ in range(2):
        open_store(image).close()


def test_locking_can_be_switched_off_at_either_place(image):
    with contextlib.closing(open_store(image)):
        open_store(image, locking=False).close()
    with contextlib.closing(open_store(image, locking=False)):
        open_store(image).close()


async def test_an_image_is_locked_until_its_device_is_closed(image):
    async with BlkDevice.open(open_store(image), BlkOptions()) as device:
        await device.resize(4096)
        with pytest.raises(StoreError, match="is in use"):
            open_store(image)
    open_store(image).close()


def test_a_holder_that_cannot_be_looked_at_stays_without_a_name(image, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter([Path("/proc/0/fdinfo/0")]))
    with (
        contextlib.closing(open_store(image)),
        pytest.raises(StoreError, match="another process, or another disk of this one, does not"),
    ):
        open_store(image)


def lock(fd: OwnedFd, byte: int, kind: int = fcntl.F_RDLCK) -> None:
    """Lock a byte as a program does that means what QEMU means."""
    fcntl.fcntl(fd.fileno(), fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, byte, 1, 0))


@pytest.mark.parametrize(
    ("byte", "kind", "writer", "reader"),
    [
        (100, fcntl.F_RDLCK, None, None),
        (101, fcntl.F_RDLCK, "holds its write lock", "holds its write lock"),
        (102, fcntl.F_RDLCK, None, None),
        (103, fcntl.F_RDLCK, "holds its resize lock", "holds its resize lock"),
        (200, fcntl.F_RDLCK, "does not let others read it", "does not let others read it"),
        (201, fcntl.F_RDLCK, "does not let others write it", None),
        (202, fcntl.F_RDLCK, None, None),
        (203, fcntl.F_RDLCK, None, None),
        (100, fcntl.F_WRLCK, "has locked it", "has locked it"),
    ],
)
def test_each_lock_of_another_program_means_what_it_means_to_qemu(
    image, byte, kind, writer, reader
):
    with OwnedFd(os.open(image, os.O_RDWR | os.O_CLOEXEC)) as other:
        lock(other, byte, kind)
        for read_only, reason in ((False, writer), (True, reader)):
            if reason is None:
                open_store(image, read_only=read_only).close()
            else:
                with pytest.raises(StoreError, match=reason):
                    open_store(image, read_only=read_only)


def test_an_image_grows_only_where_nobody_forbids_it(image):
    with contextlib.closing(open_store(image)) as store:
        with OwnedFd(os.open(image, os.O_RDWR | os.O_CLOEXEC)) as other:
            lock(other, 200 + RESIZE)
            with pytest.raises(StoreError, match="does not let others resize it"):
                store.resize(4096)
            assert image.stat().st_size == 2048
        assert store.resize(4096).size == 4096
        with OwnedFd(os.open(image, os.O_RDWR | os.O_CLOEXEC)) as other:
            lock(other, 100 + RESIZE, fcntl.F_WRLCK)  # nothing of ours is left there


def test_a_file_system_without_locks_is_served_when_it_is_told_so(image, monkeypatch):
    def refuse(fd, command, argument):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(StoreError, match=r"cannot lock .*; .*, --no-locking serves it without"):
        open_store(image)
    open_store(image, locking=False).close()


def command(program, image, *, read_only):
    """QEMU with a disk; it stops before its first instruction."""
    node = {"driver": "file", "node-name": "disk", "filename": str(image), "read-only": read_only}
    machine = ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"]
    disk = ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=disk"]
    return [program, "-accel", "tcg", "-machine", "q35", "-m", "64M", *machine, *disk]


@contextlib.contextmanager
def running_qemu(program, image, *, read_only):
    """QEMU while it has the image."""
    process = subprocess.Popen(
        command(program, image, read_only=read_only),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "QMP" in process.stdout.readline()
        process.stdin.write('{"execute": "qmp_capabilities"}\n')
        process.stdin.flush()
        assert "return" in process.stdout.readline()  # its devices are there
        yield process
        process.stdin.write('{"execute": "quit"}\n')
        process.stdin.flush()
        process.stdout.read()
    assert process.returncode == 0


@pytest.mark.interop
@pytest.mark.parametrize("qemu", QEMUS)
def test_what_a_qemu_uses_is_refused(image, qemu):
    program = require(qemu) / "qemu-system-x86_64"
    with running_qemu(program, image, read_only=False) as process:
        for read_only in (False, True):
            with pytest.raises(StoreError, match=rf"is in use: process {process.pid} \(\S+\) "):
                open_store(image, read_only=read_only)
    with running_qemu(program, image, read_only=True):
        with pytest.raises(StoreError, match="does not let others write it"):
            open_store(image)
        open_store(image, read_only=True).close()
    open_store(image).close()


@pytest.mark.interop
@pytest.mark.parametrize("qemu", QEMUS)
@pytest.mark.parametrize(
    ("ours", "theirs", "lock"),
    [(False, False, "write"), (False, True, "write"), (True, False, "write")],
)
def test_a_qemu_is_refused_what_we_use(image, qemu, ours, theirs, lock):
    program = require(qemu) / "qemu-system-x86_64"
    with contextlib.closing(open_store(image, read_only=ours)):
        done = subprocess.run(
            command(program, image, read_only=theirs),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f'Failed to get {"shared " if theirs else ""}"{lock}" lock' in done.stderr


@pytest.mark.interop
@pytest.mark.parametrize("qemu", QEMUS)
def test_a_qemu_reads_what_we_read(image, qemu):
    program = require(qemu) / "qemu-system-x86_64"
    with (
        contextlib.closing(open_store(image, read_only=True)),
        running_qemu(program, image, read_only=True),
    ):
        pass
