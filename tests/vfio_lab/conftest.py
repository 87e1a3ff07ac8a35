"""Guests in which the kernel's VFIO hands devices to our programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
from lab_guest import SCRIPTS, LabDevice, LabMachine, LabRun, UserDevice
from lab_image import build_lab_image
from parts.require import require

from vhostuser.testing.guest import GuestFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["RunLabGuest"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab: takes more than `make test` has (`make test-lab`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "lab" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("lab")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


class RunLabGuest(Protocol):
    """Runs scripts of the folder guest in a machine; returns how their checks went."""

    def __call__(
        self,
        *scripts: str,
        devices: Sequence[LabDevice | UserDevice],
        iommu: bool = True,
        cpus: int = 1,
        part: str = "qemu-10",
    ) -> LabRun: ...


@pytest.fixture(scope="session")
def lab_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initramfs of all lab guests, with every script."""
    path = tmp_path_factory.mktemp("lab") / "initramfs"
    files = GuestFiles.in_folder(require("vfio-kernel"))
    build_lab_image(path, files, sorted(SCRIPTS.glob("*.py")))
    return path


@pytest.fixture(scope="session")
def lab_guest(lab_image: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLabGuest:
    """Boots lab guests. One takes many seconds: boot it once for many tests."""

    def run(
        *scripts: str,
        devices: Sequence[LabDevice | UserDevice],
        iommu: bool = True,
        cpus: int = 1,
        part: str = "qemu-10",
    ) -> LabRun:
        machine = LabMachine(
            qemu=require(part) / "qemu-system-x86_64",
            kernel=require("vfio-kernel") / "vmlinuz",
            initramfs=lab_image,
            folder=tmp_path_factory.mktemp("guest"),
            devices=devices,
            iommu=iommu,
            cpus=cpus,
        )
        return machine.run(*scripts)

    return run
