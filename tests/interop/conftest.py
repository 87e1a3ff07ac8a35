"""Our back-end as a process, and the peers that talk to it.

The back-end is what a user starts: `python -m vhostuser blk …`, or another of its commands. Every
test ends it with SIGTERM and expects status 0, no warning and no traceback: real peers send nothing
that deserves one.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from parts.require import require

from vhostuser.testing.guest import GuestFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_HERE = Path(__file__).parent
_START_SECONDS = 30
# The promise is one second; the rest is for a machine that is busy with other tests.
_END_SECONDS = 5
_DEAD = 137


@dataclass(kw_only=True)
class Backend:
    """A running back-end.

    Attributes:
        process: as which it runs.
        socket: where it serves.
        control: where it takes commands.
        troubles: words of those warnings and errors that it is expected to log.
    """

    process: subprocess.Popen[str]
    socket: Path
    control: Path
    troubles: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def read_log(self) -> None:
        """Collect what it logs until it ends; runs in a thread."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        with self.news:
            return "".join(self.lines)

    def wait_for_log(self, text: str) -> None:
        """Wait until a log line holds `text`; fail when it ends or stays silent."""
        with self.news:
            self.news.wait_for(
                lambda: self.ended or any(text in line for line in self.lines), _START_SECONDS
            )
        assert text in self.log, f"the back-end did not log {text!r} but:\n{self.log}"

    def expect_death(self) -> None:
        """Wait until a fault that was asked for has ended it, at once and without a word."""
        assert self.process.wait(_START_SECONDS) == _DEAD, self.log

    def terminate(self) -> None:
        """End it as a user would, and hold it to its promises."""
        self.process.send_signal(signal.SIGTERM)
        self.expect_end()

    def expect_end(self, status: int = 0) -> None:
        assert self.process.wait(_END_SECONDS) == status, self.log
        with self.news:
            self.news.wait_for(lambda: self.ended, _END_SECONDS)
        with self.news:
            lines = [line for line in self.lines if not any(map(line.count, self.troubles))]
        for word in ("Traceback", "WARNING", "ERROR", "CRITICAL", "ResourceWarning"):
            assert not any(word in line for line in lines), self.log
        assert not self.socket.exists(), "the socket's path is removed at the end"


class StartBackend(Protocol):
    """Starts a command with further arguments, listening on a socket of its own.

    The control socket is left out for commands that have none. Words that come `before` the
    command say where it runs: in a network namespace.
    """

    def __call__(
        self, *arguments: object, command: str = "blk", before: Sequence[str] = ()
    ) -> Backend: ...


@pytest.fixture
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBackend]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: object, command: str = "blk", before: Sequence[str] = ()) -> Backend:
            folder = tmp_path_factory.mktemp("s")  # short: a socket's path holds 107 bytes
            socket, control = folder / "blk", folder / "control"
            words = [*before, sys.executable, "-X", "dev", "-m", "vhostuser", *command.split()]
            words += ["--socket-path", str(socket)]
            if not command.startswith("simulate"):
                words += ["--control", str(control)]
            process = stack.enter_context(
                subprocess.Popen(
                    [*words, *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            stack.callback(process.kill)
            started = Backend(process=process, socket=socket, control=control)
            reader = threading.Thread(target=started.read_log)
            reader.start()
            stack.callback(reader.join)
            stack.callback(process.kill)
            started.wait_for_log("simulating" if command.startswith("simulate") else "serving ")
            stack.callback(_end, started)
            return started

        yield start


def _end(backend: Backend) -> None:
    if backend.process.returncode is None:
        backend.terminate()


@pytest.fixture(params=["qemu-7", "qemu-10"])
def qemu(request: pytest.FixtureRequest) -> str:
    """The program of each QEMU that is to work with us."""
    return str(require(request.param) / "qemu-system-x86_64")


@pytest.fixture
def guest_files() -> GuestFiles:
    return GuestFiles.in_folder(require("guest"))


@pytest.fixture(scope="session")
def compiler() -> str:
    found = shutil.which("gcc")
    assert found is not None, "gcc is not on this machine; `make build` installs it"
    return found


@pytest.fixture(scope="session")
def blkio_verify(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our client on top of libblkio, compiled."""
    libblkio = require("libblkio")
    program = tmp_path_factory.mktemp("blkio") / "blkio_verify"
    flags = ["-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{libblkio}/include"]
    libraries = [f"-L{libblkio}/lib", "-lblkio", f"-Wl,-rpath,{libblkio}/lib"]
    source = _HERE / "blkio_verify.c"
    command = [compiler, *flags, "-o", str(program), str(source), *libraries]
    subprocess.run(command, check=True)
    return program


@pytest.fixture(scope="session")
def boot_sector(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The boot sector of boot_sector.S, assembled: 512 bytes."""
    out = tmp_path_factory.mktemp("boot") / "sector"
    layout = "-Wl,-Ttext=0x7c00,--oformat=binary,-N,--build-id=none"
    source = _HERE / "boot_sector.S"
    subprocess.run([compiler, "-m32", "-nostdlib", layout, "-o", out, source], check=True)
    sector = out.read_bytes()
    assert len(sector) == 512
    return sector


@pytest.fixture
def verify(blkio_verify: Path) -> Callable[..., str]:
    """Runs the libblkio client on a back-end; returns what it printed when all was right."""

    def run(backend: Backend, mode: str, *, queues: int = 1, mib: int = 16) -> str:
        command = [str(blkio_verify), str(backend.socket), mode, str(queues), str(mib << 20)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{backend.log}"
        return done.stdout

    return run
