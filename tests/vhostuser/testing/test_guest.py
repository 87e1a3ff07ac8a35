"""The guest's parts, without a guest: its archive of files, its command line, its errors."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from vhostuser.testing.guest import (
    Guest,
    GuestFiles,
    GuestTimeoutError,
    build_initramfs,
    run_qemu,
)


@pytest.fixture
def files(tmp_path: Path) -> GuestFiles:
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "busybox").write_bytes(b"busybox")
    (tmp_path / "modules").mkdir()
    for name in ("01-second.ko", "00-first.ko"):
        (tmp_path / "modules" / name).write_bytes(name.encode())
    return GuestFiles.in_folder(tmp_path)


def _unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive as the kernel does: mode and content of each name."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data = (at + 110 + name_size + 3) // 4 * 4
        at = (data + size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not any(archive[at:])
            return found
        found[name] = (mode, archive[data : data + size])


def test_the_initramfs_holds_the_script_and_the_drivers_in_their_order(files: GuestFiles) -> None:
    entries = _unpack(build_initramfs(files, "echo hello"))
    assert entries["script"][1] == b"echo hello"
    assert entries["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
    assert stat.S_ISCHR(entries["dev/console"][0])
    assert entries["init"][1].startswith(b"#!/bin/busybox sh\n")
    drivers = [name for name in entries if name.startswith("modules/")]
    assert drivers == ["modules/00-first.ko", "modules/01-second.ko"]


@pytest.mark.parametrize(("packed", "word"), [(False, "packed=off"), (True, "packed=on")])
def test_the_command_line_shares_all_memory_and_has_a_queue_for_each_processor(
    packed: bool, word: str, files: GuestFiles
) -> None:
    guest = Guest(socket=Path("/run/s"), files=files, script="", cpus=3, packed=packed)
    line = " ".join(guest.command(Path("/run/initramfs")))
    for part in (word, "num-queues=3", "-smp 3", "size=256M,share=on", "path=/run/s"):
        assert part in line


def test_missing_files_are_named_with_what_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vmlinuz is not there; `make parts` fetches it"):
        GuestFiles.in_folder(tmp_path)


def test_a_missing_qemu_is_named_with_its_package(files: GuestFiles) -> None:
    guest = Guest(socket=Path("/run/s"), files=files, script="", qemu="no-such-qemu")
    with pytest.raises(FileNotFoundError, match=r"no-such-qemu .* install qemu-system-x86"):
        guest.run()


def test_a_guest_that_does_not_end_is_killed_and_its_last_words_are_kept() -> None:
    program = "import signal; print('last words', flush=True); signal.pause()"
    with pytest.raises(GuestTimeoutError, match="last words") as caught:
        run_qemu([sys.executable, "-c", program], seconds=1)
    assert caught.value.console == "last words\n"
