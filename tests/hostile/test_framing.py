"""Items 1-14 of the catalogue: headers, sizes, order and the end of the stream."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import FRONT_END_ROWS, ProtocolFeatures
from vhostuser.testing import NEED_REPLY, VERSION, raw_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NUMBERS = {row.name: row.number for row in FRONT_END_ROWS}
GET_FEATURES = NUMBERS["GET_FEATURES"]
SET_OWNER = NUMBERS["SET_OWNER"]
SET_STATUS = NUMBERS["SET_STATUS"]
SHORT = 0.05
"""Seconds that a stalled front-end is given where a deadline is what is tested."""


def bad_flags(flags: int) -> Callable[[Any], Awaitable[None]]:
    data = raw_message(SET_OWNER, flags=flags)
    return lambda served: served.closes(data, field="flags")


def too_large(size: int) -> Callable[[Any], Awaitable[None]]:
    data = raw_message(SET_STATUS, flags=VERSION | NEED_REPLY, size=size)
    return lambda served: served.closes(data, message="SET_STATUS", field="size")


def wrong_size(size: int) -> Callable[[Any], Awaitable[None]]:
    return lambda served: served.refuses("SET_STATUS", bytes(size), field="size")


def cut_header(length: int) -> Callable[[Any], Awaitable[None]]:
    async def case(served: Any) -> None:
        async with served.raw() as front_end:
            await front_end.send(raw_message(GET_FEATURES)[:length])
            front_end.half_close()
            await front_end.wait_closed()
        served.complained_once()

    return case


async def silence_in_a_header(served: Any) -> None:
    served.server.seconds = SHORT
    async with served.raw() as front_end:
        await front_end.send(raw_message(GET_FEATURES)[:5])
        await front_end.wait_closed()
    served.complained_once()
    served.server.seconds = 600


async def end_in_a_payload(served: Any) -> None:
    async with served.raw() as front_end:
        await front_end.message(SET_STATUS, bytes(3), size=8)
        front_end.half_close()
        await front_end.wait_closed()
    served.complained_once()


async def byte_by_byte(served: Any) -> None:
    async with served.raw() as front_end:
        for byte in raw_message(SET_STATUS, bytes(8), flags=VERSION | NEED_REPLY):
            await front_end.send(bytes([byte]))
        assert (await front_end.reply()).value == 0


async def two_in_one_write(served: Any) -> None:
    async with served.raw() as front_end:
        status = raw_message(SET_STATUS, struct.pack("=Q", 7), flags=VERSION | NEED_REPLY)
        await front_end.send(status + raw_message(NUMBERS["GET_STATUS"]))
        assert (await front_end.reply()).value == 0
        assert (await front_end.reply()).value == 7


async def thousand_in_one_write(served: Any) -> None:
    async with served.raw() as front_end, trio.open_nursery() as nursery:
        nursery.start_soon(front_end.send, raw_message(GET_FEATURES) * 1000)
        replies = {(await front_end.reply()).payload for _ in range(1000)}
        assert len(replies) == 1


def unknown(number: int) -> Callable[[Any], Awaitable[None]]:
    async def case(served: Any) -> None:
        async with served.raw() as front_end:
            reply = await front_end.ask(number, bytes(8))
            assert (reply.number, reply.flags, reply.value) == (number, 0x5, 1)
            await served.still_answers(front_end)
        served.complained_once(field="request")
        await served.closes(raw_message(number), field="request")

    return case


def gated(name: str, size: int) -> Callable[[Any], Awaitable[None]]:
    async def case(served: Any) -> None:
        served.protocol = ProtocolFeatures.REPLY_ACK
        await served.refuses(name, bytes(size), field="request")

    return case


async def ack_asked_of_a_message_with_a_reply(served: Any) -> None:
    async with served.raw() as front_end:
        for name in ("GET_FEATURES", "GET_QUEUE_NUM", "GET_STATUS"):
            flags = VERSION | NEED_REPLY
            reply = await front_end.ask(NUMBERS[name], flags=flags)
            assert (reply.number, reply.flags) == (NUMBERS[name], 0x5)
        await served.still_answers(front_end)


async def ack_asked_without_the_feature(served: Any) -> None:
    async with served.raw(negotiated=False) as front_end:
        await front_end.message(SET_OWNER, flags=VERSION | NEED_REPLY)
        await served.still_answers(front_end)


async def answers_not_read(served: Any) -> None:
    served.server.seconds = SHORT
    async with served.raw() as front_end:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                await front_end.send(raw_message(GET_FEATURES) * 100)
    served.complained_once()
    served.server.seconds = 600


async def end_between_messages(served: Any) -> None:
    async with served.raw() as front_end:
        await served.still_answers(front_end)
    assert served.complaints() == []


async def half_close(served: Any) -> None:
    async with served.raw() as front_end:
        await front_end.message(GET_FEATURES)
        front_end.half_close()
        assert (await front_end.reply()).number == GET_FEATURES
        await front_end.wait_closed()
    assert served.complaints() == []


async def reset_with_an_answer_unread(served: Any) -> None:
    async with served.raw() as front_end:
        await front_end.message(GET_FEATURES)
        await trio.lowlevel.wait_readable(front_end.sock)
        front_end.reset()
    assert served.complaints() == []


GATED = {
    f"10-{row.name.lower().replace('_', '-')}": gated(row.name, row.payload.min_size)
    for row in FRONT_END_ROWS
    if row.feature is not None and row.feature.name != "REPLY_ACK"
}
CASES = {
    "01-version-0": bad_flags(0),
    "01-version-2": bad_flags(2),
    "01-version-3": bad_flags(3),
    **{f"02-header-cut-at-{length}": cut_header(length) for length in range(1, 12)},
    "02-silence": silence_in_a_header,
    "03-size-4g": too_large(0xFFFFFFFF),
    "03-size-4097": too_large(4097),
    "03-config-257": lambda served: served.refuses("GET_CONFIG", bytes(12 + 257), field="size"),
    "04-payload-cut": end_in_a_payload,
    "05-plus-1": wrong_size(9),
    "05-plus-8": wrong_size(16),
    "05-plus-4096": too_large(8 + 4096),
    "05-minus-1": wrong_size(7),
    "05-zero": wrong_size(0),
    "06-byte-by-byte": byte_by_byte,
    "06-two-in-one-write": two_in_one_write,
    "06-thousand-in-one-write": thousand_in_one_write,
    "07-reply-bit": bad_flags(VERSION | 0x4),
    "08-reserved-bit-4": bad_flags(VERSION | 1 << 4),
    "08-reserved-bit-31": bad_flags(VERSION | 1 << 31),
    "09-id-0": unknown(0),
    "09-id-46": unknown(46),
    "09-id-65535": unknown(65535),
    "09-id-4g": unknown(0xFFFFFFFF),
    **GATED,
    "11-ack-asked-of-a-reply": ack_asked_of_a_message_with_a_reply,
    "12-ack-without-feature": ack_asked_without_the_feature,
    "13-answers-not-read": answers_not_read,
    "14-end-between-messages": end_between_messages,
    "14-end-in-payload": end_in_a_payload,
    "14-half-close": half_close,
    "14-reset": reset_with_an_answer_unread,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any) -> None:
    async with serving() as served:
        await case(served)
