"""The log: one record a line whatever is in it, never too many, and nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import re

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from vhostuser import log

HOSTILE = "name\nERROR forged: line\r\x1b[2J\x9b31m\u2028\u202etxt\x00\x7f"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Logged:
    """A sink on a pipe, and what came out of it."""

    def __init__(self):
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self.clock = Clock()
        self.sink = log.Sink(self.writing, self.clock)
        self.logger = logging.Logger("vhostuser.test")  # noqa: LOG001 - its own
        self.logger.addHandler(self.sink)

    def lines(self):
        self.sink.flush()
        os.set_blocking(self.reading, False)
        try:
            return os.read(self.reading, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def logged():
    made = Logged()
    yield made
    made.sink.flush()
    os.close(made.reading)
    os.close(made.writing)


def test_a_record_is_a_line_of_text_with_what_it_is_about(logged):
    with log.bound(disk="one"), log.bound(connection=7):
        logged.logger.warning("refused: %s", "a request")
    logged.logger.info("on its own")
    first, second = logged.lines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    assert re.fullmatch(
        stamp + r"WARNING vhostuser.test \[disk=one connection=7\]: refused: a request", first
    )
    assert re.fullmatch(stamp + "INFO vhostuser.test: on its own", second)


def test_a_record_is_a_json_object_with_what_it_is_about(logged):
    logged.sink.configure(log_format="json")
    with log.bound(disk="one", connection=7):
        logged.logger.warning("refused: %s", "x", extra={"fields": {"value": 3, "rule": "none"}})
    (line,) = logged.lines()
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", record.pop("time"))
    assert record == {
        "level": "warning",
        "logger": "vhostuser.test",
        "message": "refused: x",
        "disk": "one",
        "connection": 7,
        "fields": {"value": 3, "rule": "none"},
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_in_a_record_begins_a_line_or_moves_the_cursor(logged, log_format):
    logged.sink.configure(log_format=log_format)
    logged.logger.warning("refused: %s", HOSTILE)
    (line,) = logged.lines()
    assert line.isprintable()
    assert "forged" in line


@settings(deadline=None)
@given(st.text())
def test_any_text_becomes_part_of_a_line(text):
    made = log.plain(text)
    assert len(made.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f]", made)
    made.encode()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_cannot_be_mistaken_for_a_record(logged, log_format):
    logged.sink.configure(log_format=log_format)
    error = ZeroDivisionError(HOSTILE)
    logged.logger.error("a bug", exc_info=error)
    lines = logged.lines()
    if log_format == "json":
        (line,) = lines
        assert "ZeroDivisionError" in json.loads(line)["traceback"]
    else:
        assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])
        assert "ZeroDivisionError" in "".join(lines)


def test_many_alike_are_counted_instead_of_logged(logged):
    for number in range(1000):
        logged.logger.warning("refused: %d", number)
    logged.logger.warning("something else")
    assert len(logged.lines()) == 20 + 1 + 1  # the first ones, the other one, and the count
    logged.clock.now += 3
    for number in range(4):
        logged.logger.warning("refused: %d", number)
    *passed, count = logged.lines()
    assert [line.rpartition("refused: ")[2] for line in passed] == ["0", "1", "2"]
    assert "1 similar messages suppressed within 0.1 s, the first of them: refused: 3" in count


def test_the_count_comes_before_the_next_of_the_kind_and_after_a_while_anyway(logged):
    for _ in range(25):
        logged.logger.warning("refused")
    logged.clock.now += 2
    logged.logger.warning("refused")
    *_, count, last = logged.lines()
    assert "5 similar messages suppressed within 0.1 s" in count
    assert last.endswith(": refused")
    for _ in range(25):
        logged.logger.warning("closed")
    logged.clock.now += 0.5
    logged.logger.warning("closed")
    logged.clock.now += 10
    logged.logger.warning("something else")
    *_, count, last = logged.lines()
    assert "6 similar messages suppressed within 0.5 s, the first of them: closed" in count
    assert last.endswith("something else")


@pytest.mark.parametrize("word", ["disk", "port"])
def test_one_disk_s_or_port_s_flood_does_not_silence_another(logged, word):
    with log.bound(**{word: "bad"}):
        for _ in range(100):
            logged.logger.warning("refused")
    with log.bound(**{word: "good"}):
        logged.logger.warning("refused")
    assert sum(f"{word}=good" in line for line in logged.lines()) == 1


def test_whoever_asks_for_every_message_gets_every_message(logged):
    for number in range(100):
        logged.logger.debug("message %d", number)
    assert len(logged.lines()) == 100


def test_the_number_of_kinds_that_are_counted_is_bounded():
    limiter = log.Limiter(Clock())
    for number in range(10_000):
        assert limiter.passes(number)
    assert len(limiter._buckets) == log._MOST_KEYS


def test_a_log_that_nobody_reads_loses_lines_and_says_so_later(logged):
    for number in range(5000):  # far more than a pipe and the queue hold
        logged.logger.debug("%s %d", "x" * 200, number)
    os.set_blocking(logged.reading, False)
    read = b""
    while b"4999" not in read:
        logged.sink.flush()
        try:
            while True:
                read += os.read(logged.reading, 1 << 20)
        except BlockingIOError:
            pass
        logged.logger.debug("4999")
    assert b"log lines were lost before this one" in read


@pytest.mark.parametrize("broken", ["a closed pipe", "a full disk"])
def test_a_log_that_cannot_be_written_stops_nobody(broken):
    if broken == "a full disk":
        writing = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    else:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.close(reading)
    sink = log.Sink(writing)
    logger = logging.Logger("vhostuser.test")  # noqa: LOG001 - its own
    logger.addHandler(sink)
    for _ in range(3):
        logger.warning("refused")
        sink.flush()
    os.close(writing)


async def test_a_task_and_its_children_say_what_they_are_about(logged):
    async def child():
        logged.logger.info("from the child")

    async def task():
        log.bind(disk="one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await trio.to_thread.run_sync(logged.logger.info, "from a thread")

    with log.bound(client=1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
        logged.logger.info("from outside")
    child_line, thread_line, outside = logged.lines()
    assert "[disk=one]: from the child" in child_line
    assert "[disk=one]: from a thread" in thread_line
    assert "[client=1]: from outside" in outside


def test_the_level_of_others_is_as_before_afterwards(capfd):
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    with log.written() as sink:
        sink.configure(level="error")
        logging.getLogger("vhostuser.test").warning("not said")
        logging.getLogger("vhostuser.test").error("said")
    assert (root.level, root.handlers[:]) == before
    assert capfd.readouterr().err.count("said") == 1
