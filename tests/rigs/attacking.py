"""A hostile process beside a test: it attacks for the length of a block."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import ModuleType

__all__ = ["attacked"]


@contextlib.asynccontextmanager
async def attacked(
    load: ModuleType, attack: str, path: Path, *arguments: str
) -> AsyncIterator[None]:
    """The attack is in full swing from the beginning of the block to its end, and did not fail.

    Args:
        load: the program that carries attacks out. It says the attack's name once that has begun.
        attack: one that it knows.
        path: the socket of what is attacked.
        arguments: what else it needs.
    """
    assert load.__file__ is not None
    command = [sys.executable, load.__file__, attack, os.fspath(path), *arguments]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            assert await process.stdout.receive_some() == f"{attack}\n".encode()
            yield
            await process.stdin.send_all(b"\n")
            assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
