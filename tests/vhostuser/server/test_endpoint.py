"""Sockets of our making: who may connect, what is removed, and what is said when it cannot be."""

from __future__ import annotations

import grp
import os
import socket
import stat

import pytest

from vhostuser.errors import UsageError
from vhostuser.server import ListeningEndpoint, bind_unix, group_number, systemd_sockets
from vhostuser.server.systemd import systemd_notify


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize(("mode", "wanted"), [(None, 0o750), (0o600, 0o600), (0o666, 0o666)])
def test_a_socket_has_the_mode_that_was_asked_for(tmp_path, umask, mode, wanted):
    with bind_unix(tmp_path / "s", mode=mode):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == wanted


def test_nobody_can_connect_before_mode_and_group_are_set(tmp_path, monkeypatch):
    path = tmp_path / "s"
    seen = []

    def look(_path, _mode, **_options):
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(os.fspath(path))
        seen.append(True)

    monkeypatch.setattr(os, "chmod", look)
    monkeypatch.setattr(os, "chown", lambda *_arguments, **_options: look(path, 0))
    with bind_unix(path, mode=0o600, group=str(os.getgid())):
        assert seen == [True, True]


@pytest.mark.parametrize("by", ["name", "number"])
def test_a_socket_belongs_to_the_group_that_was_asked_for(tmp_path, by):
    group = grp.getgrgid(os.getgid())
    name = group.gr_name if by == "name" else str(group.gr_gid)
    with bind_unix(tmp_path / "s", group=name):
        assert (tmp_path / "s").stat().st_gid == group.gr_gid
    assert group_number(name) == group.gr_gid


def test_a_group_that_may_not_be_given_leaves_no_socket(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(UsageError, match="only a member of group 1, or root, can give it a socket"):
        bind_unix(tmp_path / "s", group="1")
    assert list(tmp_path.iterdir()) == []


def test_a_socket_s_path_has_107_bytes_at_most(tmp_path):
    base = os.fspath(tmp_path)
    fits = tmp_path / ("s" * (107 - len(base) - 1))
    with bind_unix(fits):
        assert fits.is_socket()
    with pytest.raises(UsageError, match="it has 108 bytes, and the kernel takes 107; use a short"):
        bind_unix(tmp_path / ("s" * (108 - len(base) - 1)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing/s", "No such file or directory: make the folder .*missing first"),
        ("file/s", "Not a directory: .*file is no folder"),
        ("file", "file exists and is no socket: remove it or choose another path"),
        ("folder", "folder exists and is no socket: remove it or choose another path"),
        ("live", "live is in use: another process listens on it"),
        ("full", "full is in use: another process listens on it"),
    ],
)
def test_a_path_that_cannot_be_used_is_named_with_what_to_do(tmp_path, name, text):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with bind_unix(tmp_path / "live"), bind_unix(tmp_path / "full") as full:
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(os.fspath(tmp_path / "full"))
            with pytest.raises(UsageError, match=text):
                bind_unix(tmp_path / name)
        assert (tmp_path / "live").is_socket()
    assert (tmp_path / "file").read_text() == "precious"
    for path in ("live", "full"):
        (tmp_path / path).unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_no_permission_is_said_with_the_folder(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UsageError, match=f"it takes write permission on {tmp_path}"):
        bind_unix(tmp_path / "s")


async def test_the_socket_of_whoever_came_after_us_stays(tmp_path):
    path = tmp_path / "s"
    ours = ListeningEndpoint(bind_unix(path), path)
    path.unlink()
    with bind_unix(path):
        ours.close()
        assert path.is_socket()


def environment(monkeypatch, **values):
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("count", "names", "sockets"),
    [
        ("1", None, {"3": 3}),
        ("2", "a:b", {"a": 3, "b": 4}),
        ("3", "a::a", {"a": 3, "4": 4, "5": 5}),
        ("0", "", {}),
    ],
)
def test_sockets_of_the_service_manager_have_names(monkeypatch, count, names, sockets):
    given = {} if names is None else {"LISTEN_FDNAMES": names}
    environment(monkeypatch, LISTEN_PID=str(os.getpid()), LISTEN_FDS=count, **given)
    assert systemd_sockets() == sockets


def test_sockets_of_another_process_are_not_ours(monkeypatch):
    environment(monkeypatch, LISTEN_PID=str(os.getpid() + 1), LISTEN_FDS="1")
    assert systemd_sockets() == {}


@pytest.mark.parametrize("count", ["", "-1", "many", "1" * 100])
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch, count):
    environment(monkeypatch, LISTEN_PID=str(os.getpid()), LISTEN_FDS=count)
    with pytest.raises(UsageError, match="LISTEN_FDS is no number"):
        systemd_sockets()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path, monkeypatch, abstract):
    name = f"vhostuser-test-{os.getpid()}"
    address = f"\0{name}" if abstract else os.fspath(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        environment(monkeypatch, NOTIFY_SOCKET=f"@{name}" if abstract else address)
        systemd_notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["/no/such/socket", "/" + "x" * 200])
def test_a_service_manager_that_does_not_listen_is_no_obstacle(monkeypatch, caplog, address):
    environment(monkeypatch, NOTIFY_SOCKET=address)
    systemd_notify("READY=1")
    assert "cannot tell the service manager READY=1" in caplog.text


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_an_address_of_another_kind_is_ignored(monkeypatch, caplog, address):
    environment(monkeypatch, NOTIFY_SOCKET=address)
    systemd_notify("READY=1")
    assert caplog.text == ""
