"""Talks to a program that measures: it says a line of JSON when it has got somewhere, and waits."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from typing import TYPE_CHECKING

from .errors import RunFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Conversation"]

_PATIENCE_SECONDS = 60.0
_TOLD = 1500
"""Characters of what it said on its standard error that are worth telling."""


class Conversation:
    """A running program. Make it with `with Conversation.with_program(command, log=...)`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._heard = b""

    @classmethod
    @contextlib.contextmanager
    def with_program(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Conversation]:
        """Run a program for the length of the block.

        Args:
            command: the program with its arguments.
            log: where its standard error goes.
            folder: where to start it.
            environment: added to ours.
        """
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                cwd=folder,
                env=os.environ | (environment or {}),
            ) as process,
        ):
            try:
                yield cls(process, log)
            finally:
                process.kill()

    def _complaint(self) -> RunFailedError:
        told = self._log.read_text(errors="replace")[-_TOLD:]
        return RunFailedError(f"the client failed: {told}")

    def _line(self) -> bytes:
        """Return the next line of its standard output."""
        assert self._process.stdout is not None
        end = time.monotonic() + _PATIENCE_SECONDS
        while b"\n" not in self._heard:
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            more = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                raise self._complaint()
            self._heard += more
        line, self._heard = self._heard.split(b"\n", 1)
        return line

    def hear(self) -> dict[str, float]:
        """Return what it says next; libraries in it may have said other things before.

        Raises:
            RunFailedError: it ended, or says nothing for a long time.
        """
        while not (line := self._line()).startswith(b"{"):
            pass
        said: dict[str, float] = json.loads(line)
        return said

    def go_on(self) -> None:
        """Let it go on.

        Raises:
            RunFailedError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
        except BrokenPipeError as error:
            raise self._complaint() from error

    def leave(self, *, status: int = 0) -> None:
        """Let it leave, and see that it can.

        Raises:
            RunFailedError: it hangs, or ends with another status.
        """
        with contextlib.suppress(RunFailedError):  # it may leave by itself
            self.go_on()
        try:
            ended = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RunFailedError("the client does not end") from error
        if ended != status:
            raise self._complaint()
