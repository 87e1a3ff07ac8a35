"""What is written for management software and for systemd."""

from __future__ import annotations

import configparser
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from parts.require import require

from vhostuser.cli import install
from vhostuser.cli.main import main

UNITS = {
    "vhostuser-blk@.service",
    "vhostuser-blk@.socket",
    "vhostuser-disks.service",
    "vhostuser-net.service",
}


@pytest.fixture(autouse=True)
def programs(tmp_path_factory, monkeypatch):
    """The package as it lies once it is installed: this checkout may lie anywhere."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("vhostuser", "vhostuser-blk"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(folder / "vhostuser")])
    return folder


def test_the_discovery_file_describes_this_back_end(tmp_path, programs, capsys):
    assert main(["install-discovery", "--directory", str(tmp_path)]) == 0
    path = tmp_path / "50-vhostuser-blk.json"
    assert capsys.readouterr().out == f"{path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    described = json.loads(path.read_text())
    assert described.pop("tags")
    assert described.pop("description")
    assert described == {"type": "block", "binary": str(programs / "vhostuser-blk")}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("command", "root", "folder"),
    [
        ("install-discovery", True, "/etc/qemu/vhost-user"),
        ("install-discovery", False, "{config}/qemu/vhost-user"),
        ("install-systemd", True, "/etc/systemd/system"),
        ("install-systemd", False, "{config}/systemd/user"),
    ],
)
def test_root_installs_for_all_and_a_user_for_himself(tmp_path, monkeypatch, command, root, folder):
    written = {}
    monkeypatch.setattr(install, "_write", written.__setitem__)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main([command]) == 0
    assert list(written) == [Path(folder.format(config=tmp_path))]


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["install-systemd", "--directory", str(tmp_path / "file")]) == 1
    assert "choose another with --directory" in capsys.readouterr().err


def test_a_program_that_is_missing_is_an_error_with_a_hint(tmp_path, programs, capsys, monkeypatch):
    (programs / "vhostuser-blk").unlink()
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    assert main(["install-discovery", "--directory", str(tmp_path)]) == 1
    assert "install the package again" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("user", [[], ["--user"]])
def test_the_units_start_this_program(tmp_path, programs, user, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["install-systemd", "--directory", str(tmp_path), *user]) == 0
    assert {path.name for path in tmp_path.iterdir()} == UNITS
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert text.count(f"ExecStart={programs}/vhostuser blk ") == 2
    assert text.count(f"ExecStart={programs}/vhostuser net ") == 1
    assert "@PROGRAM@" not in text
    assert ("ProtectSystem=" in text) is not bool(user)
    assert ("ProtectHome=no" in text) is not bool(user)
    assert ("`systemctl --user e" in text) is bool(user)
    assert ("`systemctl e" in text) is not bool(user)


def test_the_switch_comes_after_the_network_and_waits_for_a_late_bridge():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(install.systemd_units(user=False)["vhostuser-net.service"])
    assert "network.target" in unit["Unit"]["After"].split()
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["Restart"] == "on-failure"


@pytest.mark.interop
@pytest.mark.parametrize("user", [[], ["--user"]])
def test_systemd_finds_no_fault_in_the_units(tmp_path, tmp_path_factory, user, monkeypatch):
    verify = require("systemd-analyze") / "systemd-analyze"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["install-systemd", "--directory", str(tmp_path), *user]) == 0
    done = subprocess.run(
        [verify, "verify", *user, *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("run"))},
    )
    assert (done.returncode, done.stderr) == (0, "")
