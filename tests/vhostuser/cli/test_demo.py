"""`vhostuser demo`: what it prints when all is right, and when something is not."""

from __future__ import annotations

from argparse import Namespace

import pytest

from vhostuser.cli import demo

OPTIONS = Namespace(verbose=True)


@pytest.fixture(autouse=True)
def no_qemu(monkeypatch):
    """The guests have tests of their own, and take long."""
    monkeypatch.setattr(demo.shutil, "which", lambda program: None)


def test_every_byte_is_verified_on_both_rings_and_the_command_for_qemu_printed(capsys):
    assert demo.COMMAND.run(OPTIONS) == 0
    printed = capsys.readouterr().out
    for layout in ("split", "packed"):
        assert f"{layout} ring: 2 queues, serial 'vhostuser-demo', wrote 8 MiB" in printed
    assert "qemu-system-x86_64 -accel tcg" in printed
    assert "qemu-system-x86_64 is not installed: no guest was booted" in printed


def test_a_wrong_byte_fails_the_demo_with_the_place(capsys, monkeypatch):
    monkeypatch.setattr(demo, "default_sector", lambda number: bytes(512))
    assert demo.COMMAND.run(OPTIONS) == 1
    assert "FAILED: split ring: sectors from 0 are not what they" in capsys.readouterr().out
