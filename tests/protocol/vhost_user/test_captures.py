"""Real peers' recorded traffic decodes, re-encodes byte for byte, and is legal in both roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol import vhost_user as v
from vhostuser.testing import CountingFd

FOLDER = Path(__file__).parents[2] / "captures"
FILES = sorted(FOLDER.glob("vhost-user-*.jsonl"))


def messages_of(file: Path) -> list[dict[str, Any]]:
    records = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [record for record in records if "hex" in record]


def feed(connection: v.Connection, data: bytes, fds: tuple[CountingFd, ...]) -> Any:
    received = connection.receive(data[: v.HEADER_SIZE], fds)
    if received is None:
        received = connection.receive(data[v.HEADER_SIZE :])
    return received


def conversations(file: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for record in messages_of(file):
        assert record["ch"] == "main"
        found.setdefault(record["conn"], []).append(record)
    return found


def test_all_captures_are_here() -> None:
    assert len(FILES) == 5
    assert sum(len(messages_of(file)) for file in FILES) == 422


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recorded_message_decodes_and_re_encodes_byte_for_byte(file: Path) -> None:
    asked: dict[int, v.MessageRow] = {}
    for record in messages_of(file):
        data = bytes.fromhex(record["hex"])
        header = v.Header.parse(data[: v.HEADER_SIZE])
        row = v.CURRENT.row(v.Channel.FRONT_END, header.number)
        assert row is not None
        assert record["name"] == row.name + ("_REPLY" if header.is_reply else "")
        kind, layout = row.message, row.payload
        if header.is_reply:
            has_own = row.reply.kind is not v.ReplyKind.NONE and row.reply.kind is not (
                v.ReplyKind.POSTCOPY
            )
            rule = row.reply if has_own else v.ACK
            kind, layout = rule.message, rule.payload
        message = kind.from_fields(layout.parse(data[v.HEADER_SIZE :]))
        assert header.build() + layout.build(message.to_fields()) == data
        assert len(data) == v.HEADER_SIZE + header.size
        asked[header.number] = row
    assert len(asked) > 10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_back_end_connection_takes_the_recording_and_gives_the_recorded_answers(
    file: Path,
) -> None:
    for conversation in conversations(file).values():
        back_end = v.Connection(v.Role.BACK_END)
        records = iter(conversation)
        for record in records:
            assert record["dir"] == "f2b"
            fds = tuple(CountingFd() for _ in range(record["fds"]))
            request = feed(back_end, bytes.fromhex(record["hex"]), fds)
            assert isinstance(request, v.Request)
            assert request.fds == fds
            assert back_end.wanted == 0
            answer, expected = recorded_answer(request, records)
            reply_fds = tuple(CountingFd() for _ in range(expected["fds"] if expected else 0))
            outgoing = back_end.accept(request, answer, reply_fds)
            assert (outgoing.data.hex() if outgoing else None) == (
                expected["hex"] if expected else None
            )
            assert back_end.wanted == v.HEADER_SIZE
        back_end.receive_eof()
        assert back_end.state is v.ConnectionState.CLOSED


def recorded_answer(request: v.Request, records: Any) -> tuple[Any, dict[str, Any] | None]:
    row = request.row
    has_own = row.reply.kind not in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY)
    if not has_own and not request.need_reply:
        return None, None
    expected = next(records, None)
    if expected is None:  # the back-end was killed before it answered
        return own_answer(request), None
    assert expected["dir"] == "b2f"
    if not has_own:
        return None, expected
    payload = bytes.fromhex(expected["hex"])[v.HEADER_SIZE :]
    return row.reply.message.from_fields(row.reply.payload.parse(payload)), expected


def own_answer(request: v.Request) -> v.Message:
    assert isinstance(request.message, v.GetVringBase)
    return v.VringState(index=request.message.index, num=0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_front_end_connection_makes_the_recorded_requests_and_takes_the_answers(
    file: Path,
) -> None:
    for conversation in conversations(file).values():
        front_end = v.Connection(v.Role.FRONT_END)
        for record in conversation:
            data = bytes.fromhex(record["hex"])
            fds = tuple(CountingFd() for _ in range(record["fds"]))
            if record["dir"] == "b2f":
                reply = feed(front_end, data, fds)
                assert isinstance(reply, v.Reply)
                assert reply.fds == fds
                continue
            row = v.CURRENT.row(v.Channel.FRONT_END, record["req"])
            assert row is not None
            message = row.message.from_fields(row.payload.parse(data[v.HEADER_SIZE :]))
            need_reply = v.Header.parse(data[: v.HEADER_SIZE]).need_reply
            outgoing = front_end.request(message, fds=fds, need_reply=need_reply)
            assert outgoing.data == data
            assert outgoing.fds == fds
        assert front_end.pending <= 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_after_a_recording_that_ends_in_order_all_rings_are_stopped(file: Path) -> None:
    for number, conversation in conversations(file).items():
        front_end = v.Connection(v.Role.FRONT_END)
        for record in conversation:
            data = bytes.fromhex(record["hex"])
            fds = tuple(CountingFd() for _ in range(record["fds"]))
            if record["dir"] == "b2f":
                feed(front_end, data, fds)
                continue
            row = v.CURRENT.row(v.Channel.FRONT_END, record["req"])
            assert row is not None
            message = row.message.from_fields(row.payload.parse(data[v.HEADER_SIZE :]))
            need_reply = v.Header.parse(data[: v.HEADER_SIZE]).need_reply
            front_end.request(message, fds=fds, need_reply=need_reply)
        was_killed = "reconnect" in file.stem and number == 1
        assert front_end.run is (v.DeviceRun.RUNNING if was_killed else v.DeviceRun.SUSPENDED)
