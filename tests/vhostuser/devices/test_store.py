"""Stores: what is a disk, what is not, and how large it is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest

from vhostuser.devices import BlockSizes, memory_store, null_store, open_store
from vhostuser.errors import StoreError
from vhostuser.testing import held


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path))


def test_what_is_no_disk_is_not_even_opened(monkeypatch):
    opened, real = [], os.open

    def spy(path, flags):
        opened.append(flags)
        return real(path, flags)

    monkeypatch.setattr(os, "open", spy)
    with pytest.raises(StoreError, match="is a character device"):
        open_store(Path("/dev/null"))
    assert [flags & os.O_PATH for flags in opened] == [os.O_PATH]


def test_an_image_is_a_disk_of_its_whole_sectors_and_the_rest_is_mentioned(image, caplog):
    with image.open("ab") as file:
        file.write(b"rest")
    store = open_store(image)
    assert (store.size, store.alignment, store.read_only) == (2048, 1, False)
    assert "its last 4 bytes are not part of the disk" in caplog.text
    store.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_reading_only_is_proposed_where_it_would_help(image, monkeypatch, read_only):
    def denied(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StoreError, match="Permission denied") as caught:
        open_store(image, read_only=read_only)
    assert ("--read-only would serve it" in str(caught.value)) is not read_only


def test_a_direct_store_demands_alignment_and_keeps_a_way_around_it(image):
    store = open_store(image, direct=True)
    assert store.alignment in {512, 4096}
    assert store.buffered_fd is not None
    store.close()


def test_a_read_only_store_cannot_be_written_even_by_us(image):
    store = open_store(image, read_only=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(store.fd.fileno(), b"x", 0)
    store.close()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "cannot open .*: No such file"),
        (lambda path: path.mkdir(), "is a directory: a disk is a regular file or a block device"),
        (unix_socket, "is a socket: a disk is a regular file or a block device"),
        (os.mkfifo, "is a pipe: a disk is a regular file or a block device"),
        (lambda path: path.write_bytes(b"x" * 511), "has 511 bytes: a disk has at least 512"),
        (lambda path: path.symlink_to("/dev/null"), "is a character device: a disk is"),
    ],
    ids=["missing", "folder", "socket", "fifo", "short", "null"],
)
def test_what_is_no_disk_is_refused_with_the_reason_and_no_leak(tmp_path, make, text):
    before = held()
    make(tmp_path / "disk")
    for read_only in (False, True):
        with pytest.raises(StoreError, match=text):
            open_store(tmp_path / "disk", read_only=read_only)
    assert held().more_than(before) == ""


def test_a_disk_in_memory_cannot_be_shortened_and_can_grow():
    with contextlib.closing(memory_store(1 << 20)) as store:
        with pytest.raises(PermissionError):
            os.truncate(store.fd.fileno(), 0)
        assert store.resize(3 << 20).size == 3 << 20
        assert os.pread(store.fd.fileno(), 4, (3 << 20) - 4) == bytes(4)


def test_sizes_are_rounded_down_to_whole_sectors():
    assert null_store(1023).size == 512
    store = memory_store(1025)
    assert store.size == 1024
    store.close()


@pytest.mark.parametrize("direct", [False, True])
def test_only_opening_does_not_block_not_what_the_engine_does(image, direct):
    with contextlib.closing(open_store(image, direct=direct)) as store:
        for fd in filter(None, (store.fd, store.buffered_fd)):
            assert os.get_blocking(fd.fileno())


def test_the_blocks_of_an_image_are_small_and_those_of_its_file_system_large(image):
    with contextlib.closing(open_store(image)) as store:
        size = image.stat().st_blksize
        assert store.blocks == BlockSizes(physical=size, minimum=size, discard=size)


def test_an_image_grows_with_zeroes_and_keeps_what_it_has(image):
    content = image.read_bytes()
    with contextlib.closing(open_store(image)) as store:
        assert store.resize(8192).size == 8192
        assert image.read_bytes() == content + bytes(8192 - len(content))


def test_an_image_that_others_changed_is_measured_again(image):
    with contextlib.closing(open_store(image)) as store:
        for size in (8192, 1024, 2000):
            os.truncate(image, size)
            assert store.resize(None).size == size - size % 512
        assert image.stat().st_size == 2000


def test_an_image_that_is_longer_than_its_disk_is_not_touched(image):
    with contextlib.closing(open_store(image)) as store:
        os.truncate(image, 8192)
        assert store.resize(4096).size == 4096
        assert image.stat().st_size == 8192


@pytest.mark.parametrize(
    ("read_only", "size", "text"),
    [
        (False, 1024, "has 2048 bytes: cut off at 1024 it would lose data; if that is meant"),
        (False, 511, "a disk has 512 to .* bytes, it cannot have 511"),
        (False, 0, "cannot have 0"),
        (False, -512, "cannot have -512"),
        (False, 1 << 63, "cannot have 9223372036854775808"),
        (False, 1 << 62, "cannot grow .* to 4611686018427387904 bytes: File too large"),
        (True, 4096, "is served read-only: grow it elsewhere, then resize without a size"),
    ],
)
def test_a_size_that_cannot_be_had_is_refused_and_nothing_changes(image, read_only, size, text):
    with contextlib.closing(open_store(image, read_only=read_only)) as store:
        with pytest.raises(StoreError, match=text):
            store.resize(size)
        assert image.stat().st_size == 2048
        assert store.resize(None).size == 2048


def test_a_file_cut_to_nothing_is_no_disk_any_more(image):
    with contextlib.closing(open_store(image)) as store:
        os.truncate(image, 100)
        with pytest.raises(StoreError, match="has 100 bytes now: the disk keeps its 2048"):
            store.resize(None)


def test_a_store_of_nothing_has_any_size():
    store = null_store(1 << 20)
    assert store.resize(None).size == 1 << 20
    assert store.resize(1 << 30).size == 1 << 30
    assert store.resize(1 << 10).size == 1 << 10


def test_the_size_of_a_block_device_is_its_own(loop):
    device = loop()
    with contextlib.closing(open_store(device)) as store:
        with pytest.raises(StoreError, match="is a block device of 8388608 bytes: change it with"):
            store.resize(1 << 30)
        assert store.resize(None).size == store.resize(8 << 20).size == 8 << 20


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"QFI\xfb\0\0\0\3", "qcow2"), (b"QED\0", "QED"), (b"KDMV", "VMDK"), (b"vhdxfile", "VHDX")],
)
def test_an_image_of_another_format_is_warned_of(tmp_path, caplog, start, name):
    path = tmp_path / "image"
    path.write_bytes(start.ljust(512, b"\0"))
    open_store(path).close()
    assert f"{path} looks like a {name} image" in caplog.text


def test_a_raw_image_is_not_warned_of(tmp_path, caplog):
    path = tmp_path / "image"
    path.write_bytes(b"\xeb\x63\x90".ljust(512, b"\0"))
    open_store(path).close()
    assert caplog.records == []
