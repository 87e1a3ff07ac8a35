"""The log: one record a line, as text or JSON, with the disk and connection that it is about.

Whatever a guest or front-end causes is limited here, and can neither begin a line of its own nor
move a terminal's cursor. Lines are written by a thread: a log that nobody reads, or that is on a
full disk, loses lines (and says so when it can) but stops nobody. Modules log through `logging`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import re
import select
import threading
import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Limiter", "Sink", "bind", "bound", "plain", "written"]

_context: ContextVar[Mapping[str, object]] = ContextVar("vhostuser_log")
_NOTHING: Mapping[str, object] = {}

# Control characters, line ends of every script, and what changes the direction of writing.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_BURST = 20
_PER_SECOND = 1.0
_MOST_KEYS = 1024
_MOST_LINES = 1000
_FLUSH_SECONDS = 0.5
_HELD_SECONDS = 5.0
_LONGEST_QUOTE = 200
_SHORTEST_SPAN = 0.1
_COUNT = "(count)"
_STDERR = 2


def bind(**fields: object) -> None:
    """Name what every record of this task, and of the tasks that it starts, is about from now on.

    Args:
        fields: for example the disk or the connection, text or numbers of our own making; what was
            inherited from the task that started this one is forgotten.
    """
    _context.set(fields)


@contextlib.contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Name what else every record of the block is about. Args: see `bind`."""
    token = _context.set({**_context.get(_NOTHING), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def plain(text: str) -> str:
    """Return text with everything escaped that is no printable part of a line."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Limiter:
    """Lets each kind of message through a number of times at once, then one a second.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[object, _Bucket] = {}

    def passes(self, key: object) -> bool:
        """Count one message of the kind `key`; return whether it may be logged."""
        now = self._clock()
        bucket = self._buckets.pop(key, None) or _Bucket(_BURST, now)
        self._buckets[key] = bucket  # the last used is the last to be forgotten
        while len(self._buckets) > _MOST_KEYS:
            del self._buckets[next(iter(self._buckets))]
        bucket.tokens = min(_BURST, bucket.tokens + (now - bucket.filled) * _PER_SECOND)
        bucket.filled = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


@dataclass(slots=True)
class _Held:
    """Messages of one kind that were not logged."""

    since: float
    until: float
    line: str
    count: int = 0

    def add(self, now: float) -> None:
        """Count one more."""
        self.count += 1
        self.until = now

    def told(self) -> str:
        """Return the line that stands for them."""
        span = max(self.until - self.since, _SHORTEST_SPAN)
        what = f"{self.count} similar messages suppressed within {span:.1f} s"
        return self.line.replace(_COUNT, what)


class _Writer:
    """Writes lines to a descriptor from a thread of its own, as far as that takes them.

    Args:
        fd: where to; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Queue a line, or count it as lost."""
        with self._changed:
            if len(self._lines) >= _MOST_LINES:
                self._lost += 1
                return
            self._lines.append(line)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, but no longer than `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._busy, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._busy = True
                line, lost = self._lines.popleft(), self._lost
                self._lost = 0
            text = f"({lost} log lines were lost before this one)\n".encode() if lost else b""
            if not self._write(text + line):
                with self._changed:
                    self._lost += lost + 1

    def _write(self, data: bytes) -> bool:
        """Write all of a line; return whether that was possible."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody made the descriptor non-blocking
                select.select([], [self._fd], [], 1)
            except OSError:
                return False
        return True


class Sink(logging.Handler):
    """Where records go: limited, formatted, written.

    Args:
        fd: where to; it stays the caller's.
        clock: seconds that only grow.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._writer = _Writer(fd)
        self._clock = clock
        self._limiter = Limiter(clock)
        self._held: dict[object, _Held] = {}
        self._format: Callable[[logging.LogRecord, Mapping[str, object]], str] = text_line

    def configure(self, *, log_format: str | None = None, level: str | None = None) -> None:
        """Change how records are written, and which.

        Args:
            log_format: "text" or "json"; None: as before.
            level: "debug", "info", "warning" or "error"; None: as before.
        """
        if log_format is not None:
            self._format = json_line if log_format == "json" else text_line
        if level is not None:
            logging.getLogger().setLevel(level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, unless too many of its kind came."""
        try:
            context = _context.get(_NOTHING)
            key = (_whose(context), record.name, record.levelno, record.msg)
            # Whoever asks for every message gets every message.
            if record.levelno <= logging.DEBUG or self._limiter.passes(key):
                self._tell_held(key)
                self._write(self._format(record, context))
            else:
                self._hold(key, record, context)
        except Exception:  # noqa: BLE001 - a record that cannot be written harms nobody
            self.handleError(record)

    def _hold(self, key: object, record: logging.LogRecord, context: Mapping[str, object]) -> None:
        """Count a record of this kind instead of writing it."""
        now = self._clock()
        if key not in self._held:
            self._held[key] = _Held(now, now, self._format(_summary(record), context))
        self._held[key].add(now)

    def _tell_held(self, key: object) -> None:
        """Say what was held back of this kind, and of others some time ago."""
        old = self._clock() - _HELD_SECONDS
        for each in [each for each, held in self._held.items() if each == key or held.since < old]:
            self._write(self._held.pop(each).told())

    def _write(self, line: str) -> None:
        self._writer.put(line.encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """Say what was held back, and wait a moment for what is queued."""
        while self._held:
            self._tell_held(next(iter(self._held)))
        self._writer.flush(_FLUSH_SECONDS)


def _whose(context: Mapping[str, object]) -> object:
    """Return the disk or port that a record is about: none can silence another."""
    return context.get("disk", context.get("port"))


def _summary(record: logging.LogRecord) -> logging.LogRecord:
    """Make the record that stands for others like it; how many and how long is not known yet."""
    message = record.getMessage()[:_LONGEST_QUOTE]
    text = f"{_COUNT}, the first of them: {message}"
    return logging.makeLogRecord(
        {
            "name": record.name,
            "levelno": record.levelno,
            "levelname": record.levelname,
            "msg": text,
        }
    )


def text_line(record: logging.LogRecord, context: Mapping[str, object]) -> str:
    """Format a record for people; a traceback follows on lines that begin with blanks."""
    stamp = dt.datetime.fromtimestamp(record.created).astimezone()
    about = " ".join(f"{name}={value}" for name, value in context.items())
    head = f"{stamp:%Y-%m-%d %H:%M:%S},{int(record.msecs):03} {record.levelname} {record.name}"
    lines = [f"{head}{f' [{about}]' if about else ''}: {plain(record.getMessage())}"]
    lines += [f"    {plain(line)}" for line in _traceback(record).splitlines()]
    return "\n".join(lines)


def json_line(record: logging.LogRecord, context: Mapping[str, object]) -> str:
    """Format a record as one JSON object."""
    stamp = dt.datetime.fromtimestamp(record.created, dt.UTC)
    data: dict[str, object] = {
        "time": stamp.isoformat(timespec="microseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **context,
    }
    fields = getattr(record, "fields", None)
    if fields:
        data["fields"] = fields
    if traceback := _traceback(record):
        data["traceback"] = traceback
    return json.dumps(data, default=str)  # ASCII only, so that nothing in it ends a line


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        return logging.Formatter().formatException(record.exc_info)
    return ""


@contextlib.contextmanager
def written(fd: int = _STDERR) -> Iterator[Sink]:
    """Write every record of the block, from level "info" on, as text until configured otherwise.

    Args:
        fd: where to; it stays the caller's, and open for the rest of the process's life.
    """
    root = logging.getLogger()
    level = root.level
    sink = Sink(fd)
    root.addHandler(sink)
    sink.configure(level="info")
    try:
        yield sink
    finally:
        root.setLevel(level)
        root.removeHandler(sink)
        sink.flush()
