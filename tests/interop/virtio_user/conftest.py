"""A switch of ours, and DPDK's virtio-user to send frames through it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from parts.huge_pages import huge_pages
from parts.require import require
from virtio_user import PATHS, DriverPath, Figures, VirtioUser, compile_verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_HUGE_MIB = 256


class StartSwitch(Protocol):
    """Starts `vhostuser net` with further arguments, listening on so many sockets."""

    def __call__(self, *arguments: object, ports: int = 2) -> tuple[Any, list[Path]]: ...


class Run(Protocol):
    """Has virtio-user exchange frames at these sockets; see verify.c for the options."""

    def __call__(self, sockets: Sequence[Path], path: DriverPath, **options: int) -> Figures: ...


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_verifier(require("dpdk"), tmp_path_factory.mktemp("virtio-user"))


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> DriverPath:
    return PATHS[request.param]


@pytest.fixture(params=["split-merged", "packed-merged"])
def merged(request: pytest.FixtureRequest) -> DriverPath:
    """A way for each layout that takes all that a switch can give."""
    return PATHS[request.param]


@pytest.fixture
def switch(backend: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> StartSwitch:
    def start(*arguments: object, ports: int = 2) -> tuple[Any, list[Path]]:
        folder = tmp_path_factory.mktemp("s")
        more = [folder / str(number) for number in range(1, ports)]
        words = [word for path in more for word in ("--socket-path", path)]
        served = backend(*words, *arguments, command="net")
        for path in more:
            served.wait_for_log(str(path))
        return served, [served.socket, *more]

    return start


@pytest.fixture
def start_driver(verifier: Path, tmp_path: Path) -> Iterator[Callable[..., VirtioUser]]:
    with contextlib.ExitStack() as stack:

        def start(
            sockets: Sequence[Path], devargs: str, *, huge: bool = False, **options: int
        ) -> VirtioUser:
            return stack.enter_context(
                VirtioUser.started(
                    verifier, sockets, devargs, options, folder=tmp_path, huge_pages=huge
                )
            )

        yield start


@pytest.fixture
def run(start_driver: Callable[..., VirtioUser]) -> Run:
    def run(sockets: Sequence[Path], path: DriverPath, **options: int) -> Figures:
        driver = start_driver(sockets, path.devargs, **options)
        figures = driver.figures()
        assert driver.took(path), driver.log.read_text()
        return figures

    return run


@pytest.fixture
def run_in_huge_pages(start_driver: Callable[..., VirtioUser]) -> Run:
    """As `run`, with memory that grows."""
    require("huge-pages")

    def run(sockets: Sequence[Path], path: DriverPath, **options: int) -> Figures:
        with huge_pages(mib=_HUGE_MIB):
            return start_driver(sockets, path.devargs, huge=True, **options).figures()

    return run
