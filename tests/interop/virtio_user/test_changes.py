"""What changes while frames of DPDK's virtio-user flow: its memory, its back-end, itself."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from virtio_user import PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run, StartSwitch
    from virtio_user import DriverPath, VirtioUser

pytestmark = pytest.mark.interop

_FRAMES = 8000
_ENDLESS = 1 << 31
_SIZE = 256


@pytest.mark.parametrize("mode", ["switch", "echo"])
@pytest.mark.parametrize("name", ["split-merged", "split-in-order", "packed", "packed-in-order"])
def test_memory_comes_and_goes_while_frames_flow(
    name: str, mode: str, switch: StartSwitch, run_in_huge_pages: Run
) -> None:
    """The driver disables its rings meanwhile, says where its memory is now, and enables them."""
    growths, ports = 3, 2 if mode == "switch" else 1
    served, sockets = switch("--mode", mode, ports=ports)
    figures = run_in_huge_pages(sockets, PATHS[name], frames=_FRAMES, grow=growths, rounds=2)
    assert figures.frames == 2 * ports * _FRAMES
    assert min(figures.grown, figures.shrunk) >= 2 * growths
    # A burst of each port is on its way at each change, and a switch drops what nobody takes.
    assert figures.lost <= 2 * 2 * growths * ports * _SIZE
    assert figures.received == figures.frames - figures.lost
    served.terminate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
@pytest.mark.parametrize("name", ["split-merged", "split-in-order", "packed-merged"])
def test_a_front_end_that_listens_goes_on_with_the_next_back_end(
    name: str,
    how: signal.Signals,
    backend: Callable[..., Any],
    start_driver: Callable[..., VirtioUser],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("s")
    sockets = [folder / "0", folder / "1"]
    words = [word for path in sockets for word in ("--connect", path)]
    first = backend(*words, command="net")
    driver = start_driver(
        sockets, PATHS[name].devargs + ",server=1", frames=_FRAMES, rounds=2, leave=1
    )
    driver.wait_for("exchanging")
    driver.wait_for("leave")
    first.process.send_signal(how)
    first.process.wait()
    driver.wait_for("left")
    second = backend(*words, command="net")
    figures = driver.figures()
    assert figures.received == figures.frames == 4 * _FRAMES
    second.terminate()


def test_a_front_end_that_dies_amid_frames_leaves_room_for_the_next(
    merged: DriverPath,
    switch: StartSwitch,
    run: Run,
    start_driver: Callable[..., VirtioUser],
) -> None:
    served, sockets = switch()
    dying = start_driver(sockets, merged.devargs, frames=_ENDLESS)
    dying.wait_for("exchanging")
    dying.die()
    figures = run(sockets, merged, frames=_FRAMES)
    assert figures.received == figures.frames
    served.terminate()


def test_a_back_end_ends_at_once_though_frames_flow(
    merged: DriverPath, switch: StartSwitch, start_driver: Callable[..., VirtioUser]
) -> None:
    served, sockets = switch()
    driver = start_driver(sockets, merged.devargs, frames=_ENDLESS)
    driver.wait_for("exchanging")
    served.terminate()
    driver.die()
