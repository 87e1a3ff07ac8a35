"""What tests with a guest need: its image, its script and its findings, and a guest to talk with.

A guest's script prints lines that begin with CHECK, a name and what was found; it may print a word
that a test waits for, then read a line from its console and go on when the test has done its part.
No side ever waits for a time: a machine that does not come to its end is killed, and that fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qemu.qmp import QMPClient

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MIB", "LiveMachine", "checks", "control", "digest", "empty_image", "script"]

MIB = 1 << 20
_SCRIPTS = Path(__file__).parent.parent / "interop"


def script(name: str, **words: object) -> str:
    """Return a script of tests/interop with the functions that all share, and variables set."""
    assignments = "".join(f"{key}={value}\n" for key, value in words.items())
    return (
        f"{(_SCRIPTS / 'guest_functions.sh').read_text()}{assignments}"
        + (_SCRIPTS / name).read_text()
    )


def checks(console: str) -> dict[str, str]:
    """Return the CHECK lines of a guest: the first word of each, and the rest of the line."""
    found = re.findall(r"^CHECK (\S+) ?(.*)$", console, re.MULTILINE)
    assert len({name for name, _ in found}) == len(found), console
    return dict(found)


def digest(image: Path, at: int, count: int) -> str:
    """Return the SHA-256 of `count` MiB of an image, from MiB number `at` on."""
    with image.open("rb") as disk:
        disk.seek(at * MIB)
        return hashlib.sha256(disk.read(count * MIB)).hexdigest()


def empty_image(path: Path, mib: int) -> Path:
    """Make a sparse image."""
    with path.open("wb") as disk:
        disk.truncate(mib * MIB)
    return path


def control(socket: Path, command: str, **arguments: object) -> Any:
    """Execute one command on a control socket and return its answer.

    Raises:
        ExecuteError: the server refused it.
    """

    async def run() -> Any:
        client = QMPClient("guest")
        await client.connect(str(socket))
        try:
            return await client.execute(command, dict(arguments) or None)
        finally:
            await client.disconnect()

    return asyncio.run(run())


@dataclass(kw_only=True)
class LiveMachine:
    """A running machine whose console is its standard input and output.

    Used as a context manager; at its end whatever is left of the machine is killed.

    Args:
        command: program and arguments.
        seconds: how long it may run.
    """

    command: list[str]
    seconds: float
    lines: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        # A session of its own, because user-mode Linux is several processes.
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._late = False
        self._alarm = threading.Timer(self.seconds, self._too_late)
        self._alarm.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._alarm.cancel()
        self._alarm.join()
        self._kill()
        with self._process:  # closes the pipes and collects the process
            pass

    def _too_late(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None or self._others_left():
            os.killpg(self._process.pid, signal.SIGKILL)

    def _others_left(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def console(self) -> str:
        """All that it has printed so far."""
        return "".join(self.lines)

    def wait_for(self, word: str) -> None:
        """Read until a line holds `word`; fail when the machine ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.replace("\r\n", "\n").replace("\r", ""))
            if word in line:
                return
        status = self._process.wait()
        raise AssertionError(
            f"{self._end()} with status {status}, without {word!r}:\n{self.console}"
        )

    def go_on(self) -> None:
        """Let the script go on that waits for a line."""
        self.write("")

    def write(self, line: str) -> None:
        """Type a line on its console."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self._process.pid, number)

    def finish(self) -> str:
        """Read what it still prints, wait for its end, which must be a good one.

        Returns:
            All that it printed.
        """
        assert self._process.stdout is not None
        self.lines += [line.replace("\r", "") for line in self._process.stdout]
        status = self._process.wait()
        assert status == 0, f"{self._end()} with status {status}:\n{self.console}"
        return self.console

    def _end(self) -> str:
        return f"it did not end within {self.seconds:g} s, ended" if self._late else "it ended"
