"""The table of options, and its three ways in: command line, file, control socket."""

from __future__ import annotations

import argparse
import dataclasses
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as st

from vhostuser.datapath import IO_ENGINES
from vhostuser.devices import BLOCK_SIZES, SERIAL_BYTES, BlkOptions
from vhostuser.disks import DiskConfig, check_disks
from vhostuser.errors import UsageError
from vhostuser.options import Source, add_arguments, given, options, read
from vhostuser.serving import ProgramConfig, read_config

FULL = {
    "id": "one",
    "socket-path": "/run/one.sock",
    "socket-mode": "0660",
    "socket-group": "kvm",
    "blk-file": "/images/one.img",
    "read-only": True,
    "direct": True,
    "locking": False,
    "num-queues": 4,
    "queue-size": 256,
    "serial": "one",
    "block-size": 4096,
    "workers": 2,
    "io": "threads",
    "poll-us": 0,
    "busy-poll": True,
}
LINE = [
    *["--id=one", "--socket-path=/run/one.sock", "--socket-mode=0660", "--socket-group=kvm"],
    *["--blk-file=/images/one.img", "--read-only", "--direct", "--no-locking", "--num-queues=4"],
    *["--queue-size=256", "--serial=one", "--block-size=4096", "--workers=2", "--poll-us=0"],
    *["--busy-poll", "--io=threads"],
]


def from_line(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser, DiskConfig)
    return read(DiskConfig, given(parser.parse_args(arguments), DiskConfig), Source.COMMAND_LINE)


def from_file(path, text):
    path.write_text(text, encoding="utf-8")
    return read_config(path, ProgramConfig, DiskConfig)


def test_the_table_offers_what_the_device_can_do():
    kinds = {row.name: row.kind for row in options(DiskConfig)}
    assert kinds["io"].words == IO_ENGINES
    assert kinds["block-size"].numbers == BLOCK_SIZES
    assert kinds["serial"].most == SERIAL_BYTES
    known = {field.name for field in dataclasses.fields(BlkOptions)}
    assert known - {row.attribute for row in options(DiskConfig)} == {"queues"}


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int) else f'"{value}"'


def lines(findings):
    return [str(finding) for finding in findings]


def test_all_three_ways_give_the_same_disk(tmp_path):
    text = "[[disk]]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in FULL.items())
    file = from_file(tmp_path / "disks.toml", text)
    made, problems = read(DiskConfig, FULL, Source.CONTROL)
    assert problems == []
    assert (made, *(disk for disk, _ in file.served), from_line(*LINE)[0]) == (made,) * 3
    assert made.socket_mode == 0o660


def test_what_a_disk_was_made_of_can_be_given_again():
    made, _ = read(DiskConfig, FULL, Source.CONTROL)
    rows = options(DiskConfig, Source.CONTROL)
    kept = {row: getattr(made, row.attribute) for row in rows}
    plain = {row.name: row.kind.plain(value) for row, value in kept.items() if value is not None}
    again, problems = read(DiskConfig, plain, Source.CONTROL)
    assert (again, problems) == (made, [])


@pytest.mark.parametrize("row", options(DiskConfig), ids=lambda row: row.name)
def test_every_option_has_a_word_of_help_and_refuses_what_it_is_not(row):
    assert row.help
    assert not row.help.endswith(".")
    for value in (None, [], {}, 1.5, "\0", -1, 1 << 70):
        with pytest.raises(ValueError, match="expected, not"):
            row.kind.parse(value)


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@settings(deadline=None)  # the machine may have other things to do
@each(
    st.dictionaries(
        st.sampled_from(sorted(FULL)) | st.text(), JSON | st.sampled_from(list(FULL.values()))
    )
)
def test_any_values_make_a_disk_or_lines_that_say_why_not(values):
    made, problems = read(DiskConfig, values, Source.CONTROL)
    assert (made is None) == bool(problems)
    for problem in problems:
        assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"id": "a", "fd": 3}, "fd: there is no such argument"),
        ({"socket-path": "/s"}, "id: is missing"),
        ({"id": "a b"}, "id: a name of letters, digits and _ . : @ - (at most 64) is expected"),
        ({"id": "a", "num-quues": 3}, "num-quues: there is no such argument: did you mean num-q"),
        ({"id": "a", "num-queues": True}, "num-queues: a number from 1 to 256 is expected, not tr"),
        ({"id": "a", "num-queues": "4"}, "num-queues: a number from 1 to 256 is expected, not '4'"),
        ({"id": "a", "read-only": 1}, "read-only: true or false is expected, not 1"),
        ({"id": "a", "socket-path": "s"}, "socket-path: an absolute path is expected, not 's'"),
        ({"id": "a", "blk-file": "/\ud800"}, "blk-file: a path is expected, not '/\\ud800'"),
        ({"id": "a", "memory": "1G", "null": "1G"}, "memory: not together with null"),
        ({"id": "a", "connect": "/a", "socket-path": "/b"}, "connect: not together with socket-p"),
        ({"id": "a", "direct": True}, "direct: bypasses the page cache of a file: give blk-file"),
        ({"id": "a", "socket-mode": "0660"}, "socket-mode: is of a socket that is made here"),
        ({"id": "a", "socket-path": "/s", "socket-mode": 432}, "socket-mode: octal permissions as"),
        ({"id": "a", "serial": "x" * 21}, "serial: up to 20 printable ASCII characters is expecte"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(values, text):
    made, problems = read(DiskConfig, values, Source.CONTROL)
    assert made is None
    assert any(text in line for line in lines(problems)), problems


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("64M", 64 << 20), ("1g", 1 << 30), ("2TiB", 2 << 40)]
)
def test_a_size_has_units(text, size):
    assert from_line(f"--memory={text}")[0].memory == size


def test_paths_in_a_file_belong_to_its_folder(tmp_path):
    text = 'control = "c"\n[[disk]]\nid = "a"\nsocket-path = "s"\nblk-file = "/i"\n'
    file = from_file(tmp_path / "disks.toml", text)
    assert file.program.control == tmp_path / "c"
    ((disk, _),) = file.served
    assert (disk.socket_path, disk.blk_file) == (tmp_path / "s", Path("/i"))


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "disks.toml"
    file = from_file(
        path,
        'log-format = "xml"\nspeed = 3\n[[disk]]\nid = "a"\nfoo = 1\n[[disk]]\nnum-queues = 0\n'
        '[[disk]]\nid = "c"\n',
    )
    assert lines(file.findings) == [
        f"{path}: log-format: one of text, json is expected, not 'xml'",
        f"{path}: speed: there is no such key: there are control, log-format, log-level, disk",
        f"{path}: disk 'a': foo: there is no such key: there are "
        + ", ".join(row.name for row in options(DiskConfig, Source.FILE)),
        f"{path}: disk 2: num-queues: a number from 1 to 256 is expected, not 0",
        f"{path}: disk 2: id: is missing",
    ]
    assert [disk.id for disk, _ in file.served] == ["c"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[[disk]", "is no TOML: "),
        (b"\xff", "is no UTF-8 text, from byte 0 on"),
        (b"a = " + b"[" * 100_000, "is no TOML: "),
        (b"#" * (1 << 20) + b"#", "has over 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, text):
    path = tmp_path / "disks.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=text):
        read_config(path, ProgramConfig, DiskConfig)


def test_a_disk_that_is_no_table_is_a_mistake(tmp_path):
    file = from_file(tmp_path / "disks.toml", "disk = 3\n")
    assert "begin it with [[disk]]" in lines(file.findings)[0]


def test_the_command_line_overrides_the_program_s_options(tmp_path):
    path = tmp_path / "disks.toml"
    path.write_text('log-format = "json"\nlog-level = "error"\n')
    program = read_config(
        path, ProgramConfig, DiskConfig, overridden={"log-level": "debug"}
    ).program
    assert program == ProgramConfig(log_format="json", log_level="debug")


def checked(*disks, control=None):
    made = [
        read(DiskConfig, {"id": f"d{i}"} | disk, Source.CONTROL) for i, disk in enumerate(disks)
    ]
    assert not any(problems for _, problems in made)
    return lines(check_disks(ProgramConfig(control=control), [(each, each.id) for each, _ in made]))


def test_what_can_be_served_passes_the_check(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    shared = {"blk-file": str(image), "read-only": True}
    one = shared | {"socket-path": str(tmp_path / "one")}
    two = shared | {"socket-path": str(tmp_path / "two")}
    assert checked(one, two, {"memory": "1M"}, control=tmp_path / "control") == []


def test_what_the_host_would_refuse_fails_the_check(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    link = tmp_path / "link"
    link.symlink_to(image)
    short = tmp_path / "short"
    short.write_bytes(b"short")
    socket = tmp_path / "s"
    table = [
        ({"id": "twice"}, ""),
        ({"id": "twice"}, "twice: id: another disk is called twice: choose another"),
        ({"socket-path": "/no/such/folder/s"}, "socket-path: there is no folder /no/such/folder"),
        ({"socket-path": str(image)}, "socket-path: {image} exists and is no socket"),
        ({"socket-path": "/" + "x" * 107}, "socket-path: cannot use /xxxx"),
        ({"connect": "/" + "x" * 107}, "connect: cannot use /xxxx"),
        ({"socket-path": str(socket)}, ""),
        ({"socket-path": str(socket)}, "socket-path: {socket} is the socket of disk d6, too"),
        ({"socket-path": str(socket) + "2", "socket-group": "no-such"}, "there is no group 'no-s"),
        ({"blk-file": str(tmp_path)}, "blk-file: {tmp_path} is neither a regular file nor a blo"),
        ({"blk-file": "/no/such"}, "blk-file: cannot look at /no/such: No such file"),
        ({"blk-file": str(short)}, "blk-file: {short} has 5 bytes: a disk has at least 512"),
        ({"blk-file": str(image), "block-size": 4096}, "has 512 bytes: a disk has at least 4096"),
        ({"blk-file": str(link)}, "blk-file: disk d12 is the same image"),
        ({"socket-path": str(tmp_path / "control")}, "is the socket of the control socket, too"),
    ]
    found = checked(*(disk for disk, _ in table), control=tmp_path / "control")
    for _, text in table:
        expected = text.format(image=image, socket=socket, tmp_path=tmp_path, short=short)
        assert any(expected in line for line in found), (expected, found)
    assert len(found) == sum(bool(text) for _, text in table)


def test_a_device_that_is_mounted_fails_the_check(monkeypatch):
    found = os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9))
    monkeypatch.setattr(Path, "stat", lambda _path: found)
    monkeypatch.setattr("vhostuser.disks.check.known_use", lambda _device: "it is mounted on /mnt")
    disk = DiskConfig(id="a", blk_file=Path("/dev/a"))
    assert lines(check_disks(ProgramConfig(), [(disk, "a")])) == [
        "a: blk-file: /dev/a is in use: it is mounted on /mnt"
    ]


@pytest.mark.parametrize(("groups", "right"), [([], False), ([7], True)])
def test_only_a_member_passes_the_check_of_a_socket_s_group(monkeypatch, tmp_path, groups, right):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    disk = DiskConfig(id="a", socket_path=tmp_path / "s", socket_group="7")
    found = lines(check_disks(ProgramConfig(), [(disk, "a")]))
    text = "a: socket-group: only a member of group 7, or root, can give it a socket"
    assert found == ([] if right else [text])
