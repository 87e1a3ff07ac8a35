"""Images and block devices for stores."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from parts.require import require

LOOP_SIZE = 8 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 8)
    return path


@pytest.fixture
def loop(tmp_path):
    """Make block devices of a file of 8 MiB, by the options of losetup."""
    require("loop-devices")
    image = tmp_path / "loop.img"
    image.write_bytes(bytes([0xAA]) * LOOP_SIZE)
    made: list[Path] = []

    def make(*options: str) -> Path:
        command = ["losetup", "--find", "--show", *options, image]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        made.append(Path(done.stdout.strip()))
        return made[-1]

    yield make
    for path in made:
        subprocess.run(["losetup", "--detach", path], check=True)
