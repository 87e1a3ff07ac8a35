"""Asks a running back-end of ours by its control socket."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from .errors import RunFailedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["query_rings"]

_SECONDS = 5.0


def query_rings(path: Path) -> list[dict[str, Any]]:
    """Return what `query-rings` answers.

    Raises:
        RunFailedError: no answer, or a refusal.
    """
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_SECONDS)
            sock.connect(str(path))
            with sock.makefile("rw") as stream:
                stream.readline()
                for name in ("qmp_capabilities", "query-rings"):
                    stream.write(json.dumps({"execute": name, "id": name}) + "\n")
                    stream.flush()
                    answer = _answer(stream, name)
    except (OSError, ValueError) as error:
        raise RunFailedError(f"the control socket gave no answer: {error}") from error
    if not isinstance(answer, list):
        raise RunFailedError(f"query-rings answered {answer}")
    return answer


def _answer(stream: Any, name: str) -> Any:
    """Return the answer to a command; events may come in between."""
    for line in stream:
        message = json.loads(line)
        if message.get("id") == name:
            if "return" not in message:
                raise ValueError(message)
            return message["return"]
    raise ValueError("the connection ended")
